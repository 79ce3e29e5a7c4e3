"""Masks of objects as labels: EDGE x EDGE cells of a box, a line of them as one number.

Beside the class and the box of an object the array of labels has EDGE numbers: the lines of its
mask, whose bits are the cells, the lowest the first one. They are moved, joined and cut as the
boxes are, and 100 objects of a chip take 12 KB.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Cells = npt.NDArray[np.bool_]
"""(..., EDGE, EDGE): lines and columns of a box."""

EDGE = 24  # cells: as many bits as float32 holds exactly; a box of so many pixels has each of them
WIDTH = 5 + EDGE  # of a label: class, box, lines


def pack(cells: Cells) -> npt.NDArray[np.float32]:
    """(..., EDGE, EDGE) -> (..., EDGE)."""
    lines: npt.NDArray[np.float32] = (cells * (1 << np.arange(EDGE))).sum(axis=-1).astype("float32")
    return lines


def unpack(lines: npt.NDArray[Any]) -> Cells:
    """(..., EDGE) -> (..., EDGE, EDGE)."""
    return (lines.astype(np.int64)[..., None] >> np.arange(EDGE) & 1).astype(bool)


def sample(pixels: npt.NDArray[np.bool_], box: npt.NDArray[Any], left: int = 0) -> Cells:
    """The pixels (h, w) of an image that lie at the centres of the cells of a box (4,).

    Args:
        left: column of the image that `pixels` begin at.
    """
    rows, columns = (
        (low + (np.arange(EDGE) + 0.5) / EDGE * (high - low)).astype(int)
        for low, high in ((box[1], box[3]), (box[0] - left, box[2] - left))
    )
    high, wide = pixels.shape
    found: Cells = pixels[rows.clip(0, high - 1)[:, None], columns.clip(0, wide - 1)]
    return found


def draw(cells: Cells, box: npt.NDArray[Any], size: int) -> npt.NDArray[np.bool_]:
    """The pixels (size, size) of a chip that a mask covers: those whose centre is in such a cell."""
    found = np.zeros((size, size), bool)
    lines = []
    for low, high in ((box[1], box[3]), (box[0], box[2])):
        first, end = np.ceil((low - 0.5, high - 0.5)).astype(int).clip(0, size)
        centres = np.arange(first, end) + 0.5
        place = ((centres - low) / max(high - low, 1e-9) * EDGE).astype(int).clip(0, EDGE - 1)
        lines.append((slice(first, end), place))
    (rows, row), (columns, column) = lines
    found[rows, columns] = cells[row[:, None], column]
    return found


def recut(
    cells: npt.NDArray[Any], before: npt.NDArray[Any], after: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """Masks (..., n, n) of boxes (..., 4) as those of other boxes, such as parts of them."""
    edge = cells.shape[-1]
    place = (np.arange(edge) + 0.5) / edge
    chosen = []
    for low, high in ((1, 3), (0, 2)):
        at = after[..., low, None] + place * (after[..., high] - after[..., low])[..., None]
        extent = np.maximum(before[..., high] - before[..., low], 1e-6)[..., None]
        index = ((at - before[..., low, None]) / extent * edge).astype(int)
        chosen.append(index.clip(0, edge - 1))
    rows, columns = chosen
    found = np.take_along_axis(cells, rows[..., None], axis=-2)
    return np.take_along_axis(found, columns[..., None, :], axis=-1)
