"""Measures, against values worked out by hand."""

import numpy as np
import pytest

from pipeline.evaluation.measures import (
    calibration_error,
    class_scores,
    interval,
    macro_f1,
    mean_log_loss,
    reliability,
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


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        low, high = interval((rng.random(200) < 0.8).astype(float), 500, seed=trial)
        covered += low <= 0.8 <= high
    assert 180 <= covered <= 199  # 95 %, give or take


def test_values_that_are_all_alike_have_no_width() -> None:
    assert interval(np.ones(10), 100) == (1, 1)
