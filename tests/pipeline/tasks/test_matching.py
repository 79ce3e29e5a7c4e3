"""Matching: which boxes are right, and what follows, against figures that a hand can check."""

import numpy as np
import pytest

from pipeline.tasks import matching
from pipeline.tasks.matching import Found


def boxes(*edges: tuple[float, ...]) -> np.ndarray:
    return np.array(edges, np.float32).reshape(-1, 4)


def test_the_overlap_is_intersection_over_union() -> None:
    one = boxes((0, 0, 10, 10), (100, 100, 110, 110))
    other = boxes((0, 0, 10, 10), (5, 0, 15, 10), (20, 20, 30, 30))
    assert matching.overlaps(one, other)[0].tolist() == pytest.approx([1, 1 / 3, 0])
    assert matching.overlaps(one, other)[1].tolist() == [0, 0, 0]


def test_an_object_is_taken_once_by_the_surest_box() -> None:
    true = boxes((0, 0, 10, 10), (50, 50, 60, 60))
    found = boxes((1, 0, 11, 10), (0, 0, 10, 10), (80, 80, 90, 90), (50, 50, 60, 61))
    assert matching.match(found, true).tolist() == [0, -1, -1, 1]
    assert matching.match(found, boxes()).tolist() == [-1] * 4
    assert matching.match(boxes(), true).tolist() == []


def test_an_overlap_of_just_half_is_right_and_less_is_not() -> None:
    true = boxes((0, 0, 10, 10))
    assert matching.match(boxes((0, 0, 10, 5)), true).tolist() == [0]
    assert matching.match(boxes((0, 0, 10, 4.9)), true).tolist() == [-1]


def test_average_precision_is_that_of_a_hand() -> None:
    # right, wrong, right: precision 1 up to recall 1/4, then 2/3 up to 1/2, then nothing.
    scores = {"a": {"ship": Found(2, (0.9,), (0.8,))}, "b": {"ship": Found(2, (0.7,), ())}}
    expected = (26 * 1 + 25 * 2 / 3) / 101
    assert matching.average_precision(scores, "ship")[0] == pytest.approx(expected)
    perfect = {"a": {"ship": Found(2, (0.9, 0.1), ())}}
    assert matching.average_precision(perfect, "ship")[0] == 1
    assert matching.average_precision({"a": {"ship": Found(2, (), (0.9,))}}, "ship")[0] == 0


Row = tuple[float, ...]
# What pycocotools 2.0.11 says of these, at an overlap of 0.5 (docs/decisions.md, 2026-11-30).
# An image has objects (class, left, top, right, bottom) and boxes (class, score, left, ...).
COCO = [
    (
        0.40594059405940597,
        [
            (
                [(0, 34, 31, 40, 57), (0, 47, 19, 78, 29), (0, 69, 0, 84, 31)]
                + [(0, 8, 12, 25, 41), (0, 47, 14, 59, 27)],
                [(0, 0.7437, 34.35, 31.34, 40.47, 58.09), (0, 0.4344, 68.66, 1.53, 81.02, 32.15)],
            )
        ],
    ),
    (
        0.5016501650165015,
        [
            (
                [(0, 4, 72, 15, 84), (1, 26, 14, 41, 47), (2, 73, 35, 86, 67), (0, 68, 71, 71, 92)],
                [(0, 0.8647, 68.46, 73.71, 71.14, 92.01), (2, 0.7991, 71.95, 38.84, 86.21, 72.88)]
                + [(2, 0.2779, 17.0, 15.0, 52.0, 25.0), (2, 0.1843, 73.53, 26.52, 87.29, 72.92)],
            )
        ],
    ),
    (
        0.9174917491749173,
        [
            (
                [(1, 35, 20, 68, 31), (0, 9, 24, 23, 43)],
                [(0, 0.6582, 9.9, 27.36, 22.1, 43.44), (0, 0.5543, 10.72, 25.34, 25.35, 41.15)]
                + [(1, 0.5247, 37.53, 21.86, 65.62, 29.27), (0, 0.4026, 22.0, 15.0, 45.0, 47.0)],
            ),
            ([(0, 75, 14, 112, 17)], [(0, 0.5528, 64.85, 14.27, 108.46, 17.52)]),
        ],
    ),
]


@pytest.mark.parametrize(("expected", "images"), COCO)
def test_ap50_is_that_of_pycocotools(
    expected: float, images: list[tuple[list[Row], list[Row]]]
) -> None:
    names = [str(index) for index in range(3)]
    scores: dict[str, dict[str, Found]] = {}
    for number, (objects, listed) in enumerate(images):
        scores[str(number)] = of = {}
        for name in names:
            true = boxes(*(row[1:] for row in objects if str(row[0]) == name))
            ours = [row for row in listed if str(row[0]) == name]
            taken = matching.match(boxes(*(row[2:] for row in ours)), true)
            sure = np.array([row[1] for row in ours])
            if len(true) or len(ours):
                right, wrong = sure[taken >= 0].tolist(), sure[taken < 0].tolist()
                of[name] = Found(len(true), tuple(right), tuple(wrong))
    assert matching.mean_average_precision(scores, names)[0] == pytest.approx(expected, abs=1e-12)


def test_a_class_that_does_not_occur_is_in_no_mean() -> None:
    scores = {"a": {"ship": Found(1, (0.9,), ()), "tank": Found(0, (), (0.9,))}}
    assert np.isnan(matching.average_precision(scores, "tank")[0])
    assert matching.mean_average_precision(scores, ("ship", "tank"))[0] == 1
    assert matching.mean_average_precision({"a": {}}, ("ship",))[0] == 0


def test_a_resampled_image_counts_as_often_as_it_was_drawn() -> None:
    scores = {"a": {"ship": Found(1, (0.9,), ())}, "b": {"ship": Found(1, (), (0.95,))}}
    times = np.array([[1, 1], [2, 0], [0, 2], [1, 3]])
    twice = {"a": scores["a"], **{f"b{n}": scores["b"] for n in range(3)}}
    found = matching.average_precision(scores, "ship", times)
    assert found[1:3].tolist() == [1, 0]
    assert found[0] == matching.average_precision(scores, "ship")[0]
    assert found[3] == matching.average_precision(twice, "ship")[0]
    drawn = matching.resample(7, 50)
    assert drawn.shape == (50, 7) and (drawn.sum(axis=1) == 7).all()


def test_boxes_are_counted_at_a_threshold() -> None:
    scores = {
        "a": {"ship": Found(2, (0.9, 0.4), (0.6,))},
        "b": {"tank": Found(1, (0.5,), ())},
    }
    assert matching.count(scores, 0.5) == (2, 1, 1)
    assert matching.count(scores, 0.5, "ship") == (1, 1, 1)
    counts = matching.count(scores, 0.5)
    assert (counts.precision, counts.recall, counts.f1) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    nothing = matching.count({}, 0.5)
    assert (nothing.precision, nothing.recall, nothing.f1) == (0, 0, 0)


def test_the_threshold_lies_between_what_is_right_and_what_is_wrong() -> None:
    scores = {"a": {"ship": Found(2, (0.9, 0.8), (0.3, 0.2))}}
    assert 0.3 < matching.best_threshold(scores) <= 0.8
    assert matching.best_threshold({"a": {"ship": Found(2, (), (0.3,))}}) == 0.5


def test_a_size_is_the_root_of_the_area() -> None:
    found = matching.size_of(boxes((0, 0, 7, 9), (0, 0, 8, 8), (0, 0, 4, 64), (0, 0, 40, 40)))
    assert found == ["tiny", "small", "medium", "large"]
    assert matching.size_of(boxes()) == []
