"""What a set of predictions is worth: pure functions of arrays.

Shapes: `labels` (N,) int, `probabilities` (N, classes) float, rows sum to 1.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import bootstrap
from sklearn.metrics import f1_score, log_loss, precision_recall_fscore_support

Labels = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.float32]


class Interval(NamedTuple):
    """A 95 % interval."""

    low: float
    high: float


def interval(values: npt.NDArray[np.float64], samples: int, seed: int = 0) -> Interval:
    """95 % percentile-bootstrap interval of the mean of `values` (N,) (Efron & Tibshirani 1993)."""
    if np.ptp(values) == 0:  # nothing to resample: every resample is the same
        return Interval(float(values[0]), float(values[0]))
    found = bootstrap(
        (values,),
        np.mean,
        n_resamples=samples,
        batch=100,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(found.low), float(found.high))


def calibration_error(labels: Labels, probabilities: Probabilities, bins: int) -> float:
    """Expected calibration error: how far confidence is from accuracy, 0..1 (Guo et al. 2017)."""
    table = reliability(labels, probabilities, bins)
    return sum(row.share * abs(row.accuracy - row.confidence) for row in table)


class Reliability(NamedTuple):
    """Chips whose confidence lies in one bin."""

    confidence: float
    """Mean of the bin."""
    accuracy: float
    share: float
    """Of all chips."""


def reliability(labels: Labels, probabilities: Probabilities, bins: int) -> list[Reliability]:
    """Confidence and accuracy in bins of equal width; empty bins are left out."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == labels
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        Reliability(
            float(confidence[inside].mean()), float(correct[inside].mean()), float(inside.mean())
        )
        for inside in (bin_of == number for number in range(bins))
        if inside.any()
    ]


class ClassScore(NamedTuple):
    """How one class fares."""

    precision: float
    recall: float
    f1: float
    support: int


def class_scores(
    labels: Labels, predicted: Labels, classes: Sequence[str]
) -> dict[str, ClassScore]:
    """Precision, recall, F1 and number of chips of every class."""
    columns = precision_recall_fscore_support(
        labels, predicted, labels=range(len(classes)), zero_division=0
    )
    return {
        name: ClassScore(float(p), float(r), float(f), int(s))
        for name, p, r, f, s in zip(classes, *columns, strict=True)
    }


def macro_f1(labels: Labels, predicted: Labels, classes: int) -> float:
    """Mean of the F1 of all classes."""
    return float(
        f1_score(labels, predicted, labels=range(classes), average="macro", zero_division=0)
    )


def mean_log_loss(labels: Labels, probabilities: Probabilities) -> float:
    """Mean negative log-likelihood, natural logarithm."""
    exact = probabilities.astype(np.float64)
    exact /= exact.sum(axis=1, keepdims=True)  # float32 softmax sums to 1 within 1e-7 only
    return float(log_loss(labels, exact, labels=range(probabilities.shape[1])))
