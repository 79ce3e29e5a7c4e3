"""Which squares of ground the pixels of a chip lie in."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.data.chip_table import Row
from pipeline.data.dataset import Dataset


class Place(NamedTuple):
    """The blocks of a chip. North is up: a column has one index, and a line has one."""

    grid: str
    """What blocks are counted in: a CRS, or a scene without one, with their size."""
    columns: npt.NDArray[np.int64]
    lines: npt.NDArray[np.int64]

    def names(self) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
        """Each block with its pixels (size, size)."""
        for line in np.unique(self.lines):
            for column in np.unique(self.columns):
                inside = (self.lines == line)[:, None] & (self.columns == column)[None]
                yield f"{self.grid} {column} {line}", inside


def place(row: Row, dataset: Dataset, size: float, east: float = 0, south: float = 0) -> Place:
    """Find the blocks of `size` metres that the pixels of a chip lie in, moved by some metres."""
    assert row.centre is not None  # every chip of a scene has one
    pixel = dataset.resolution or 1.0
    steps = (np.arange(dataset.size) + 0.5 - dataset.size / 2) * pixel
    x, y = row.centre[0] + steps + east, row.centre[1] - steps - south
    return Place(
        f"{row.crs} {size:g} m", (x // size).astype(np.int64), (y // size).astype(np.int64)
    )
