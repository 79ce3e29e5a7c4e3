"""Temperature scaling: makes a trained classifier as sure as it is right (Guo et al. 2017).

Label smoothing and early stopping leave a model too timid or too sure. One number that divides the
logits mends most of it and changes no answer.
"""

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

LIMITS = (-2.5, 2.5)  # logarithm of the temperature: 1/12 to 12


def temperature(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    """Find the temperature with the least log loss on held-out chips.

    Args:
        logits: (N, classes).
        labels: (N,), index of the true class.
    """
    exact = logits.astype(np.float64)
    rows = np.arange(len(labels))

    def loss(logarithm: float) -> float:
        return -float(log_softmax(exact / np.exp(logarithm), axis=1)[rows, labels].mean())

    return float(np.exp(minimize_scalar(loss, bounds=LIMITS, method="bounded").x))
