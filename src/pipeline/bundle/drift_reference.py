"""What the bundle carries besides the graph: reference distributions for drift, golden chips."""

import base64
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.bundle import Golden, Histogram, Reference
from pipeline.bundle.inference import STATISTICS, Predictions
from pipeline.data.dataset import Dataset
from pipeline.data.prepared import Split
from pipeline.tasks.task import Task

BINS = 10  # deciles: the usual choice for the population stability index (Siddiqi 2006, ch. 10)
TIE = 1e-6  # of a value: so near, two are the same; another processor rounds in another way
GOLDEN = 2


def drift_reference(predictions: Predictions, dataset: Dataset, task: Task) -> Reference:
    """Summarise the predictions on unseen chips as the reference for drift."""
    signals = {
        f"{statistic}/{band}": histogram(predictions.statistics[:, b, s])
        for s, statistic in enumerate(STATISTICS)
        for b, band in enumerate(dataset.bands)
    }
    for name, values in task.signals(predictions.probabilities).items():
        signals[name] = histogram(values)
    predicted = task.predicted_classes(predictions.probabilities)
    counts = np.bincount(predicted, minlength=len(dataset.classes))
    return Reference(
        samples=len(predictions.probabilities),
        signals=signals,
        classes=dict(zip(dataset.classes, counts.tolist(), strict=True)),
    )


def histogram(values: npt.NDArray[np.float32]) -> Histogram:
    """Count values (N,) into bins of equal counts; the outer ones are open in use.

    A value that a tenth of them or more have gets a bin of its own: deciles that fall together
    would leave it in one bin with its neighbours, where no change shows. A constant has one bin.
    """
    quantiles = np.quantile(values.astype(np.float64), np.linspace(0, 1, BINS + 1))
    edges, times = np.unique(quantiles, return_counts=True)
    if len(edges) == 1:
        return Histogram(edges=(float(edges[0]),) * 2, counts=(len(values),))
    for common in edges[times > 1]:
        low, high = common - TIE * abs(common), common + TIE * abs(common)
        edges = edges[(edges < low) | (edges > high)]
        # In 32 bits, as the values are: the next number of 64 bits would round back to this one.
        above = np.nextafter(np.float32(high), np.float32(np.inf))
        edges = np.unique([*edges, low, float(above)])
    counts, _ = np.histogram(values, edges)
    return Histogram(edges=tuple(edges.tolist()), counts=tuple(counts.tolist()))


def golden(predictions: Predictions, split: Split, task: Task) -> tuple[Golden, ...]:
    """Pack the chips that the task chooses, with their probabilities."""
    return tuple(
        Golden(
            chip=encode_chip(split.chips[chip]),
            probabilities=tuple(predictions.probabilities[chip].tolist()),
        )
        for chip in task.golden(predictions.probabilities, GOLDEN)
    )


def encode_chip(chip: npt.NDArray[Any]) -> str:
    """Pack an array into text: little-endian bytes, zlib, base64."""
    content = np.ascontiguousarray(chip, chip.dtype.newbyteorder("<")).tobytes()
    return base64.b64encode(zlib.compress(content, 9)).decode()
