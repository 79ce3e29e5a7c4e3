"""Classification: measures against values worked out by hand."""

import numpy as np
import pytest

from pipeline.tasks.classification import class_scores, macro_f1, mean_log_loss

LABELS = np.array([0, 0, 0, 1, 1, 2])
PREDICTED = np.array([0, 0, 1, 1, 1, 0])


def probabilities(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32)


def test_scores_of_each_class() -> None:
    scores = class_scores(LABELS, PREDICTED, ("a", "b", "c", "d"))
    assert scores["a"] == pytest.approx((2 / 3, 2 / 3, 2 / 3, 3))
    assert scores["b"] == pytest.approx((2 / 3, 1.0, 0.8, 2))
    assert scores["c"] == (0.0, 0.0, 0.0, 1)
    assert scores["d"] == (0.0, 0.0, 0.0, 0)
    assert macro_f1(LABELS, PREDICTED, 3) == pytest.approx((2 / 3 + 0.8 + 0) / 3)


def test_log_loss_is_the_mean_of_the_logarithms() -> None:
    found = mean_log_loss(np.array([0, 1]), probabilities([0.5, 0.5], [0.75, 0.25]))
    assert found == pytest.approx(-(np.log(0.5) + np.log(0.25)) / 2, rel=1e-6)
