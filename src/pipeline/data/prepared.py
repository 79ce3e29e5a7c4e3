"""Reads what preprocess wrote: the arrays of the splits, and how to normalise them."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline import paths
from pipeline.data.chip_table import CHIP_TABLE, Row, read_chip_table
from pipeline.data.dataset import Dataset
from pipeline.errors import DataError


class Split(NamedTuple):
    """One split of the data."""

    chips: npt.NDArray[Any]
    """(N, bands, height, width), digital numbers, memory-mapped (writes stay in memory)."""
    labels: npt.NDArray[Any]
    """Index into `Dataset.classes`, (N,); of label maps (N, height, width) uint8, 255 is none;
    of boxes (N, MOST_OBJECTS, 5) float32: class, left, top, right, bottom; class -1 is none; of
    masks their lines, too (`pipeline.data.masks`)."""
    rows: list[Row]
    """These chips in the table of chips, in the same order."""


class Prepared(NamedTuple):
    """The folder `artifacts/chips/`."""

    folder: Path
    dataset: Dataset
    mean: list[float]
    """Of each band over the training split, digital numbers."""
    std: list[float]
    digest: str
    """SHA-256 of the table of chips: changes with every chip, label and split."""

    def split(self, name: str) -> Split:
        """Open one split."""
        table = read_chip_table(self.folder / CHIP_TABLE)
        rows = [row for row in table if row.split == name]
        chips = np.load(self.folder / f"{name}.npy", mmap_mode="c")
        if self.dataset.labels != "folders":
            return Split(chips, np.load(self.folder / f"{name}-labels.npy", mmap_mode="c"), rows)
        index = {label: number for number, label in enumerate(self.dataset.classes)}
        labels = np.array([index[row.label] for row in rows], np.int64)
        return Split(chips, labels, rows)


def read_prepared(folder: Path = paths.CHIPS) -> Prepared:
    """Open the output of preprocess.

    Raises:
        DataError: it is not there.
    """
    try:
        statistics = json.loads((folder / "statistics.json").read_text(encoding="utf-8"))
        digest = hashlib.sha256((folder / CHIP_TABLE).read_bytes()).hexdigest()
    except FileNotFoundError:
        raise DataError(
            f"{folder} is missing: run `dvc repro`, or `python -m pipeline.preprocess` alone"
        ) from None
    return Prepared(folder, Dataset.read(folder), statistics["mean"], statistics["std"], digest)
