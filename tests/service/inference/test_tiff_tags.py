"""Tags of a TIFF with any type and count: the image is read right, or refused with a sentence."""

import pytest

from service.errors import ServiceError
from service.inference.decode import read_image
from service.inference.tiff import READ, SIZES
from tests.make.images import DATA_AT, page, raw_tiff

TYPES = sorted({*SIZES, 0, 14, 99, 65535})
COUNTS = (0, 1, 2, 3, 1 << 16, (1 << 32) - 1)
PIXELS = bytes(range(256)) * 32  # 64 x 64 of 16 bits


def tiff(number: int, kind: int, count: int) -> bytes:
    """A plain TIFF in which one tag has another type and count; added if it is not there."""
    fields = {tag[0]: tag[3] for tag in page()}
    tags = [tag for tag in page() if tag[0] != number]
    if number:
        tags.append((number, kind, count, fields.get(number, b"\1\0\0\0")))
    return raw_tiff(sorted(tags)).ljust(DATA_AT, b"\0") + PIXELS


def test_the_image_is_right_without_a_change() -> None:
    assert read_image(tiff(0, 0, 0), 1 << 20).tobytes() == PIXELS


@pytest.mark.parametrize("number", sorted({tag[0] for tag in page()} | READ))
def test_a_tag_of_any_type_and_count_is_read_or_refused(number: int) -> None:
    for kind in TYPES:
        for count in COUNTS:
            try:
                pixels = read_image(tiff(number, kind, count), 1 << 20)
            except ServiceError as error:
                assert error.status in (413, 415, 422), (kind, count)
            else:
                assert pixels.size and pixels.ndim == 3, (kind, count)
