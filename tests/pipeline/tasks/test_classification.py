"""Classification: measures against values worked out by hand, temperatures that are known."""

import numpy as np
import pytest

from pipeline.tasks.classification import (
    _draw_confusion,
    calibration_error,
    class_scores,
    macro_f1,
    mean_log_loss,
    reliability,
    temperature,
)

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


def test_a_model_that_is_as_sure_as_it_is_right_is_calibrated() -> None:
    rows = probabilities(*[[0.75, 0.25]] * 4)
    assert calibration_error(np.array([0, 0, 0, 1]), rows, 10) == pytest.approx(0)
    assert calibration_error(np.array([1, 1, 1, 1]), rows, 10) == pytest.approx(0.75)


def test_certainty_falls_into_the_last_bin() -> None:
    table = reliability(np.array([0, 1]), probabilities([1, 0], [1, 0]), 15)
    assert [(row.confidence, row.accuracy, row.share) for row in table] == [(1, 0.5, 1)]


def drawn(scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from the softmax of logits, which are then multiplied by `scale`."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 5))
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (chances.cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)
    return (scale * logits).astype(np.float32), labels


@pytest.mark.parametrize("scale", [0.25, 1.0, 4.0])
def test_a_model_that_is_too_timid_or_too_sure_is_mended(scale: float) -> None:
    assert temperature(*drawn(scale)) == pytest.approx(scale, rel=0.05)


def test_a_model_that_is_always_right_stays_within_limits() -> None:
    logits = np.eye(3, dtype=np.float32)
    assert 1 / 13 < temperature(logits, np.arange(3)) < 1


@pytest.mark.parametrize(("count", "titled"), [(40, "Confusion: 20"), (1000, "30 most frequent")])
def test_the_picture_of_confusions_has_a_bounded_size(count: int, titled: str) -> None:
    labels = np.arange(count).repeat(2)
    labels[:20] = 0
    predicted = np.where(np.arange(len(labels)) < 20, labels, (labels + 1) % count)
    figure = _draw_confusion([f"species-{index}" for index in range(count)], labels, predicted)
    assert titled in figure.axes[0].get_title()
    assert max(figure.get_size_inches()) < 25
