"""Load: every file is opened, and what cannot be used is told apart, listed and limited."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import load
from pipeline.data.chip_table import Row, read_chip_table
from pipeline.data.dataset import Dataset
from pipeline.sources.folder import Folder
from tests.conftest import SIZE, chip, write_images, write_params
from tests.pipeline.conftest import call


@pytest.fixture
def data(workdir: Path) -> Path:
    """`data/` with three classes of twelve chips, as ingest lays it out."""
    folder = write_images(workdir / "data")
    Folder(folder).dataset().write(folder)
    return folder


def report() -> dict[str, object]:
    document: dict[str, object] = json.loads(Path("reports/data.json").read_text(encoding="utf-8"))
    return document


def rows() -> list[Row]:
    return read_chip_table(Path("artifacts/raw/manifest.csv"))


def reasons() -> dict[str, str]:
    quarantine = report()["quarantine"]
    assert isinstance(quarantine, list)
    return {item["path"]: item["reason"] for item in quarantine}


def test_chips_stand_in_one_array_in_the_order_of_the_manifest(data: Path) -> None:
    load.main()
    chips = np.load("artifacts/raw/chips.npy", mmap_mode="r")
    assert chips.shape == (36, 3, SIZE, SIZE) and chips.dtype == np.uint8
    for row in rows():
        picture = np.asarray(Image.open(data / row.path)).transpose(2, 0, 1)
        assert np.array_equal(chips[row.row], picture)
        assert row.label == row.path.split("/")[0]
    assert Dataset.read(Path("artifacts/raw")) == Dataset.read(data)
    assert sorted(item.name for item in Path("artifacts/raw").iterdir()) == [
        "chips.npy",
        "dataset.json",
        "manifest.csv",
    ]


def test_the_report_counts_chips_per_class(data: Path) -> None:
    load.main()
    assert report()["classes"] == {"class-0": 12, "class-1": 12, "class-2": 12}
    assert report()["quarantine"] == []


def test_bad_files_are_quarantined_with_their_reason(data: Path) -> None:
    (data / "class-0" / "cut.png").write_bytes((data / "class-0" / "000.png").read_bytes()[:50])
    Image.new("RGB", (SIZE, SIZE), (7, 7, 7)).save(data / "class-1" / "flat.png")
    Image.new("RGB", (9, 9)).save(data / "class-1" / "small.png")
    (data / "stray.png").write_bytes(b"x")
    write_params({"load": {"max_bad_fraction": 0.2}})
    load.main()
    assert len(rows()) == 36
    assert reasons()["class-0/cut.png"].startswith("cannot be read")
    assert reasons()["class-1/flat.png"] == "constant: every value is 7"
    assert (
        reasons()["class-1/small.png"]
        == f"9 x 9 pixels, wanted {SIZE} x {SIZE}: give --size and --fit"
    )
    assert reasons()["stray.png"] == "not in a directory of a class"


def test_one_image_under_two_labels_is_quarantined_under_both(data: Path) -> None:
    shutil.copy(data / "class-0" / "000.png", data / "class-1" / "copy.png")
    write_params({"load": {"max_bad_fraction": 0.2}})
    load.main()
    assert reasons() == {
        "class-0/000.png": "the same image stands under another label as class-1/copy.png",
        "class-1/copy.png": "the same image stands under another label as class-0/000.png",
    }
    assert not {"class-0/000.png", "class-1/copy.png"} & {row.path for row in rows()}


def test_copies_under_one_label_are_kept_and_counted(data: Path) -> None:
    shutil.copy(data / "class-0" / "000.png", data / "class-0" / "copy.png")
    load.main()
    assert len(rows()) == 37
    assert report()["duplicates"] == 1


def test_too_many_bad_files_fail_the_stage_and_name_the_worst(data: Path) -> None:
    load.main()
    before = Path("artifacts/raw/manifest.csv").read_bytes()
    (data / "class-0" / "bad.png").write_bytes(b"x")
    result = call(load.main)
    assert result.returncode == 1
    assert "1 of 37 files are bad (2.7%), load.max_bad_fraction allows 2.0%" in result.stderr
    assert "class-0/bad.png: cannot be read" in result.stderr
    assert "Traceback" not in result.stderr
    assert Path("artifacts/raw/manifest.csv").read_bytes() == before
    assert "class-0/bad.png" in reasons()


def test_an_empty_folder_says_where_data_come_from(data: Path) -> None:
    for directory in data.glob("class-*"):
        shutil.rmtree(directory)
    result = call(load.main)
    assert result.returncode == 1
    assert "dvc pull" in result.stderr and "pipeline.ingest" in result.stderr


def test_a_missing_folder_says_where_data_come_from(workdir: Path) -> None:
    result = call(load.main)
    assert result.returncode == 1
    assert "dvc pull" in result.stderr and "Traceback" not in result.stderr


def test_a_single_class_is_refused(data: Path) -> None:
    for name in ("class-1", "class-2"):
        shutil.rmtree(data / name)
    Dataset.read(data).model_copy(update={"classes": ("class-0",)}).write(data)
    result = call(load.main)
    assert "1 class with usable chips, wanted two or more" in result.stderr


def test_a_class_without_chips_is_named(data: Path) -> None:
    shutil.rmtree(data / "class-1")
    result = call(load.main)
    assert "no usable chip of class-1" in result.stderr


def test_a_malformed_description_is_refused(data: Path) -> None:
    for text in ("{", "{}", '{"name": 3}', "[]"):
        (data / "dataset.json").write_text(text, encoding="utf-8")
        result = call(load.main)
        assert result.returncode == 1, text
        assert "data/dataset.json" in result.stderr and "Traceback" not in result.stderr


def test_chips_are_the_same_whatever_the_batches(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load.main()
    whole = Path("artifacts/raw/chips.npy").read_bytes()
    monkeypatch.setattr(load, "BATCH", 5)
    load.main()
    assert Path("artifacts/raw/chips.npy").read_bytes() == whole
    assert np.array_equal(np.load("artifacts/raw/chips.npy")[0], chip(0, 0).transpose(2, 0, 1))
