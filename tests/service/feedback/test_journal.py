"""The spool: what was written outlives its process, and a broken file loses only what is broken."""

import os
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from service.feedback.journal import LARGE
from service.feedback.journal import MODEL as MODEL_FRAME
from service.feedback.journal import (
    PREDICTION,
    PREDICTION_TEXT,
    PredictionRecord,
    ModelRecord,
    Journal,
    JournalFull,
    OBJECTS,
    OBJECTS_TEXT,
    ROUTED_TEXT,
    Routed,
    encode_frame,
    find_prediction,
    journal_files,
    lock_file,
    read_frames,
)
from service.feedback.objects import FoundObject, FoundObjects
from service.feedback.recorder import IMAGES, LARGEST, JournalRecorder
from service.inference.bundle import read_bundle
from service.inference.model import Model
from tests.conftest import ROOT
from tests.make.bundles import CLASSES, make_chip
from tests.make.disks import small_disk

MODEL = ModelRecord("local", "0" * 64, CLASSES, 0.8, "<u2", (4, 64, 64))
OTHER = ModelRecord("landcover@v1.0.0", "1" * 64, ("no", "yes"), None, "|u1", (1, 2, 2))
FOUND = FoundObjects(8, 9, (FoundObject(0, (1.0, 2.0, 3.0, 4.5), 0.9),))


def seen(number: int, model: ModelRecord = MODEL, chip: bytes = b"") -> PredictionRecord:
    return PredictionRecord(
        f"request-{number}", model, number % 2, number / 1000, 1_000_000 + number, chip
    )


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "spool")


def only(journal: Journal) -> Path:
    (path,) = journal_files(journal.folder)
    return path


def test_appended_predictions_are_read_in_order(journal: Journal) -> None:
    wanted = [seen(1), seen(2, chip=bytes(range(256))), seen(3, OTHER, b"\xc5CVY"), seen(4)]
    for item in wanted:
        journal.append_prediction(item)
    assert read_frames(only(journal).read_bytes()) == (wanted, 0)


def test_why_a_model_answered_is_read_with_its_prediction(journal: Journal) -> None:
    chosen = seen(2, chip=b"image")._replace(routed=Routed("trial-12", 0.05))
    for item in (seen(1), chosen, seen(3)):
        journal.append_prediction(item)
    assert read_frames(only(journal).read_bytes()) == ([seen(1), chosen, seen(3)], 0)
    assert find_prediction(journal.folder, "request-2") == chosen


def test_what_was_found_is_read_with_its_prediction(journal: Journal) -> None:
    some = seen(2, chip=b"image")._replace(found=FOUND)
    chosen = seen(4)._replace(found=FOUND._replace(objects=()), routed=Routed("trial-12", 0.05))
    wanted = [seen(1), some, seen(3), chosen]
    for item in wanted:
        journal.append_prediction(item)
    data = only(journal).read_bytes()
    assert read_frames(data) == (wanted, 0)
    broken = data.replace(b"[0,[1.0,", b"[0,[]+0,")  # and a right checksum would not save it
    assert read_frames(broken) == ([seen(1), seen(3), chosen], 1)
    numbers = PREDICTION_TEXT.pack(zlib.crc32(MODEL.to_json()), 0, 0.5, 7)
    for text in (b"", b"[", b"[4,4]", b"\xff"):
        frame = numbers + ROUTED_TEXT.pack(0, 0) + OBJECTS_TEXT.pack(len(text)) + text + b"a"
        assert read_frames(data + b"".join(encode_frame(OBJECTS, frame))) == (wanted, 1), text


def test_a_file_cut_off_anywhere_keeps_all_that_is_whole(journal: Journal) -> None:
    ends = []
    for number in range(3):
        journal.append_prediction(seen(number, chip=b"chip"))
        ends.append(only(journal).stat().st_size)
    data = only(journal).read_bytes()
    for size in range(len(data)):
        found, damaged = read_frames(data[:size])
        assert len(found) == sum(end <= size for end in ends), size
        assert damaged <= 1


def test_a_flipped_byte_loses_one_prediction_and_no_other(journal: Journal) -> None:
    journal.append_prediction(seen(0))
    start = only(journal).stat().st_size
    journal.append_prediction(seen(1, chip=b"some pixels"))
    end = only(journal).stat().st_size
    journal.append_prediction(seen(2))
    data = only(journal).read_bytes()
    for place in range(start, end):
        broken = bytearray(data)
        broken[place] ^= 0x10
        found, damaged = read_frames(bytes(broken))
        assert found == [seen(0), seen(2)] and damaged, place


def test_a_frame_of_a_newer_version_is_skipped(journal: Journal) -> None:
    journal.append_prediction(seen(0))
    data = only(journal).read_bytes() + b"".join(encode_frame(9, b"something new"))
    assert read_frames(data) == ([seen(0)], 1)


@pytest.mark.parametrize(
    ("kind", "text"),
    [(MODEL_FRAME, b"no JSON"), (MODEL_FRAME, b"[]"), (MODEL_FRAME, b"7"), (MODEL_FRAME, b"\xff"),
     (MODEL_FRAME, b'["a", "b", 1, 2, 3, 4]'), (PREDICTION, b""), (PREDICTION, b"short")],
)  # fmt: skip
def test_a_frame_with_malformed_content_is_skipped(
    journal: Journal, kind: int, text: bytes
) -> None:
    journal.append_prediction(seen(0))
    middle = b"".join(encode_frame(kind, text))
    path = only(journal)
    path.write_bytes(path.read_bytes() + middle)
    journal.append_prediction(seen(1))
    assert read_frames(path.read_bytes()) == ([seen(0), seen(1)], 1)
    assert find_prediction(journal.folder, "request-1") == seen(1)


def test_a_prediction_with_a_malformed_request_id_is_skipped(journal: Journal) -> None:
    journal.append_prediction(seen(0))
    path = only(journal)
    key = zlib.crc32(MODEL.to_json())
    wrong = PREDICTION_TEXT.pack(key, 0, 0.5, 1) + b"\xff\xfe"
    path.write_bytes(path.read_bytes() + b"".join(encode_frame(PREDICTION, wrong)))
    assert read_frames(path.read_bytes()) == ([seen(0)], 1)


def test_predictions_are_found_beside_an_unreadable_file(journal: Journal) -> None:
    journal.append_prediction(seen(7))
    (journal.folder / "1-1.spool").mkdir()
    (journal.folder / "2-1.spool").symlink_to("2-1.spool")
    assert find_prediction(journal.folder, "request-7") == seen(7)


def test_refused_files_do_not_count_against_the_limit(tmp_path: Path) -> None:
    journal = Journal(tmp_path, limit=2000)
    (tmp_path / "1-1.refused").write_bytes(bytes(3000))
    journal.measure_size()
    assert journal.used == 0
    journal.append_prediction(seen(1))


def test_nothing_is_written_beyond_the_limit(tmp_path: Path) -> None:
    journal = Journal(tmp_path, limit=2000)
    with pytest.raises(JournalFull):
        for number in range(100):
            journal.append_prediction(seen(number))
    journal.rotate_file()
    journal.measure_size()
    assert 2000 <= journal.used < 2500
    with pytest.raises(JournalFull):
        journal.append_prediction(seen(100))
    only(journal).unlink()  # imported
    journal.measure_size()
    journal.append_prediction(seen(100))
    assert read_frames(only(journal).read_bytes()).predictions == [seen(100)]


def test_while_imports_lag_files_are_few_and_large(journal: Journal) -> None:
    for number in range(20):
        journal.append_prediction(seen(number))
        journal.rotate_file()
    assert len(journal_files(journal.folder)) == 2
    journal.append_prediction(seen(20, chip=bytes(LARGE)))
    journal.rotate_file()
    journal.append_prediction(seen(21))
    assert len(journal_files(journal.folder)) == 3
    found = [
        item
        for path in journal_files(journal.folder)
        for item in read_frames(path.read_bytes()).predictions
    ]
    assert [item.request_id for item in found] == [f"request-{number}" for number in range(22)]


def test_a_file_is_locked_as_long_as_its_process_appends_to_it(tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from service.feedback.journal import Journal, ModelRecord, PredictionRecord
Journal(Path(sys.argv[1])).append_prediction(eval(sys.argv[2]))
print("written", flush=True)
time.sleep(600)
"""
    command = [sys.executable, "-c", code, str(tmp_path), repr(seen(7))]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        (path,) = journal_files(tmp_path)
        assert lock_file(path) is None
        assert find_prediction(tmp_path, "request-7") == seen(7)  # to be read it need not be closed
        process.send_signal(signal.SIGKILL)
        process.wait()
    descriptor = lock_file(path)
    assert descriptor is not None
    os.close(descriptor)
    assert read_frames(path.read_bytes()) == ([seen(7)], 0)


def test_a_prediction_is_found_by_its_whole_id(journal: Journal) -> None:
    journal.append_prediction(seen(11))
    journal.append_prediction(seen(11, chip=b"the same id again"))
    assert find_prediction(journal.folder, "request-1") is None
    assert find_prediction(journal.folder, "request-11") == seen(11)
    assert find_prediction(journal.folder / "absent", "request-11") is None


def test_a_full_disk_takes_whole_predictions_or_none(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        journal = Journal(disk)
        written = 0
        with pytest.raises(OSError, match="No space left|took a part"):
            while True:
                journal.append_prediction(seen(written, chip=bytes(9_000)))
                written += 1
        assert written == 7
        with pytest.raises(OSError, match="No space left|took a part"):
            journal.append_prediction(seen(written, chip=bytes(9_000)))
        found, damaged = read_frames(only(journal).read_bytes())
        assert len(found) == written and not damaged
        journal.append_prediction(seen(written))  # a small one fits
        assert len(read_frames(only(journal).read_bytes()).predictions) == written + 1


# The recorder


@pytest.fixture(scope="module")
def model(bundle: Path) -> Model:
    return Model("local", read_bundle(bundle))


def recorder(journal: Journal, lost: list[str], keep_images: bool = True) -> JournalRecorder:
    return JournalRecorder(journal, lost.append, keep_images, 0.6)


def test_the_recorder_writes_the_prediction_with_its_model_and_image(
    journal: Journal, model: Model
) -> None:
    chip = make_chip(1)
    lost: list[str] = []
    recorder(journal, lost).record("abc", model, 3, 0.5, chip)
    (found,), damaged = read_frames(only(journal).read_bytes())
    assert (found.request_id, found.best, found.probability) == ("abc", 3, 0.5)
    assert (found.model.tag, found.model.sha256) == ("local", model.sha256)
    assert found.model.classes == CLASSES
    pixels = np.frombuffer(found.chip, found.model.dtype).reshape(found.model.shape)
    assert np.array_equal(pixels, chip) and not damaged and not lost


def test_the_recorder_writes_objects_with_the_size_of_their_image(
    journal: Journal, model: Model
) -> None:
    lost: list[str] = []
    writer, chip = recorder(journal, lost), make_chip(1)[:, :40, :50]
    objects = [{"class": CLASSES[2], "score": 0.75, "box": [1.5, 2.0, 3.0, 4.0], "mask": "x"}]
    writer.record("found", model, 2, 0.75, chip, objects)
    writer.record("nothing", model, 2, 0.1, chip, [])
    writer.record("large", model, 2, 0.75, np.zeros((4, 1100, 1000), np.uint16), objects)
    writer.record("a class", model, 2, 0.75, np.zeros((4, 1100, 1000), np.uint16))
    one, none, large, chip_of_class = read_frames(only(journal).read_bytes()).predictions
    assert one.found == FoundObjects(40, 50, (FoundObject(2, (1.5, 2.0, 3.0, 4.0), 0.75),))
    assert none.found == FoundObjects(40, 50, ())
    pixels = np.frombuffer(one.chip, one.model.dtype).reshape(4, 40, 50)
    assert np.array_equal(pixels, chip)
    assert large.found is not None and not large.chip and not lost
    assert chip_of_class.found is None and len(chip_of_class.chip) == 4 * 1100 * 1000 * 2 > LARGEST


def test_without_room_for_images_predictions_are_still_recorded(
    tmp_path: Path, model: Model
) -> None:
    lost: list[str] = []
    journal = Journal(tmp_path, limit=100_000)
    writer = recorder(journal, lost)
    for number in range(20):
        writer.record(f"r{number}", model, 0, 0.1, make_chip(1))
    found = read_frames(only(journal).read_bytes()).predictions
    assert len(found) == 20 and not lost
    assert [bool(item.chip) for item in found] == [True] * 2 + [False] * 18


def test_images_of_a_second_are_few_and_the_uncertain_ones_come_first(
    journal: Journal, model: Model
) -> None:
    chip = np.zeros((4, 64, 64), np.uint16)
    writer = recorder(journal, [])
    for number in range(2 * IMAGES):
        writer.record(f"sure-{number}", model, 0, 0.9, chip)
    for number in range(2 * IMAGES):
        writer.record(f"unsure-{number}", model, 0, 0.3, chip)
    found = read_frames(only(journal).read_bytes()).predictions
    assert len(found) == 4 * IMAGES
    kept = [item for item in found if item.chip]
    assert len([item for item in kept if item.probability > 0.6]) == IMAGES // 2
    assert len(kept) == IMAGES
    writer.reset_image_quota()
    writer.record("next", model, 0, 0.9, chip)
    assert read_frames(only(journal).read_bytes()).predictions[-1].chip


@pytest.mark.parametrize("reason", ["disk_error", "spool_full", "bug"])
def test_a_prediction_that_fails_to_be_recorded_is_counted_without_an_error(
    tmp_path: Path, model: Model, reason: str
) -> None:
    lost: list[str] = []
    folder = tmp_path / "spool"
    if reason == "disk_error":
        folder.write_text("a file where a folder should be")
    journal = Journal(folder, limit=0 if reason == "spool_full" else 1 << 20)
    best = "no number" if reason == "bug" else 0
    writer = recorder(journal, lost)
    for _ in range(3):
        writer.record("abc", model, best, 0.5, make_chip(1))  # type: ignore[arg-type]
    assert lost == [reason] * 3
