"""Which pixel of a label map goes to training, validation and test: by squares of ground.

Neighbouring pixels look alike: a random split would test on what it has trained on. Whole blocks are
held out, of every date of a place alike, and a strip around them is in no split. A chip on the border
of blocks stands in several splits, each time with the labels of that split alone.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.bundle import NODATA
from pipeline.data.chip_table import Row
from pipeline.data.dataset import SPLITS, Dataset, Maps, predefined_split
from pipeline.data.places import Place, place
from pipeline.data.split import hold_out
from pipeline.errors import DataError
from pipeline.params import Preprocess

RANK = {split: rank for rank, split in enumerate(SPLITS)}
NONE = -1  # rank of a place that no split has

Ranks = npt.NDArray[np.int64]
"""(size, size): the split of each pixel of a chip, as an index of SPLITS."""


def assign(
    rows: Sequence[Row], labels: Maps, dataset: Dataset, params: Preprocess
) -> Iterator[tuple[Row, Ranks]]:
    """Yield each chip with the split of each of its pixels.

    Raises:
        DataError: a class has no pixel in some split, or the scenes lack what the split needs.
    """
    ranks = {"random": _random, "spatial": _spatial, "predefined": _predefined}[
        "spatial" if params.split == "auto" else params.split
    ](rows, labels, dataset, params)
    counts = np.zeros((len(SPLITS), len(dataset.classes)), np.int64)
    for row, of_pixels in zip(rows, ranks, strict=True):
        known = labels[row.row] != NODATA
        for rank in range(len(SPLITS)):
            chosen = labels[row.row][known & (of_pixels == rank)]
            counts[rank] += np.bincount(chosen, minlength=len(dataset.classes))
        yield row, of_pixels
    _check_every_class_everywhere(counts, dataset.classes, params)


def _random(
    rows: Sequence[Row], labels: Maps, dataset: Dataset, params: Preprocess
) -> Iterator[Ranks]:
    """Hold out chips: flatters, as neighbours look alike. To compare with."""
    split_of = hold_out({row.sha256 for row in rows}, lambda chip: 1, params)
    for row in rows:
        yield np.full((dataset.size,) * 2, RANK[split_of[row.sha256]], np.int64)


def _predefined(
    rows: Sequence[Row], labels: Maps, dataset: Dataset, params: Preprocess
) -> Iterator[Ranks]:
    for row in rows:
        if not (split := predefined_split(row.path)):
            raise DataError(
                f"data/{row.path} is in no split, which preprocess.split: predefined needs: ingest "
                f"folders {', '.join(SPLITS)} with images and labels below, or set it to spatial"
            )
        yield np.full((dataset.size,) * 2, RANK[split], np.int64)


def _spatial(
    rows: Sequence[Row], labels: Maps, dataset: Dataset, params: Preprocess
) -> Iterator[Ranks]:
    """Hold out blocks of ground, and leave out what is near a block that is held out further."""
    if params.buffer > params.block_size:
        raise DataError(
            f"preprocess.buffer is {params.buffer:g} m, more than a block of "
            f"{params.block_size:g} m: nothing would be left, use a smaller one"
        )
    weight: Counter[str] = Counter()
    for row in rows:
        known = labels[row.row] != NODATA
        for name, inside in place(row, dataset, params.block_size).names():
            weight[name] += int((known & inside).sum())
    blocks = [name for name, pixels in weight.items() if pixels]
    split_of = hold_out(blocks, weight.__getitem__, params)
    rank_of = defaultdict(lambda: NONE, {name: RANK[split] for name, split in split_of.items()})
    for row in rows:
        ranks = _ranks(place(row, dataset, params.block_size), rank_of)
        for south in (-params.buffer, 0, params.buffer):
            for east in (-params.buffer, 0, params.buffer):
                near = _ranks(place(row, dataset, params.block_size, east, south), rank_of)
                ranks = np.where(near > ranks, NONE, ranks)
        yield ranks


def _ranks(place: Place, rank_of: dict[str, int]) -> Ranks:
    ranks = np.full((len(place.lines), len(place.columns)), NONE, np.int64)
    for name, inside in place.names():
        ranks[inside] = rank_of[name]
    return ranks


def _check_every_class_everywhere(
    counts: npt.NDArray[Any], classes: Sequence[str], params: Preprocess
) -> None:
    for name, column in zip(classes, counts.T, strict=True):
        if missing := [split for split, pixels in zip(SPLITS, column, strict=True) if not pixels]:
            raise DataError(
                f"class {name} ({column.sum()} pixels) has none in {' and '.join(missing)}: use a "
                "smaller preprocess.block_size or buffer, another preprocess.seed, or ingest "
                "without the class"
            )
