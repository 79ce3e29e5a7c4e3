"""Bad images are rows, bad commands are sentences, and neither stops the next good one."""

import os
import zipfile
from pathlib import Path

import pytest

from service.batch import sources
from service.batch.sources import open_source
from service.errors import NotFound, ServiceError, Unprocessable
from tests.make import batches, disks, images, maps
from tests.make.bundles import make_bundle, make_chip

LIMIT = 1 << 20
PAGE = 4096


def first_error(place: Path) -> str:
    """Why the first image of a place cannot be read."""
    found = open_source(str(place))
    content = next(iter(found.source.read(found.items[:1], LIMIT)))
    assert isinstance(content, ServiceError)
    return content.detail


def test_bad_files_are_rows_with_a_reason_and_the_rest_is_answered(
    bundle: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "chips"
    batches.write_chips(folder, 4)
    (folder / "broken.tif").write_bytes(b"II*\0rubbish")
    (folder / "empty.png").write_bytes(b"")
    (folder / "gone.npy").symlink_to("nowhere")
    (folder / "other.npy").write_bytes(images.npy(make_chip(1, bands=3)))
    (folder / "wrong name.tif").write_bytes((folder / "chip-00001.npy").read_bytes())
    os.mkfifo(folder / "pipe.npy")
    (folder / "notes.txt").write_text("not an image", encoding="utf-8")
    (folder / ".hidden.tif").write_bytes(b"")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.tif")).write_bytes(b"GIF89a")
    done = batches.batch(folder, tmp_path / "out.parquet", bundle)
    assert done.returncode == 0, done.stderr
    rows = {row["path"]: row for row in batches.rows(tmp_path / "out.parquet")}
    bad = {path: row["error"] for path, row in rows.items() if row["error"]}
    assert set(bad) == {
        *("broken.tif", "empty.png", "gone.npy", "other.npy", "pipe.npy", "\\xff.tif")
    }
    assert bad["gone.npy"] == "the file cannot be read: No such file or directory"
    assert bad["pipe.npy"] == "it is not a plain file"
    assert rows["broken.tif"]["class"] is None and rows["broken.tif"]["probability"] is None
    assert rows["wrong name.tif"]["class"] == rows["chip-00001.npy"]["class"]
    assert "11 images in" in done.stdout and "6 of them bad" in done.stdout
    assert "1 other files were passed over" in done.stdout
    assert bad["empty.png"] in done.stdout and "  broken.tif\n" in done.stdout
    strict = batches.batch(folder, tmp_path / "out.parquet", bundle, "--overwrite", "--fail-on-bad")
    assert strict.returncode == 1 and "6 files are bad" in strict.stderr
    assert len(batches.rows(tmp_path / "out.parquet")) == 11


def test_a_model_that_answers_nan_is_a_reason_too(tmp_path: Path) -> None:
    model = make_bundle(tmp_path / "model", blind_when_bright=True)
    folder = tmp_path / "chips"
    batches.write_chips(folder, 2)
    bright = make_chip(5)
    bright[:] = 65500
    (folder / "bright.npy").write_bytes(images.npy(bright))
    done = batches.batch(folder, tmp_path / "out.parquet", model)
    assert done.returncode == 0, done.stderr
    errors = {row["path"]: row["error"] for row in batches.rows(tmp_path / "out.parquet")}
    assert errors.pop("bright.npy").startswith("local: the model returned probabilities that are")
    assert set(errors.values()) == {None}


def test_if_all_are_bad_the_command_fails_and_the_table_says_why(
    bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "list.txt").write_text("a.tif\nb.tif\n", encoding="utf-8")
    done = batches.batch(tmp_path / "list.txt", tmp_path / "out.parquet", bundle)
    assert done.returncode == 1
    assert done.stderr.endswith("no file could be predicted: the column `error` of OUT says why\n")
    assert [row["path"] for row in batches.rows(tmp_path / "out.parquet")] == ["a.tif", "b.tif"]


def test_the_limits_are_those_of_the_service(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "chips"
    batches.write_chips(folder, 3)
    done = batches.batch(folder, tmp_path / "out.parquet", bundle, SERVICE_MAX_UPLOAD=20_000)
    assert done.returncode == 1
    errors = {row["error"] for row in batches.rows(tmp_path / "out.parquet")}
    assert len(errors) == 2 and all("at most 20000 are read" in error for error in errors)
    wrong = batches.batch(folder, tmp_path / "other.parquet", bundle, SERVICE_MAX_PIXELS="many")
    assert wrong.returncode == 1 and wrong.stderr.startswith("error: SERVICE_MAX_PIXELS")


def test_places_without_images_are_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_bytes(b"x")
    (tmp_path / "list.txt").write_bytes(b"\n\n")
    (tmp_path / "chip.tif").write_bytes(b"II*\0")
    (tmp_path / "binary").write_bytes(b"\0\1\2")
    (tmp_path / "cut.zip").write_bytes(b"PK\3\4 cut off")
    wanted = {
        "nothing": "there is no such file or folder",
        "empty": "there is no image in it: names of images end in .tif",
        "text": "there is no image in it; 1 other files were passed over",
        "list.txt": "there is no image in it",
        "chip.tif": "neither a folder, a zip archive nor a list of paths",
        "binary": "neither a folder, a zip archive nor a list of paths",
        "cut.zip": "cannot be read: it is no zip archive, or cut off",
    }
    for name, sentence in wanted.items():
        with pytest.raises((NotFound, Unprocessable), match=sentence):
            open_source(str(tmp_path / name))


@pytest.mark.parametrize("name", ["../outside.tif", "/etc/chip.tif", "a/../../b.tif", "..\\a.tif"])
def test_an_archive_with_paths_outside_is_refused(name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "chips.zip", "w") as file:
        file.writestr(name, b"x")
    with pytest.raises(Unprocessable, match="a path outside of the archive"):
        open_source(str(tmp_path / "chips.zip"))


def test_an_archive_that_unpacks_to_far_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "BOMB", (200, 1 << 22))  # as a real one takes a minute to pack
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for number in range(8):
            file.writestr(f"{number}.tif", bytes(1 << 20))
    with pytest.raises(Unprocessable, match="would unpack to 8388608 bytes, over 200 times"):
        open_source(str(tmp_path / "bomb.zip"))


def test_entries_that_cannot_be_unpacked_are_bad_files(tmp_path: Path) -> None:
    path = tmp_path / "large.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("large.tif", bytes(LIMIT + 1))
    assert "the file has 1048577 bytes; at most 1048576 are read" in first_error(path)
    whole = tmp_path / "whole.zip"
    with zipfile.ZipFile(whole, "w") as file:
        file.writestr("a.tif", b"0123456789")
    changes = {
        "damaged": (whole.read_bytes().replace(b"0123456789", b"0123456780"), "damaged"),
        "locked": (flagged(whole.read_bytes(), 8, 1), "encrypted"),
        "method": (flagged(whole.read_bytes(), 10, 99), "packed in a way"),
    }
    for name, (content, sentence) in changes.items():
        (tmp_path / f"{name}.zip").write_bytes(content)
        assert sentence in first_error(tmp_path / f"{name}.zip")


def flagged(content: bytes, offset: int, value: int) -> bytes:
    """Change a field of an archive's one entry, in the directory and before the data."""
    changed = bytearray(content)
    directory = content.index(b"PK\1\2")
    changed[directory + offset] = value
    changed[offset - 2] = value
    return bytes(changed)


def test_what_a_mac_adds_to_an_archive_is_no_image(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "chips.zip", "w") as file:
        for name in ("chips/a.tif", "chips/._a.tif", "__MACOSX/chips/a.tif", "chips/.DS_Store"):
            file.writestr(name, b"x")
    found = open_source(str(tmp_path / "chips.zip"))
    assert [item.path for item in found.items] == ["chips/a.tif"] and found.passed_over == 0


def test_a_list_of_windows_names_the_same_files(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfa.tif\r\n\r\nmy chip.tif\r\n")
    assert [item.path for item in open_source(str(tmp_path / "list.txt")).items] == [
        "a.tif",
        "my chip.tif",
    ]


def test_a_command_that_cannot_work_is_refused_at_once(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "chips"
    batches.write_chips(folder, 2)
    there = tmp_path / "there.parquet"
    there.write_bytes(b"mine")
    (tmp_path / "model").mkdir()
    cases = (
        (("out.csv", bundle), "the table is Parquet: name it NAME.parquet"),
        (("no/out.parquet", bundle), "its folder does not exist: make it first"),
        (("there.parquet", bundle), "is there already: take another name, or --overwrite"),
        (("out.parquet", tmp_path / "none"), "--bundle .*: there is no such folder"),
        (("out.parquet", tmp_path / "model"), "the bundle holds nothing; wanted model.json"),
        (("out.parquet", bundle, "--workers=-1"), "--workers -1: take 1 to 1024"),
    )
    for (name, model, *more), sentence in cases:
        done = batches.batch(folder, tmp_path / name, model, *more)
        assert done.returncode == 1, done
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
        assert sentence.split(".*")[-1] in done.stderr
    assert there.read_bytes() == b"mine"
    assert not list(tmp_path.glob(".*.work"))


@pytest.mark.parametrize("after", ["the start", "the model"])
def test_a_full_disk_is_a_sentence_and_the_next_start_goes_on(
    after: str, bundle: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "chips"
    batches.write_chips(folder, 70)
    pages = sum(-(-path.stat().st_size // PAGE) for path in bundle.iterdir())
    room = 0 if after == "the start" else (pages + 1) * PAGE
    with disks.small_disk(tmp_path / "disk", "2m") as disk:
        filler = disk / "filler"
        filler.write_bytes(bytes((2 << 20) - room))
        done = batches.batch(folder, disk / "out.parquet", bundle)
        assert done.returncode == 1, done.stdout
        assert done.stderr.splitlines()[-1].startswith("error: the disk of OUT is full")
        assert ("0 of 70 images" in done.stderr) == (after == "the model")
        assert not (disk / "out.parquet").exists()
        filler.unlink()
        again = batches.batch(folder, disk / "out.parquet", bundle)
        assert again.returncode == 0, again.stderr
        assert len(batches.rows(disk / "out.parquet")) == 70
        assert [path.name for path in disk.iterdir()] == ["out.parquet"]


def test_a_model_of_another_input_makes_every_file_bad(tmp_path: Path) -> None:
    folder = tmp_path / "chips"
    batches.write_chips(folder, 2)
    done = batches.batch(folder, tmp_path / "out.parquet", maps.make_bundle(tmp_path / "model"))
    assert done.returncode == 1 and "no file could be predicted" in done.stderr
    assert "64 x 64 pixels, wanted 32 x 32" in batches.rows(tmp_path / "out.parquet")[0]["error"]
