"""Masks of objects: in cells of their box, in pixels of an image, and as COCO writes them.

A graph answers a mask as so many cells of its box, so that an answer has the same size whatever
the image has. `paste` makes pixels of it, for what is measured and for what is answered alike.

COCO's run-length encoding (RLE) counts pixels of a whole image column by column, from the upper
left corner down: first those outside, then those inside, and so on by turns.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, model_validator

Pixels = npt.NDArray[np.bool_]
HALF = 127.5  # of a cell, 0 to 255: as likely in as out


class Rle(BaseModel):
    """A mask in COCO's words."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: tuple[PositiveInt, PositiveInt]
    """Height and width of the image."""
    counts: tuple[NonNegativeInt, ...]

    @model_validator(mode="after")
    def _is_whole(self) -> "Rle":
        if (total := sum(self.counts)) != (wanted := self.size[0] * self.size[1]):
            raise ValueError(f"the counts add up to {total}, wanted {wanted}, height x width")
        return self


def encode_rle(pixels: Pixels, top: int, left: int, size: tuple[int, int]) -> list[int]:
    """Write a window (h, w) whose corner lies at `top`, `left` of an image as COCO's counts.

    Args:
        size: height and width of the image.
    """
    high, wide = size
    columns = np.zeros((pixels.shape[1], high), np.int8)
    columns[:, top : top + pixels.shape[0]] = pixels.T
    changes = np.flatnonzero(np.diff(columns.ravel(), prepend=0, append=0)) + left * high
    counts: list[int] = np.diff(changes, prepend=0, append=high * wide).tolist()
    return counts if counts[-1] or len(counts) == 1 else counts[:-1]


def decode_rle(counts: Sequence[int], size: tuple[int, int], left: int, right: int) -> Pixels:
    """Read the columns `left` to `right` of a mask, (height, right - left); see `encode_rle`."""
    high, _ = size
    ends = np.cumsum(counts).clip(left * high, right * high)
    lengths = np.diff(ends, prepend=left * high)
    inside = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return inside.reshape(right - left, high).T


def paste(
    cells: npt.NDArray[np.uint8], box: Sequence[float], size: tuple[int, int]
) -> tuple[Pixels, int, int]:
    """Turn cells (n, n) of a box into the pixels of an image that are more likely in than out.

    Bilinear, as masks of Mask R-CNN are pasted (He et al. 2017, arXiv 1703.06870); a pixel belongs
    to the box if its centre does.

    Args:
        box: left, top, right, bottom, pixels; what is beyond the image is left out.
        size: height and width of the image.

    Returns:
        A window, its top and its left.
    """
    (left, top, right, bottom), (high, wide) = box, size
    first_row, rows = _line(top, bottom, high, len(cells))
    first_column, columns = _line(left, right, wide, len(cells))
    likely = rows @ cells.astype(np.float32) @ columns.T
    return likely > HALF, first_row, first_column


def _line(low: float, high: float, most: int, cells: int) -> tuple[int, npt.NDArray[np.float32]]:
    """The first pixel of a line whose centre lies between two edges, and the weights of the cells
    for each such pixel, (pixels, cells)."""
    first, end = (min(max(int(np.ceil(edge - 0.5)), 0), most) for edge in (low, high))
    place = (np.arange(first, end) + 0.5 - low) / max(high - low, 1e-9) * cells - 0.5
    apart = np.abs(place.clip(0, cells - 1)[:, None] - np.arange(cells))
    return first, (1 - apart).clip(0).astype(np.float32)
