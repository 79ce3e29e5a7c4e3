"""Masks: COCO's runs both ways, and cells of a box that become the pixels of an image."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydantic import ValidationError

from contracts.masks import Rle, decode_rle, encode_rle, paste

FULL = np.full((4, 4), 255, np.uint8)


@given(arrays.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))), st.data())
def test_what_is_encoded_is_decoded_as_a_whole_and_in_columns(pixels: Any, data: Any) -> None:
    high, wide = pixels.shape
    counts = encode_rle(pixels, 0, 0, (high, wide))
    Rle(size=(high, wide), counts=tuple(counts))
    assert all(counts[1:]), "two runs that follow each other differ"
    left = data.draw(st.integers(0, wide))
    right = data.draw(st.integers(left, wide))
    assert np.array_equal(decode_rle(counts, (high, wide), left, right), pixels[:, left:right])


def test_runs_go_down_the_columns_and_begin_outside() -> None:
    pixels = np.zeros((6, 8), bool)
    pixels[1:5, 2:6] = True
    pixels[2, 3] = False
    runs = [13, 4, 2, 1, 1, 2, 2, 4, 2, 4, 13]  # as pycocotools 2.0.11 has them
    assert encode_rle(pixels, 0, 0, (6, 8)) == runs
    assert encode_rle(pixels[1:5, 2:6], 1, 2, (6, 8)) == runs, "a window of the same"
    assert encode_rle(np.zeros((6, 0), bool), 0, 3, (6, 8)) == [48]
    assert encode_rle(np.ones((2, 2), bool), 0, 0, (2, 2)) == [0, 4]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"counts": (5, 3)}, "the counts add up to 8, wanted 6"),
        ({"counts": (7, -1)}, "greater than or equal to 0"),
        ({"size": (0, 6)}, "greater than 0"),
        ({"counts": (2.5, 3.5)}, "integer"),
    ],
)
def test_runs_that_are_no_image_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Rle(**({"size": (2, 3), "counts": (6,)} | changes))


def test_a_pixel_is_covered_if_its_centre_is() -> None:
    pixels, top, left = paste(FULL, (2.4, 1.6, 6.6, 4.4), (10, 10))
    assert (pixels.shape, top, left) == ((2, 5), 2, 2) and pixels.all()
    pixels, top, left = paste(FULL, (2.6, 1.0, 2.9, 9.0), (10, 10))
    assert pixels.shape == (8, 0), "no pixel has its centre there"


def test_cells_become_pixels_in_their_box() -> None:
    cells = FULL.copy()
    cells[:2, 2:] = 0
    pixels, top, left = paste(cells, (10, 20, 18, 28), (64, 64))
    assert (top, left) == (20, 10)
    expected = np.ones((8, 8), bool)
    expected[:4, 4:] = False
    assert np.array_equal(pixels, expected)
    fewer, _, _ = paste(cells, (0, 0, 2, 2), (64, 64))
    assert fewer.tolist() == [[True, False], [True, True]]


@given(
    st.tuples(*[st.floats(-20, 40)] * 4),
    arrays.arrays(np.uint8, (4, 4)),
    st.integers(1, 20),
    st.integers(1, 20),
)
def test_what_is_pasted_lies_in_the_image(
    box: tuple[float, ...], cells: Any, high: int, wide: int
) -> None:
    pixels, top, left = paste(cells, box, (high, wide))
    assert top >= 0 and left >= 0
    assert top + pixels.shape[0] <= high and left + pixels.shape[1] <= wide or not pixels.size
