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
    Seen,
    SeenModel,
    Spool,
    SpoolFull,
    files,
    find,
    frame,
    read,
    take,
)
from service.feedback.recorder import IMAGES, SpoolRecorder
from service.inference.bundle import read_bundle
from service.inference.model import Model
from tests.conftest import ROOT
from tests.make.bundles import CLASSES, make_chip

MODEL = SeenModel("local", "0" * 64, CLASSES, 0.8, "<u2", (4, 64, 64))
OTHER = SeenModel("landcover@v1.0.0", "1" * 64, ("no", "yes"), None, "|u1", (1, 2, 2))


def seen(number: int, model: SeenModel = MODEL, chip: bytes = b"") -> Seen:
    return Seen(f"request-{number}", model, number % 2, number / 1000, 1_000_000 + number, chip)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


def only(spool: Spool) -> Path:
    (path,) = files(spool.folder)
    return path


def test_what_is_appended_is_read_in_order(spool: Spool) -> None:
    wanted = [seen(1), seen(2, chip=bytes(range(256))), seen(3, OTHER, b"\xc5CVY"), seen(4)]
    for item in wanted:
        spool.append(item)
    assert read(only(spool).read_bytes()) == (wanted, 0)


def test_a_file_cut_off_anywhere_keeps_all_that_is_whole(spool: Spool) -> None:
    ends = []
    for number in range(3):
        spool.append(seen(number, chip=b"chip"))
        ends.append(only(spool).stat().st_size)
    data = only(spool).read_bytes()
    for size in range(len(data)):
        found, damaged = read(data[:size])
        assert len(found) == sum(end <= size for end in ends), size
        assert damaged <= 1


def test_a_flipped_byte_loses_one_prediction_and_no_other(spool: Spool) -> None:
    spool.append(seen(0))
    start = only(spool).stat().st_size
    spool.append(seen(1, chip=b"some pixels"))
    end = only(spool).stat().st_size
    spool.append(seen(2))
    data = only(spool).read_bytes()
    for place in range(start, end):
        broken = bytearray(data)
        broken[place] ^= 0x10
        found, damaged = read(bytes(broken))
        assert found == [seen(0), seen(2)] and damaged, place


def test_a_frame_of_a_newer_version_is_left_out(spool: Spool) -> None:
    spool.append(seen(0))
    data = only(spool).read_bytes() + b"".join(frame(9, b"something new"))
    assert read(data) == ([seen(0)], 1)


@pytest.mark.parametrize(
    ("kind", "text"),
    [(MODEL_FRAME, b"no JSON"), (MODEL_FRAME, b"[]"), (MODEL_FRAME, b"7"), (MODEL_FRAME, b"\xff"),
     (MODEL_FRAME, b'["a", "b", 1, 2, 3, 4]'), (PREDICTION, b""), (PREDICTION, b"short")],
)  # fmt: skip
def test_a_whole_frame_that_says_something_else_is_left_out(
    spool: Spool, kind: int, text: bytes
) -> None:
    spool.append(seen(0))
    middle = b"".join(frame(kind, text))
    path = only(spool)
    path.write_bytes(path.read_bytes() + middle)
    spool.append(seen(1))
    assert read(path.read_bytes()) == ([seen(0), seen(1)], 1)
    assert find(spool.folder, "request-1") == seen(1)


def test_a_request_id_that_is_no_text_is_left_out(spool: Spool) -> None:
    spool.append(seen(0))
    path = only(spool)
    key = zlib.crc32(MODEL.text())
    wrong = PREDICTION_TEXT.pack(key, 0, 0.5, 1) + b"\xff\xfe"
    path.write_bytes(path.read_bytes() + b"".join(frame(PREDICTION, wrong)))
    assert read(path.read_bytes()) == ([seen(0)], 1)


def test_a_file_that_can_not_be_read_hides_no_prediction(spool: Spool) -> None:
    spool.append(seen(7))
    (spool.folder / "1-1.spool").mkdir()
    (spool.folder / "2-1.spool").symlink_to("2-1.spool")
    assert find(spool.folder, "request-7") == seen(7)


def test_what_the_database_refused_takes_no_room(tmp_path: Path) -> None:
    spool = Spool(tmp_path, limit=2000)
    (tmp_path / "1-1.refused").write_bytes(bytes(3000))
    spool.measure()
    assert spool.used == 0
    spool.append(seen(1))


def test_nothing_is_written_beyond_the_limit(tmp_path: Path) -> None:
    spool = Spool(tmp_path, limit=2000)
    with pytest.raises(SpoolFull):
        for number in range(100):
            spool.append(seen(number))
    spool.rotate()
    spool.measure()
    assert 2000 <= spool.used < 2500
    with pytest.raises(SpoolFull):
        spool.append(seen(100))
    only(spool).unlink()  # imported
    spool.measure()
    spool.append(seen(100))
    assert read(only(spool).read_bytes()).found == [seen(100)]


def test_while_imports_lag_files_are_few_and_large(spool: Spool) -> None:
    for number in range(20):
        spool.append(seen(number))
        spool.rotate()
    assert len(files(spool.folder)) == 2
    spool.append(seen(20, chip=bytes(LARGE)))
    spool.rotate()
    spool.append(seen(21))
    assert len(files(spool.folder)) == 3
    found = [item for path in files(spool.folder) for item in read(path.read_bytes()).found]
    assert [item.request_id for item in found] == [f"request-{number}" for number in range(22)]


def test_a_file_is_locked_as_long_as_its_process_appends_to_it(tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from tests.service.feedback.test_journal import Spool, seen
spool = Spool(Path(sys.argv[1]))
spool.append(seen(7))
print("written", flush=True)
time.sleep(600)
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        (path,) = files(tmp_path)
        assert take(path) is None
        assert find(tmp_path, "request-7") == seen(7)  # to be read it need not be closed
        process.send_signal(signal.SIGKILL)
        process.wait()
    descriptor = take(path)
    assert descriptor is not None
    os.close(descriptor)
    assert read(path.read_bytes()) == ([seen(7)], 0)


def test_a_prediction_is_found_by_its_whole_id(spool: Spool) -> None:
    spool.append(seen(11))
    spool.append(seen(11, chip=b"the same id again"))
    assert find(spool.folder, "request-1") is None
    assert find(spool.folder, "request-11") == seen(11)
    assert find(spool.folder / "nowhere", "request-11") is None


def test_a_full_disk_takes_whole_predictions_or_none(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk here")
    try:
        spool = Spool(disk)
        written = 0
        with pytest.raises(OSError, match="No space left|took a part"):
            while True:
                spool.append(seen(written, chip=bytes(9_000)))
                written += 1
        assert written == 7
        with pytest.raises(OSError, match="No space left|took a part"):
            spool.append(seen(written, chip=bytes(9_000)))
        found, damaged = read(only(spool).read_bytes())
        assert len(found) == written and not damaged
        spool.append(seen(written))  # a small one fits
        assert len(read(only(spool).read_bytes()).found) == written + 1
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


# The recorder


@pytest.fixture(scope="module")
def model(bundle: Path) -> Model:
    return Model("local", read_bundle(bundle))


def recorder(spool: Spool, lost: list[str], keep_images: bool = True) -> SpoolRecorder:
    return SpoolRecorder(spool, lost.append, keep_images, 0.6)


def test_the_recorder_writes_what_was_predicted(spool: Spool, model: Model) -> None:
    chip = make_chip(1)
    lost: list[str] = []
    recorder(spool, lost).record("abc", model, 3, 0.5, chip)
    (found,), damaged = read(only(spool).read_bytes())
    assert (found.request_id, found.best, found.probability) == ("abc", 3, 0.5)
    assert (found.model.tag, found.model.sha256) == ("local", model.sha256)
    assert found.model.classes == CLASSES
    pixels = np.frombuffer(found.chip, found.model.dtype).reshape(found.model.shape)
    assert np.array_equal(pixels, chip) and not damaged and not lost


def test_without_room_for_images_predictions_are_still_recorded(
    tmp_path: Path, model: Model
) -> None:
    lost: list[str] = []
    spool = Spool(tmp_path, limit=100_000)
    writer = recorder(spool, lost)
    for number in range(20):
        writer.record(f"r{number}", model, 0, 0.1, make_chip(1))
    found = read(only(spool).read_bytes()).found
    assert len(found) == 20 and not lost
    assert [bool(item.chip) for item in found] == [True] * 2 + [False] * 18


def test_images_of_a_second_are_few_and_the_uncertain_ones_come_first(
    spool: Spool, model: Model
) -> None:
    chip = np.zeros((4, 64, 64), np.uint16)
    writer = recorder(spool, [])
    for number in range(2 * IMAGES):
        writer.record(f"sure-{number}", model, 0, 0.9, chip)
    for number in range(2 * IMAGES):
        writer.record(f"unsure-{number}", model, 0, 0.3, chip)
    found = read(only(spool).read_bytes()).found
    assert len(found) == 4 * IMAGES
    kept = [item for item in found if item.chip]
    assert len([item for item in kept if item.probability > 0.6]) == IMAGES // 2
    assert len(kept) == IMAGES
    writer.tick()
    writer.record("next", model, 0, 0.9, chip)
    assert read(only(spool).read_bytes()).found[-1].chip


@pytest.mark.parametrize("reason", ["disk_error", "spool_full", "bug"])
def test_a_prediction_that_can_not_be_recorded_is_counted_and_nothing_is_raised(
    tmp_path: Path, model: Model, reason: str
) -> None:
    lost: list[str] = []
    folder = tmp_path / "spool"
    if reason == "disk_error":
        folder.write_text("a file where a folder should be")
    spool = Spool(folder, limit=0 if reason == "spool_full" else 1 << 20)
    best = "no number" if reason == "bug" else 0
    writer = recorder(spool, lost)
    for _ in range(3):
        writer.record("abc", model, best, 0.5, make_chip(1))  # type: ignore[arg-type]
    assert lost == [reason] * 3
