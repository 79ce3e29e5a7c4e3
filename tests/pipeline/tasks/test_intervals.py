"""Bootstrap intervals."""

import numpy as np

from pipeline.tasks.intervals import interval


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        low, high = interval((rng.random(200) < 0.8).astype(float), 500, seed=trial)
        covered += low <= 0.8 <= high
    assert 180 <= covered <= 199  # 95 %, give or take


def test_values_that_are_all_alike_have_no_width() -> None:
    assert interval(np.ones(10), 100) == (1, 1)
