"""Intersection over union from confusion matrices, with intervals by blocks.

In the shapes below B is a number of blocks, K that of classes; `blocks` are (B, K, K) pixels, a row
a true class.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.tasks.intervals import Interval

Matrices = npt.NDArray[np.float64]
PERCENTILES = (2.5, 97.5)
AT_A_TIME = 200  # resamples in memory


class ClassScore(NamedTuple):
    """Scores of one class."""

    iou: float
    """Intersection over union; 0 of a class that is neither there nor predicted."""
    precision: float
    recall: float
    f1: float
    support: int
    """Test pixels."""


def matrices(blocks: Sequence[Mapping[tuple[str, str], int]], names: Sequence[str]) -> Matrices:
    """Confusion matrices of blocks from their pairs of true and predicted class."""
    index = {name: number for number, name in enumerate(names)}
    found = np.zeros((len(blocks), len(names), len(names)))
    for table, pairs in zip(found, blocks, strict=True):
        for (true, best), pixels in pairs.items():
            table[index[true], index[best]] = pixels
    return found


def mean_iou(table: npt.NDArray[Any]) -> float:
    """Mean over the classes that are there or predicted, of a matrix (K, K)."""
    return float(_mean_iou(table[None].astype(np.float64))[0])


def _mean_iou(tables: Matrices) -> npt.NDArray[np.float64]:
    """(n, K, K) -> (n,)."""
    both = np.diagonal(tables, axis1=1, axis2=2)
    either = tables.sum(axis=1) + tables.sum(axis=2) - both
    present = either > 0
    ious = np.divide(both, either, out=np.zeros_like(both), where=present)
    mean: npt.NDArray[np.float64] = ious.sum(axis=1) / np.maximum(present.sum(axis=1), 1)
    return mean


def scores(table: npt.NDArray[Any], index: int) -> ClassScore:
    """Scores of one class of a matrix (K, K)."""
    both, predicted, true = table[index, index], table[:, index].sum(), table[index].sum()

    def share(of: float) -> float:
        return float(both / of) if of else 0.0

    return ClassScore(
        iou=share(predicted + true - both),
        precision=share(predicted),
        recall=share(true),
        f1=share((predicted + true) / 2),
        support=int(true),
    )


def accuracy(blocks: Matrices) -> npt.NDArray[np.float64]:
    """Share of the pixels that are right in each block, (B,)."""
    right = np.trace(blocks, axis1=1, axis2=2)
    share: npt.NDArray[np.float64] = right / np.maximum(blocks.sum(axis=(1, 2)), 1)
    return share


def interval(blocks: Matrices, samples: int, seed: int = 0) -> Interval:
    """95 % interval of the mean IoU by a bootstrap of blocks (Efron & Tibshirani 1993)."""
    return _percentiles(
        [_mean_iou(_resample(weights, blocks)) for weights in _weights(blocks, samples, seed)]
    )


def difference(champion: Matrices, challenger: Matrices, samples: int, seed: int = 0) -> Interval:
    """95 % interval of the gain in mean IoU; both are resampled alike, block by block."""
    return _percentiles(
        [
            _mean_iou(_resample(weights, challenger)) - _mean_iou(_resample(weights, champion))
            for weights in _weights(champion, samples, seed)
        ]
    )


def _weights(blocks: Matrices, samples: int, seed: int) -> "list[npt.NDArray[np.int64]]":
    """How often each block is drawn, (samples, B), in parts."""
    rng, count = np.random.default_rng(seed), len(blocks)
    even = np.full(count, 1 / count)
    parts = [AT_A_TIME] * (samples // AT_A_TIME) + [samples % AT_A_TIME] * bool(samples % AT_A_TIME)
    return [rng.multinomial(count, even, size) for size in parts]


def _resample(weights: npt.NDArray[np.int64], blocks: Matrices) -> Matrices:
    """(n, B) times (B, K, K) -> (n, K, K)."""
    drawn: Matrices = np.tensordot(weights.astype(np.float64), blocks, 1)
    return drawn


def _percentiles(parts: "list[npt.NDArray[np.float64]]") -> Interval:
    low, high = np.percentile(np.concatenate(parts), PERCENTILES)
    return Interval(float(low), float(high))
