"""Folders as people have them: every image is taken or counted, whatever the layout."""

import json
import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import pytest
from PIL import Image

from pipeline.errors import DataError, SourceError
from pipeline.ingest import ingest
from pipeline.sources.folder import Folder, find_images
from tests.conftest import chip


def put(folder: Path, paths: Iterable[str]) -> Path:
    """Write an image of its own to each path."""
    for index, path in enumerate(sorted(paths)):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(chip(index % 5, index)).save(folder / path)
    return folder


def each(*folders: str, suffix: str = ".png", count: int = 3) -> list[str]:
    return [f"{folder}/{index}{suffix}" for folder in folders for index in range(count)]


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        (each("maize", "rye"), each("maize", "rye")),
        (each("bus", "car", "train"), each("bus", "car", "train")),
        (each("rye", "wheat/campaign-0"), ["rye/0.png", "wheat/campaign-0_0.png"]),
        (each("archive/images/maize", "archive/images/rye"), each("maize", "rye")),
        (each("Train/maize", "Train/rye", "Test/maize"), ["train/maize/0.png", "test/maize/0.png"]),
        (each("training/rye", "val/rye", "testing/rye"), ["validation/rye/0.png"]),
        (each("train/rye/north", "valid/rye"), ["train/rye/north_0.png", "validation/rye/0.png"]),
        (each("TRAIN/train", "TRAIN/bus"), ["train/train/0.png", "train/bus/0.png"]),
    ],
)
def test_every_image_of_a_usual_layout_is_taken(
    tmp_path: Path, layout: list[str], expected: list[str]
) -> None:
    found = find_images(put(tmp_path, layout))
    assert len(found.images) == len(layout)
    assert set(expected) <= set(found.images)
    assert not found.passed_over


def test_links_to_folders_are_followed_and_never_in_a_circle(tmp_path: Path) -> None:
    put(tmp_path / "nas", each("wheat"))
    mine = put(tmp_path / "mine", each("rye"))
    (mine / "wheat").symlink_to(tmp_path / "nas/wheat")
    (mine / "rye/again").symlink_to(mine / "rye")
    (mine / "rye/gone.png").symlink_to(tmp_path / "nowhere.png")
    found = find_images(mine)
    assert list(found.images) == sorted(each("rye", "wheat"))
    assert found.passed_over == {"a link to a folder around it": 1, "a broken link": 1}


def test_files_that_are_not_taken_are_counted_by_reason(tmp_path: Path) -> None:
    put(tmp_path, [*each("maize", "rye"), *each("maize", suffix=".webp", count=2), "loose.png"])
    (tmp_path / "rye/notes.txt").write_text("wet")
    (tmp_path / "rye/.DS_Store").write_text("of the system")
    put(tmp_path, ["rye/._0.png", ".ipynb_checkpoints/0.png"])
    assert find_images(tmp_path).passed_over == {
        "ends in .webp": 2,
        "ends in .txt": 1,
        "hidden": 3,
        "not in the directory of a class": 1,
    }


def test_one_class_written_in_two_ways_of_unicode_is_one(tmp_path: Path) -> None:
    forms = [unicodedata.normalize(form, "forêt") for form in ("NFC", "NFD")]
    put(tmp_path, [f"{forms[0]}/a.png", f"{forms[1]}/b.png", "pré/c.png"])
    assert Folder(tmp_path).dataset().classes == (forms[0], "pré")


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        (
            [*each("maize"), *each("wheat", suffix=".webp")],
            r"the class wheat has no image that is taken \(3 ends in .webp\)",
        ),
        (
            each("train/maize", "test/maize", "extra"),
            "test, train look like splits, extra beside them does not",
        ),
        (["maize/a/0.png", "maize/a_0.png", "rye/0.png"], "are both maize/a_0.png: rename one"),
    ],
)
def test_a_layout_that_would_lose_images_is_an_error(
    tmp_path: Path, layout: list[str], words: str
) -> None:
    with pytest.raises(SourceError, match=words):
        find_images(put(tmp_path, layout))


def test_an_empty_folder_of_a_class_is_an_error_with_its_own_cure(tmp_path: Path) -> None:
    (tmp_path / "rye").mkdir()
    with pytest.raises(SourceError, match="the class rye is empty: add images, or remove"):
        find_images(put(tmp_path, each("maize")))


def test_a_name_in_another_encoding_is_an_error(tmp_path: Path) -> None:
    put(tmp_path, each("maize", "rye"))
    (tmp_path / "rye/0.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/rye/caf\xe9.png"))
    with pytest.raises(SourceError, match=r"b'caf\\xe9.png' .* is not UTF-8: rename it"):
        find_images(tmp_path)


def test_a_folder_that_may_not_be_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, each("maize", "rye"))
    locked, read = tmp_path / "rye", Path.iterdir

    def iterdir(self: Path) -> object:  # root may read everything
        if self == locked:
            raise PermissionError(13, "Permission denied", str(self))
        return read(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    with pytest.raises(SourceError, match=r"rye cannot be read \(Permission denied\): let this"):
        find_images(tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bands": ("red", "red", "blue")}, "--bands: bands repeats a name: red, red, blue"),
        ({"scale": 0}, "--scale 0: wanted more than 0"),
        ({"size": 64}, "--size 64 also needs --fit: one of crop, pad, stretch"),
        ({"size": 4, "fit": "crop"}, "chips of 4 px, wanted at least 8: give --size and --fit"),
        (
            {"size": 1200, "fit": "pad"},
            "chips of 1200 px, wanted at most 1024: give --size and --fit",
        ),
    ],
)
def test_an_unusable_option_is_named_with_its_cure(
    tmp_path: Path, options: dict[str, object], words: str
) -> None:
    with pytest.raises(SourceError, match=words):
        Folder(put(tmp_path, each("maize", "rye")), **options)  # type: ignore[arg-type]


def test_blanks_around_the_names_of_bands_are_not_part_of_them(tmp_path: Path) -> None:
    source = Folder(put(tmp_path, each("maize", "rye")), bands=("B02", " B03", " B04 "))
    assert source.dataset().bands == ("B02", "B03", "B04")


def test_what_was_passed_over_is_reported_and_kept_with_the_data(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = each("maize", "rye", count=30)
    mine = put(tmp_path / "mine", [*good, *each("rye", suffix=".webp", count=1)])
    for number in range(26):
        Image.new("RGB", (200 + number, 9)).save(mine / "rye" / f"odd-{number}.png")
    ingest(Folder(mine))
    assert "passed over in the folder mine: 1 file: ends in .webp" in capsys.readouterr().out
    dataset = json.loads(Path("data/dataset.json").read_text())
    passed_over = dataset["passed_over"]
    assert passed_over.pop("ends in .webp") == 1
    assert passed_over.pop("bad for other reasons") == 6
    assert len(passed_over) == 20 and all("pixels, wanted" in reason for reason in passed_over)


@pytest.mark.parametrize("count", [1, 2])
def test_a_class_with_fewer_images_than_splits_is_an_error(
    repository: Path, tmp_path: Path, count: int
) -> None:
    mine = put(tmp_path / "mine", [*each("maize"), *each("rye", count=count)])
    words = f"class rye has {count} usable images, train, validation, test need one each: add some"
    with pytest.raises(DataError, match=words):
        ingest(Folder(mine))
    assert not os.path.exists("data.dvc")
