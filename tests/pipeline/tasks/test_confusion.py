"""Confusion matrices: counted right, and drawn in a size that can be read."""

import numpy as np
import pytest

from pipeline.tasks.confusion import count as count_pairs
from pipeline.tasks.confusion import draw


def test_a_row_is_a_true_class_and_a_column_a_predicted_one() -> None:
    table = count_pairs(np.array([0, 0, 1]), np.array([0, 1, 1]), ("a", "b", "c"))
    assert table.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize(("count", "titled"), [(40, "Confusion: 20"), (1000, "30 most frequent")])
def test_the_picture_of_confusions_has_a_bounded_size(count: int, titled: str) -> None:
    labels = np.arange(count).repeat(2)
    labels[:20] = 0
    predicted = np.where(np.arange(len(labels)) < 20, labels, (labels + 1) % count)
    names = [f"species-{index}" for index in range(count)]
    figure = draw(names, count_pairs(labels, predicted, names), "chips")
    assert titled in figure.axes[0].get_title()
    assert max(figure.get_size_inches()) < 25
