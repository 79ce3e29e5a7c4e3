"""Preprocess: arrays a split, and statistics of the training split alone."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline import load, preprocess
from pipeline.data.prepared import read_prepared
from pipeline.errors import DataError
from pipeline.preprocess import band_statistics
from pipeline.sources.folder import Folder
from tests.conftest import chip, write_images
from tests.pipeline.conftest import call


@pytest.fixture
def raw(workdir: Path) -> Path:
    folder = write_images(workdir / "data")
    Folder(folder).dataset().write(folder)
    load.main()
    return workdir / "artifacts" / "raw"


def test_every_chip_stands_in_the_array_of_its_split(raw: Path) -> None:
    preprocess.main()
    chips = read_prepared()
    total = 0
    for name in ("train", "validation", "test"):
        split = chips.split(name)
        total += len(split.labels)
        for pixels, label, row in zip(split.chips, split.labels, split.rows, strict=True):
            index = int(Path(row.path).stem)
            assert np.array_equal(pixels, chip(label, index).transpose(2, 0, 1))
            assert chips.dataset.classes[label] == row.label
    assert total == 36


def test_statistics_are_those_of_the_training_split(raw: Path) -> None:
    preprocess.main()
    train = np.load("artifacts/chips/train.npy").astype(float)
    found = json.loads(Path("artifacts/chips/statistics.json").read_text(encoding="utf-8"))
    assert found["mean"] == pytest.approx(train.mean(axis=(0, 2, 3)).tolist())
    assert found["std"] == pytest.approx(train.std(axis=(0, 2, 3)).tolist())


def test_pixels_without_data_do_not_count() -> None:
    chips = np.array([[[[0, 0], [10, 20]]]], np.uint16)
    assert band_statistics(chips, nodata=0) == ([15.0], [5.0])
    assert band_statistics(chips, nodata=None)[0] == [7.5]


def test_a_band_that_never_changes_does_not_divide_by_zero() -> None:
    assert band_statistics(np.full((3, 1, 4, 4), 7, np.uint8), None) == ([7.0], [1.0])
    assert band_statistics(np.zeros((3, 1, 4, 4), np.uint8), nodata=0) == ([0.0], [1.0])


def test_two_runs_give_the_same_files(raw: Path) -> None:
    preprocess.main()
    before = {p.name: p.read_bytes() for p in Path("artifacts/chips").iterdir()}
    preprocess.main()
    assert {p.name: p.read_bytes() for p in Path("artifacts/chips").iterdir()} == before


def test_a_missing_input_says_what_to_run(workdir: Path) -> None:
    result = call(preprocess.main)
    assert result.returncode == 1
    assert "dvc" in result.stderr and "Traceback" not in result.stderr
    with pytest.raises(DataError, match="dvc repro"):
        read_prepared()
