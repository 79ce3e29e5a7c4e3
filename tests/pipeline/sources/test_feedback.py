"""Labelled images come back from a real server on loopback, and nothing hostile comes with them."""

import json
import pickle
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.data.boxes import boxes_of, read_objects
from pipeline.data.chip_table import Row
from pipeline.data.dataset import image_files
from pipeline.data.images import decode
from pipeline.data.split import assign
from pipeline.errors import SourceError
from pipeline.ingest import ingest, main
from pipeline.params import Preprocess
from pipeline.sources import File, answers
from pipeline.sources.coco import Coco
from pipeline.sources.feedback import Feedback
from pipeline.sources.folder import Folder
from tests.conftest import chip, write_images
from tests.make.harbours import make_coco
from tests.make.labelled import KEY, Service, dripping, npy, serving
from tests.pipeline.conftest import call, dvc


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setattr(answers, "WAITS", (0.0, 0.0, 0.0))
    with serving() as found:
        yield found


@pytest.fixture
def data(workdir: Path) -> Path:
    """A folder with 12 chips of each of three classes, without DVC."""
    Folder(write_images(workdir / "data")).dataset().write(workdir / "data")
    return workdir


def image(label: int, index: int) -> npt.NDArray[np.uint8]:
    """A chip (3, 32, 32) as the service keeps it."""
    return np.ascontiguousarray(chip(label, index).transpose(2, 0, 1))


def bring(service: Service, **options: Any) -> None:
    ingest(Feedback(service.url, KEY, **options))


def ours() -> list[str]:
    return [path for path in image_files(Path("data")) if "feedback-" in path]


def files(service: Service, **options: Any) -> list[str]:
    """Paths that the source adds; `-path` for one of `data/` that it leaves out."""
    before = set(image_files(Path("data")))
    after = {file.path for file in Feedback(service.url, KEY, **options).files()}
    return [*sorted(after - before), *(f"-{path}" for path in sorted(before - after))]


def classes(paths: list[str]) -> list[str]:
    return [path.split("/")[0] for path in paths]


def version() -> bytes:
    return Path("data.dvc").read_bytes()


def test_labelled_images_come_in_under_their_label_and_once(
    ingested: Path, service: Service
) -> None:
    for index in range(5):  # three pages
        service.add(f"request-{index}", f"class-{index % 3}", image(0, 100 + index))
    service.add("without-label", None, image(0, 200))
    service.add("without-image", "class-1")
    bring(service)
    assert sorted(classes(ours())) == ["class-0", "class-0", "class-1", "class-1", "class-2"]
    assert len(list(image_files(Path("data")))) == 41
    found = {np.load(Path("data") / path).tobytes() for path in ours()}
    assert found == {image(0, 100 + index).tobytes() for index in range(5)}
    first = version()
    bring(service)
    assert version() == first
    service.answers.clear()  # the service forgets after some months
    bring(service)
    assert version() == first


def test_the_command_reads_its_key_from_the_environment_and_never_prints_it(
    ingested: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.add("a", "class-1", image(0, 100))
    monkeypatch.setenv("FEEDBACK_KEY", KEY)
    line = ("feedback", "--url", service.url)
    before = version()
    result = call(main, *line, "--dry-run")
    assert "nothing was changed" in result.stdout and version() == before
    assert set(service.keys) == {f"Bearer {KEY}"}
    service.key = "another"
    refused = call(main, *line)
    assert refused.returncode == 1
    assert "FEEDBACK_KEY is refused: set it to a key with role `label`" in refused.stderr
    assert KEY not in result.stdout + result.stderr + refused.stdout + refused.stderr
    result = call(main, *line, "--since", "yesterday")
    assert result.returncode == 2 and "'yesterday' is not a date: write 2026-05-01" in result.stderr


SHIP = {"class": "ship", "box": [4.0, 4.0, 16.0, 12.0]}
FAR = {"class": "ship", "box": [20.0, 30.0, 31.5, 40.0]}


@pytest.fixture
def harbour(workdir: Path) -> Path:
    """A folder with 24 images of four ports, with boxes."""
    make_coco(workdir / "ships")
    found = Coco(workdir / "ships")
    for file in found.files():
        assert isinstance(file, File)
        Path("data", file.path).parent.mkdir(parents=True, exist_ok=True)
        Path("data", file.path).write_bytes(file.content)
    found.dataset().write(Path("data"))
    return workdir


def port(seed: int, high: int = 40, wide: int = 50) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 200, (3, high, wide)).astype(np.uint8)


def test_images_with_objects_come_in_as_boxes_and_train(
    repository: Path, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    make_coco(repository / "ships")
    ingest(Coco(repository / "ships"))
    service.add("two", None, port(1), objects=[FAR, SHIP])
    service.add("none", None, port(2, 32, 32), objects=[])
    service.add("outside", None, port(3, 32, 32), objects=[FAR])
    service.add("class", "ship", port(4))
    service.add("unknown", None, port(5), objects=[SHIP | {"class": "../canoe"}])
    service.add("gone", None, objects=[SHIP])
    bring(service)
    found = [path for path in ours() if path.startswith("images/")]
    documents = {
        np.load(Path("data") / path).tobytes(): read_objects(Path("data") / boxes_of(path))
        for path in found
    }
    assert {content: len(it.objects) for content, it in documents.items()} == {
        port(1).tobytes(): 2, port(2, 32, 32).tobytes(): 0
    }  # fmt: skip
    assert {it.group for it in documents.values()} == {"feedback"}
    said = capsys.readouterr().out
    assert "[20.0, 30.0, 31.5, 40.0] is outside of 32 x 32 pixels" in said.replace("\n", " ")
    assert "bad: answer 'unknown': label '../canoe' is not a class of data/ (ship)" in said
    assert "labels of another kind than the data have: 1" in said
    assert "labels without an image, which the service did not store: 1" in said
    first = version()
    bring(service)
    assert version() == first
    service.answers[0]["objects"] = [SHIP]
    bring(service)
    (path,) = [it for it in ours() if "images/" in it and np.load(f"data/{it}").shape[1] == 40]
    assert len(read_objects(Path("data") / boxes_of(path)).objects) == 1
    assert len(ours()) == 4, "an image is without its boxes, or boxes are left behind"


def test_newer_objects_stay_and_images_of_another_source_keep_their_boxes(
    harbour: Path, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    known = decode("a.png", Path("data/images/porta_001.png").read_bytes()).pixels
    there = [
        item.model_dump(by_alias=True)
        for item in read_objects(Path("data/boxes/porta_001.json")).objects
    ]
    service.add("same", None, known, objects=there)
    assert files(service) == []
    assert "kept as it is" not in capsys.readouterr().out
    service.add("other", None, known, objects=[], at="2026-05-02T12:00:00Z")
    assert files(service) == []
    said = "kept as it is: images/porta_001.png has other objects at the service"
    assert said in capsys.readouterr().out
    service.add("newer", None, port(1), objects=[SHIP], at="2026-05-03T12:00:00Z")
    service.add("older", None, port(1), objects=[], at="2026-05-02T12:00:00Z")
    added = files(service)
    assert [path.split("/")[0] for path in added] == ["boxes", "images"]
    assert "an image with a newer label, which counts: 2" in capsys.readouterr().out


def test_classes_take_no_objects(
    data: Path, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    service.add("objects", None, image(0, 100), objects=[SHIP])
    assert files(service) == []
    assert "labels of another kind than the data have: 1" in capsys.readouterr().out


def test_files_that_an_earlier_ingest_passed_over_are_told_to_be_of_that_folder(
    repository: Path, service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_images(tmp_path / "mine")
    (images / "class-0/notes.txt").touch()
    ingest(Folder(images))
    service.add("a", "class-1", image(0, 100))
    bring(service)
    assert "passed over in the folder mine: 1 file: ends in .txt" in capsys.readouterr().out
    before = version()
    bring(service)
    assert version() == before, "the same data have another version"


def test_data_of_another_version_are_not_made_the_newest(ingested: Path, service: Service) -> None:
    Path("data/class-0/000.png").unlink()
    with pytest.raises(SourceError, match="differs from the version in data.dvc: run `dvc pull"):
        bring(service)
    dvc("checkout", "data.dvc")
    service.add("a", "class-1", image(0, 100))
    bring(service)
    assert len(list(image_files(Path("data")))) == 37


def claim(shape: str) -> bytes:
    """The begin of an NPY file that says so of itself."""
    text = f"{{'descr':'|u1','fortran_order':False,'shape':{shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


BAD = {
    "of another size": (npy(np.zeros((3, 8, 8), np.uint8)), "8 x 8 pixels, wanted 32 x 32"),
    "with other bands": (npy(np.zeros((1, 32, 32), np.uint8)), "1 band, wanted 3"),
    "of another type": (npy(np.ones((3, 32, 32), np.uint16)), "values are uint16, wanted uint8"),
    "constant": (npy(np.zeros((3, 32, 32), np.uint8)), "constant"),
    "flat": (npy(np.arange(64, dtype=np.uint8)), "wanted (bands, height, width)"),
    "with pickled objects": (npy(np.array([{"a": 1}], dtype=object)), "values are object"),
    "a pickle": (pickle.dumps({"a": 1}), "or a pickle is not taken"),
    "an archive": (b"PK\x05\x06" + bytes(18), "an archive (NPZ)"),
    "of a claimed TiB": (claim("(1,1048576,1048576)"), "the header says 1099511627776"),
    "of an endless header": (claim("(" * 500), "the header is damaged"),
    "cut off": (npy(image(0, 100))[:-100], "2972 bytes of pixels, the header says 3072"),
    "empty": (b"", "empty file"),
    "no image": (b"<html>", "cannot be read"),
    "huge": (bytes(100_000), "more than 7168 bytes"),
}


def test_unusable_images_are_reported_and_the_others_come_in(
    ingested: Path,
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("pipeline.ingest.SHOWN_FAULTS", 99)
    for kind, (content, _) in BAD.items():
        service.add(kind, "class-1", content)
    service.add("good", "class-2", image(0, 100))
    bring(service)
    assert classes(ours()) == ["class-2"]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("bad: ")]
    assert len(lines) == len(BAD)
    for _, reason in BAD.values():
        assert any(reason in line for line in lines), reason


def test_the_bytes_depend_on_the_pixels_only(data: Path, service: Service) -> None:
    service.add("a", "class-1", image(0, 100))
    first = list(Feedback(service.url, KEY).files())
    service.images["a"] = npy(np.asfortranarray(image(0, 100)))
    assert list(Feedback(service.url, KEY).files()) == first


def test_the_newest_of_two_answers_for_an_image_counts(
    data: Path, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    service.add("a", "class-1", image(0, 100), at="2026-05-02T12:00:00+02:00")
    service.add("b", "class-2", image(0, 100), at="2026-05-02T11:00:00Z")
    service.add("c", "class-0", image(0, 100), at="2026-05-01T12:00:00")
    assert classes(files(service)) == ["class-2"]
    assert "an image with a newer label, which counts: 2" in capsys.readouterr().out


def test_a_label_that_was_corrected_since_moves_the_image(data: Path, service: Service) -> None:
    service.add("a", "class-1", image(0, 100))
    service.add("b", "class-1", image(0, 101))
    for file in Feedback(service.url, KEY).files():
        Path("data", file.path).write_bytes(file.content)
    assert files(service) == []
    service.answers[0]["label"] = "class-2"
    name = next(path for path in ours() if (np.load(f"data/{path}") == image(0, 100)).all())
    assert files(service) == [name.replace("class-1", "class-2"), f"-{name}"]


def take(service: Service) -> list[str]:
    """Make `data/` what the source yields; the paths of ours."""
    found = {file.path: file.content for file in Feedback(service.url, KEY).files()}
    for path in set(image_files(Path("data"))) - found.keys():
        Path("data", path).unlink()
    for path, content in found.items():
        Path("data", path).write_bytes(content)
    return ours()


def test_a_corrected_label_stays_when_the_service_forgets_the_image_of_the_correction(
    data: Path, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    service.add("older", "class-2", image(0, 100), at="2026-05-03T12:00:00Z")
    service.add("newer", "class-1", image(0, 100), at="2026-05-03T14:59:59+03:00")
    corrected = take(service)
    assert classes(corrected) == ["class-2"]
    service.answers[0]["image"] = False
    assert take(service) == corrected
    assert "an image with a newer label in the data, which counts: 1" in capsys.readouterr().out
    service.add("newest", "class-0", image(0, 100), at="2026-05-03T12:00:01Z")
    assert classes(take(service)) == ["class-0"]


def test_feedback_trains_where_the_split_is_by_place(data: Path, service: Service) -> None:
    service.add("a", "class-1", image(0, 100))
    [path] = files(service)
    placed = [
        Row(0, f"{name}/{place}.tif", name, f"{name}{place}", "EPSG:32633", (1e4 * place, 0.0))
        for name in ("class-0", "class-1")
        for place in range(30)
    ]
    params = Preprocess(
        split="spatial", test_fraction=0.2, validation_fraction=0.2, block_size=100, seed=0
    )
    rows = assign([*placed, Row(0, path, "class-1", "new")], ("class-0", "class-1"), params)
    assert [row.split for row in rows if row.path == path] == ["train"]


def test_images_of_another_source_keep_their_label(
    data: Path, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    service.add("same", "class-0", image(0, 0))
    service.add("other", "class-2", image(0, 1))
    assert files(service) == []
    assert (
        "kept as it is: class-0/001.png has the label class-2 at the service"
        in capsys.readouterr().out
    )


def test_only_answers_since_a_day_are_taken(data: Path, service: Service) -> None:
    service.add("old", "class-1", image(0, 100), at="2026-04-30T23:59:59Z")
    service.add("new", "class-2", image(0, 101), at="2026-05-01T00:00:00Z")
    assert classes(files(service, since=datetime(2026, 5, 1, tzinfo=UTC))) == ["class-2"]


def test_data_with_splits_of_their_own_take_them_for_training(
    workdir: Path, service: Service
) -> None:
    for split in ("train", "validation", "test"):
        write_images(Path("data") / split, each=4)
    Folder(Path("data")).dataset().write(Path("data"))
    service.add("a", "class-1", image(0, 100))
    assert [path.rsplit("/", 1)[0] for path in files(service)] == ["train/class-1"]


def test_a_label_that_is_no_class_is_reported_and_never_a_path(
    data: Path,
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("pipeline.sources.feedback.SHOWN", 99)
    labels = ["../x", "/etc", "class-0/..", "", "class-9", "\x1b[31mred", "."]
    for index, label in enumerate(labels):
        service.add(f"bad-{index}", label, image(0, 100 + index))
    service.add("good", "class-1", image(0, 200))
    assert classes(files(service)) == ["class-1"]
    output = capsys.readouterr().out
    for index, label in enumerate(labels):
        reported = (
            f"bad: answer 'bad-{index}': label {ascii(label)} is not a class of data/ (class-0, "
        )
        assert reported in output
    assert "\x1b" not in output
    assert not any("bad" in path for path in service.asked)


def test_an_image_that_is_gone_is_left_out(
    data: Path, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    service.add("gone", "class-1", image(0, 100))
    service.images.clear()
    assert files(service) == []
    assert "labels without an image, which the service did not store: 1" in capsys.readouterr().out


def test_a_request_id_is_a_name_and_not_a_path(data: Path, service: Service) -> None:
    service.add("../../secret?x=1#/ü", "class-1", image(0, 100))
    assert classes(files(service)) == ["class-1"]
    assert service.asked[-1] == "/feedback/..%2F..%2Fsecret%3Fx%3D1%23%2F%C3%BC.npy"


def test_a_passing_failure_is_tried_again(data: Path, service: Service) -> None:
    service.add("a", "class-1", image(0, 100))
    service.failures = [500, 503, 429]
    assert classes(files(service)) == ["class-1"]


def test_one_image_that_always_fails_does_not_keep_the_others_away(
    data: Path, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    service.add("a", "class-1", image(0, 100))
    service.add("b", "class-1", image(0, 101))
    service.broken = {"b"}
    assert classes(files(service)) == ["class-1"]
    assert "bad: answer 'b': " in capsys.readouterr().out


def test_a_service_that_fails_at_every_image_ends_the_ingest(data: Path, service: Service) -> None:
    for index in range(9):
        service.add(f"{index}", "class-1", image(0, 100 + index))
    service.broken = {f"{index}" for index in range(9)}
    with pytest.raises(SourceError, match="HTTP 500, 4 tries"):
        files(service)
    service.broken = set()
    assert len(files(service)) == 9


def page(*found: dict[str, Any], following: Any = None) -> bytes:
    return json.dumps({"answers": list(found), "next": following}).encode()


ANSWER = {"request_id": "a", "label": "class-1", "answered_at": None, "image": True}


PAGES = [
    (b"<html>", "is --url a service of this version"),
    (b"[]", "is --url a service of this version"),
    (b"\xff\xfe", "is --url a service of this version"),
    (b"[" * 100_000, "is --url a service of this version"),
    (page({"request_id": "a"}), r"answers.0.label"),
    (page(ANSWER | {"request_id": "a" * 1000}), r"answers.0.request_id"),
    (page(ANSWER | {"answered_at": "soon"}), r"answers.0.answered_at"),
    (page(ANSWER | {"answered_at": "0001-01-01T00:00:00+23:00"}), "not a moment of UTC"),
    (page(ANSWER | {"answered_at": "9999-12-31T23:59:59-23:00"}), "not a moment of UTC"),
    (page(*[ANSWER] * 1001), "answers: list should have at most 1000 items"),
    (page(ANSWER | {"label": {"a": 1}}), r"answers.0.label"),
    (page(ANSWER | {"objects": [{"class": "ship", "box": [1, 2]}]}), r"answers.0.objects.0: "),
    (b" " * (5 * 2**20), "more than 4194304 bytes"),
    (page(following="again"), "repeats itself"),
]


def test_malformed_pages_are_refused_with_the_reason(data: Path, service: Service) -> None:
    for service.page, reason in PAGES:
        with pytest.raises(SourceError, match=reason):
            files(service)
    service.page = None
    service.add("good", "class-1", image(0, 100))
    assert classes(files(service)) == ["class-1"]


def test_pages_without_end_are_refused(
    data: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.add("a", "class-1", image(0, 100))
    service.circle = True
    with pytest.raises(SourceError, match="repeats itself"):
        files(service)
    service.circle = False
    monkeypatch.setattr(answers, "MOST_PAGES", 3)
    for index in range(9):
        service.add(f"{index}", "class-1", image(0, 200 + index))
    with pytest.raises(SourceError, match="does not end: stopped after 3 pages"):
        files(service)


def test_a_response_that_is_cut_off_is_refused(data: Path, service: Service) -> None:
    service.cut = True
    with pytest.raises(SourceError, match="cannot be reached"):
        files(service)


@pytest.mark.parametrize(
    "beginning",
    [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"],
    ids=["status", "headers", "body"],
)
def test_a_response_that_drips_is_given_up(
    data: Path, monkeypatch: pytest.MonkeyPatch, beginning: bytes
) -> None:
    monkeypatch.setattr(answers, "LONGEST", 0.1)
    monkeypatch.setattr(answers, "WAITS", ())
    with dripping(beginning) as url, pytest.raises(SourceError, match="no end after 0.1 seconds"):
        Feedback(url, KEY)


def test_a_refusal_of_the_service_is_one_error_with_its_cure(data: Path, service: Service) -> None:
    service.location = "https://elsewhere.example.com/"
    for status, cure in (
        (401, "FEEDBACK_KEY is refused: set it to a key with role `label`"),
        (403, "FEEDBACK_KEY is refused: set it to a key with role `label`"),
        (404, "SERVICE_FEEDBACK is not off there"),
        (418, "is --url a service of this version"),
        (302, "redirects to 'https://elsewhere.example.com/', and the key must not follow"),
    ):
        service.failures, service.asked = [status], []
        with pytest.raises(SourceError, match=cure):
            files(service)
        assert len(service.asked) == 1


def test_a_missing_key_is_an_error(data: Path, service: Service) -> None:
    with pytest.raises(SourceError, match="FEEDBACK_KEY is not set"):
        Feedback(service.url)
    assert service.keys == [None]


def test_a_service_that_does_not_run_is_an_error(data: Path) -> None:
    with serving() as service:
        url = service.url
    with pytest.raises(SourceError, match="cannot be reached .*, 4 tries"):
        Feedback(url, KEY)


def test_an_unsafe_address_is_refused_without_its_secret(data: Path) -> None:
    for url, reason in (
        ("http://landcover.example.com", "is not encrypted"),
        ("ftp://127.0.0.1", "is not encrypted"),
        ("landcover.example.com", "is not encrypted"),
        ("https://", "is not encrypted"),
        ("https://user:secret@landcover.example.com", "the key goes into FEEDBACK_KEY"),
        ("https://landcover.example.com?key=secret", "the key goes into FEEDBACK_KEY"),
        ("https://landcover.example.com:port", "is not an address"),
        ("https://[::1", "is not an address"),
    ):
        with pytest.raises(SourceError, match=reason) as caught:
            Feedback(url, KEY)
        assert "secret" not in str(caught.value)


def test_a_malformed_key_is_refused_without_its_value(data: Path) -> None:
    for key in ("two words", "line\nbreak", "schlüssel"):
        with pytest.raises(SourceError, match="invalid characters") as caught:
            Feedback("https://landcover.example.com", key)
        assert key not in str(caught.value)
