"""What the bundle carries besides the graph: reference distributions for drift, golden chips."""

import base64
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.bundle import Golden, Histogram, Reference
from pipeline.chips import Split
from pipeline.dataset import Dataset
from pipeline.inference import STATISTICS, Predictions

BINS = 10  # deciles: the usual choice for the population stability index (Siddiqi 2006, ch. 10)
GOLDEN = 2


def reference(predictions: Predictions, dataset: Dataset) -> Reference:
    """Summarise the predictions on unseen chips as the reference for drift."""
    signals = {
        f"{statistic}/{band}": _histogram(predictions.statistics[:, b, s])
        for s, statistic in enumerate(STATISTICS)
        for b, band in enumerate(dataset.bands)
    }
    signals["confidence"] = _histogram(predictions.probabilities.max(axis=1))
    counts = np.bincount(predictions.probabilities.argmax(axis=1), minlength=len(dataset.classes))
    return Reference(
        samples=len(predictions.probabilities),
        signals=signals,
        classes=dict(zip(dataset.classes, counts.tolist(), strict=True)),
    )


def _histogram(values: npt.NDArray[np.float32]) -> Histogram:
    """Bins of equal counts; the outer ones are open in use. A constant signal has one bin."""
    edges = np.unique(np.quantile(values.astype(np.float64), np.linspace(0, 1, BINS + 1)))
    if len(edges) == 1:
        edges = np.array([edges[0], edges[0]])
        return Histogram(edges=tuple(edges.tolist()), counts=(len(values),))
    counts, _ = np.histogram(values, edges)
    return Histogram(edges=tuple(edges.tolist()), counts=tuple(counts.tolist()))


def golden(predictions: Predictions, split: Split) -> tuple[Golden, ...]:
    """Pick chips of different answers; the surest ones, far from where rounding flips a class."""
    confidence = predictions.probabilities.max(axis=1)
    answers = predictions.probabilities.argmax(axis=1)
    chosen: dict[int, int] = {}  # answer -> chip
    for chip in np.argsort(-confidence, kind="stable"):
        chosen.setdefault(int(answers[chip]), int(chip))
        if len(chosen) == GOLDEN:
            break
    return tuple(
        Golden(
            chip=encode_chip(split.chips[chip]),
            probabilities=tuple(predictions.probabilities[chip].tolist()),
        )
        for chip in chosen.values()
    )


def encode_chip(chip: npt.NDArray[Any]) -> str:
    """Pack an array into text: little-endian bytes, zlib, base64."""
    content = np.ascontiguousarray(chip, chip.dtype.newbyteorder("<")).tobytes()
    return base64.b64encode(zlib.compress(content, 9)).decode()
