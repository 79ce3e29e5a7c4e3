"""Calibration: errors worked out by hand, temperatures that are known."""

import numpy as np
import pytest

from pipeline.tasks.calibration import calibration_error, reliability, temperature


def test_a_model_that_is_as_sure_as_it_is_right_is_calibrated() -> None:
    confidence = np.full(4, 0.75)
    right = reliability(confidence, np.array([True, True, True, False]), 10)
    assert calibration_error(right) == pytest.approx(0)
    wrong = reliability(confidence, np.zeros(4, bool), 10)
    assert calibration_error(wrong) == pytest.approx(0.75)


def test_certainty_falls_into_the_last_bin() -> None:
    table = reliability(np.ones(2), np.array([True, False]), 15)
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
