"""Divides a scene into strips and tiles, so that no pixel depends on where they begin.

A map of tiles equals the map of the whole scene, bit for bit, if each tile begins on the grid of
the network's strides and has a margin as wide as one pixel reaches. Beyond its edges a scene is
mirrored. All tiles of a scene have the same size: the model's memory is allocated once.

Strips are rows of tiles. A wide scene is divided into panels first, so that a strip never holds
more than PANEL columns: memory depends on the tile, and not on the scene.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

PANEL = 3072  # columns of a strip, pixels, unless a tile is wider


class Span(NamedTuple):
    """Pixels `start` to `stop`, along rows or columns."""

    start: int
    stop: int


class Strip(NamedTuple):
    """Rows of a panel that are mapped together."""

    number: int
    rows: Span
    columns: Span


class Grid:
    """Strips and tiles of a scene."""

    def __init__(self, height: int, width: int, tile: int, stride: int, margin: int) -> None:
        """Divide a scene into tiles of at most `tile` pixels, a multiple of `stride`."""
        self.height, self.width = height, width
        self.stride, self.margin = stride, margin
        self.tile = (_edge(height, tile, stride), _edge(width, tile, stride))
        """Rows and columns of every tile, without its margin; beyond the scene it is cut off."""
        across = math.ceil(width / self.tile[1])
        panels = math.ceil(width / max(PANEL, self.tile[1]))
        self.across = math.ceil(across / panels)
        """Tiles of a strip, at most."""

    @property
    def panel(self) -> tuple[int, int]:
        """Rows and columns of the largest strip, with whole tiles and without the margin."""
        return self.tile[0], self.tile[1] * self.across

    def strips(self) -> list[Strip]:
        """All strips, panel after panel, each from top to bottom."""
        found: list[Strip] = []
        for left in range(0, self.width, self.panel[1]):
            columns = Span(left, min(left + self.panel[1], self.width))
            for top in range(0, self.height, self.tile[0]):
                rows = Span(top, min(top + self.tile[0], self.height))
                found.append(Strip(len(found), rows, columns))
        return found

    def tiles(self, strip: Strip) -> list[int]:
        """First column of each tile of a strip, counted from the strip's first column."""
        return list(range(0, strip.columns.stop - strip.columns.start, self.tile[1]))

    def source_rows(self, strip: Strip) -> npt.NDArray[np.int64]:
        """Row of the scene for each row of a strip with its margin."""
        return self._sources(strip.rows.start, self.panel[0], self.height)

    def source_columns(self, strip: Strip) -> npt.NDArray[np.int64]:
        """Column of the scene for each column of a strip with its margin."""
        return self._sources(strip.columns.start, self.panel[1], self.width)

    def _sources(self, start: int, length: int, scene: int) -> npt.NDArray[np.int64]:
        places = np.arange(start - self.margin, start + length + self.margin)
        # What lies further out no pixel of the scene sees: it repeats the last that is seen.
        seen = -(-scene // self.stride) * self.stride + self.margin
        return mirrored(np.minimum(places, seen - 1), scene)


def mirrored(places: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int64]:
    """Pixels 0 to `length` - 1 for places within and beyond: mirrored at the outermost pixel."""
    if length == 1:
        return np.zeros_like(places)
    period = 2 * (length - 1)
    folded = np.abs(places) % period
    found: npt.NDArray[np.int64] = np.where(folded < length, folded, period - folded)
    return found


def _edge(length: int, most: int, stride: int) -> int:
    """Edge of equal tiles: as few as `most` allows, and as small as cover the length."""
    count = math.ceil(length / most)
    return math.ceil(length / count / stride) * stride
