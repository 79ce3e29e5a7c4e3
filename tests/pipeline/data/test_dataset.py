"""How many chips are in memory at a time."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.bundle.inference import predict
from pipeline.data.dataset import at_a_time
from pipeline.preprocess import band_statistics

LARGEST = 1024


class Chips:
    """Zeros of any number; remembers how many were asked for at once."""

    def __init__(self, count: int, size: int) -> None:
        self.shape = (count, 1, size, size)
        self.batches: list[int] = []

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> npt.NDArray[np.uint8]:
        start, stop, _ = rows.indices(len(self))
        self.batches.append(stop - start)
        return np.zeros((stop - start, *self.shape[1:]), np.uint8)


class Graph:
    """A model that says nothing about its chips."""

    def run(self, outputs: Any, inputs: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        return [np.zeros((len(inputs["chips"]), 1))] * 2


@pytest.mark.parametrize(("size", "chips"), [(8, 256), (64, 256), (128, 256), (256, 64)])
def test_of_large_chips_fewer_are_in_memory_at_a_time(size: int, chips: int) -> None:
    assert at_a_time(256, size) == chips


def test_the_largest_chips_are_read_a_few_at_a_time() -> None:
    for use in (
        lambda chips: band_statistics(chips, None),
        lambda chips: predict(Graph(), chips, ("one", "two")),
    ):
        chips = Chips(9, LARGEST)
        use(chips)
        assert chips.batches == [4, 4, 1]
