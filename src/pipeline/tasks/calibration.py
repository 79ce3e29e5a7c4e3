"""How far the confidence of a model is from its accuracy: measured, mended, and drawn."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

# scipy and matplotlib take seconds to import: each is imported where it is used.
if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPERATURES = (-2.5, 2.5)  # natural logarithm of the temperature: 1/12 to 12


def temperature(logits: npt.NDArray[np.float32], targets: npt.NDArray[np.int64]) -> float:
    """Find the temperature with the least log loss on held-out chips (Guo et al. 2017).

    Label smoothing and early stopping leave a model with too low or too high confidence. One number
    that divides the logits corrects most of that and changes no predicted class.

    Args:
        logits: (N, classes).
        targets: (N,), index of the true class.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    exact = logits.astype(np.float64)
    rows = np.arange(len(targets))

    def log_loss(logarithm: float) -> float:
        return -float(log_softmax(exact / np.exp(logarithm), axis=1)[rows, targets].mean())

    return float(np.exp(minimize_scalar(log_loss, bounds=TEMPERATURES, method="bounded").x))


class Reliability(NamedTuple):
    """Predictions whose confidence lies in one bin."""

    confidence: float
    """Mean of the bin."""
    accuracy: float
    share: float
    """Of all predictions."""


def reliability(
    confidence: npt.NDArray[np.float64], correct: npt.NDArray[np.bool_], bins: int
) -> list[Reliability]:
    """Confidence and accuracy, (N,) each, in bins of equal width; empty bins are left out."""
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        Reliability(
            float(confidence[inside].mean()), float(correct[inside].mean()), float(inside.mean())
        )
        for inside in (bin_of == number for number in range(bins))
        if inside.any()
    ]


def calibration_error(table: Sequence[Reliability]) -> float:
    """Expected calibration error: how far confidence is from accuracy, 0..1 (Guo et al. 2017)."""
    return sum(row.share * abs(row.accuracy - row.confidence) for row in table)


def draw_reliability(table: Sequence[Reliability], error: float, unit: str) -> "Figure":
    """Draw accuracy over confidence; a calibrated model lies on the diagonal."""
    from pipeline.tasks import plots

    figure = plots.figure(4.6, 4.2)
    axes = figure.subplots()
    axes.plot((0, 1), (0, 1), color=plots.GREY, linestyle="--", linewidth=1, label="perfect")
    sizes = [20 + 400 * row.share for row in table]
    confidence, accuracy = [row.confidence for row in table], [row.accuracy for row in table]
    axes.plot(confidence, accuracy, color=plots.BLUE, linewidth=1)
    label = f"model (area: {unit})"
    axes.scatter(confidence, accuracy, s=sizes, color=plots.BLUE, alpha=0.7, label=label)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy")
    axes.set_title(f"Calibration: expected error {error:.3f}")
    axes.legend(loc="upper left", fontsize=8, markerscale=0.5)
    return figure
