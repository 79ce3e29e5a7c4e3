"""Intersection over union against values worked out by hand, and intervals by blocks."""

import numpy as np
import pytest

from pipeline.tasks.overlap import accuracy, difference, interval, matrices, mean_iou, scores

TABLE = np.array([[6, 2, 0], [1, 3, 0], [0, 0, 0]])  # the third class is nowhere


def blocks(right: list[int], wrong: list[int]) -> np.ndarray:
    """Blocks of two classes with so many pixels right and wrong in each."""
    found = np.zeros((len(right), 2, 2))
    found[:, 0, 0] = found[:, 1, 1] = right
    found[:, 0, 1] = found[:, 1, 0] = wrong
    return found


def test_scores_of_a_class() -> None:
    first = scores(TABLE, 0)
    assert first == pytest.approx((6 / 9, 6 / 7, 6 / 8, 6 / 7.5, 8))
    assert scores(TABLE, 2) == (0.0, 0.0, 0.0, 0.0, 0)


def test_the_mean_is_over_the_classes_that_are_there() -> None:
    assert mean_iou(TABLE) == pytest.approx((6 / 9 + 3 / 6) / 2)
    assert mean_iou(np.zeros((2, 2))) == 0


def test_matrices_are_made_of_pairs_of_names() -> None:
    found = matrices([{("a", "b"): 4}, {}], ["a", "b"])
    assert found.tolist() == [[[0, 4], [0, 0]], [[0, 0], [0, 0]]]
    assert accuracy(blocks([3], [1])).tolist() == [0.75]


def test_an_interval_is_as_wide_as_the_blocks_differ() -> None:
    even = interval(blocks([80] * 20, [20] * 20), 500)
    assert even.low == even.high == pytest.approx(mean_iou(blocks([80], [20])[0]))
    uneven = interval(blocks([100, 60] * 10, [0, 40] * 10), 500)
    assert uneven.low < even.low < uneven.high
    assert uneven.high - uneven.low > 0.1
    few = interval(blocks([100, 60] * 2, [0, 40] * 2), 500)
    assert few.high - few.low > uneven.high - uneven.low


def test_two_models_that_err_alike_do_not_differ_however_uneven_the_blocks_are() -> None:
    model = blocks([100, 60] * 10, [0, 40] * 10)
    assert difference(model, model, 300) == (0, 0)
    better = difference(model, blocks([100, 70] * 10, [0, 30] * 10), 300)
    assert 0 < better.low < better.high


def test_one_seed_gives_one_interval() -> None:
    model = blocks([100, 60, 30], [0, 40, 70])
    assert interval(model, 350) == interval(model, 350)
