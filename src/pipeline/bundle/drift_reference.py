"""The reference distributions for drift that a bundle carries."""

import numpy as np
import numpy.typing as npt

from contracts.bundle import Histogram, Reference
from pipeline.bundle.inference import STATISTICS
from pipeline.data.dataset import Dataset
from pipeline.tasks.task import Output, Task

BINS = 10  # deciles: the usual choice for the population stability index (Siddiqi 2006, ch. 10)
TIE = 1e-6  # of a value: so near, two are the same; another processor rounds in another way


def drift_reference(output: Output, dataset: Dataset, task: Task) -> Reference:
    """Summarise what the graph answers for unseen chips as the reference for drift."""
    signals = {
        f"{statistic}/{band}": histogram(output["statistics"][:, b, s])
        for s, statistic in enumerate(STATISTICS)
        for b, band in enumerate(dataset.bands)
    }
    for name, values in task.signals(output).items():
        signals[name] = histogram(values)
    predicted = task.predicted_classes(output)
    counts = np.bincount(predicted, minlength=len(dataset.classes))
    return Reference(
        samples=len(output["statistics"]),
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
