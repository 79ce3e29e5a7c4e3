"""Images: what one may train on is what one may send.

| file | read | refused, with the reason |
|---|---|---|
| PNG | 8 bits: grey, RGB, RGBA (four bands); 16 bits: grey | 16 bits in colour, palettes, others |
| JPEG | grey, RGB | CMYK |
| TIFF, GeoTIFF | one image, any number of bands, in COMPRESSIONS | several images, others |
| NPY | (bands, height, width) of numbers | archives, objects |

A grey PNG or JPEG of 8 bits is one band, or three equal ones where three of 8 bits are wanted: grey
among colours. Apart from that, pixels are taken as they are stored: no stretching, no colour
profile, no rotation that EXIF asks for. The pipeline and the service each have a decoder for their
needs, and both keep to this table; tests/contracts/test_images.py shows them the same files.
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

SUFFIXES = (".tif", ".tiff", ".jpg", ".jpeg", ".png", ".npy")
BANDS = {"L": 1, "RGB": 3, "RGBA": 4, "I;16": 1}
"""Bands of a PNG or JPEG, by Pillow's mode."""
COMPRESSIONS = {
    1: "none",
    5: "LZW",
    8: "deflate",
    32773: "PackBits",
    32946: "deflate",
    50000: "ZSTD",
}
"""Compressions of a TIFF, by the value of its tag 259."""

Fit = Literal["", "crop", "pad", "stretch"]
"""How an image of another size becomes a chip; empty: it is refused."""
FITS = tuple(filter(None, get_args(Fit)))

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC = b"\xff\xd8\xff"
_DEPTH, _COLOUR = 24, 25  # bytes of the first chunk, IHDR
_GREY = 0

Array = npt.NDArray[Any]
Buffer = bytes | memoryview


class Chips(Protocol):
    """What all chips of a data set, or of a model, have in common."""

    @property
    def dtype(self) -> str:
        """uint8 or uint16."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Bands, height, width."""

    @property
    def fit(self) -> Fit:
        """How images of another size become chips."""

    @property
    def nodata(self) -> int | None:
        """Digital number of a pixel without data."""


class RefusedImage(ValueError):
    """An image that is not read; the message says why, and the cure."""


def check_png(content: bytes) -> None:
    """Refuse colour of 16 bits: Pillow would drop the lower byte of each value.

    Raises:
        RefusedImage: the PNG has several channels of 16 bits.
    """
    header = content[: _COLOUR + 1]
    if header.startswith(PNG_MAGIC) and len(header) > _COLOUR:
        if header[_DEPTH] == 16 and header[_COLOUR] != _GREY:
            raise RefusedImage(
                "a PNG of 16 bits in several channels would lose half of its bits: "
                "save it as a TIFF or NPY of uint16"
            )


def check_mode(mode: str) -> None:
    """Refuse a PNG or JPEG whose values are no bands, by Pillow's mode.

    Raises:
        RefusedImage: it is a palette, CMYK or the like.
    """
    if mode not in BANDS:
        raise RefusedImage(
            f"the picture has colour mode {mode}, taken are {', '.join(BANDS)}: save it as RGB"
        )


def check_pages(images: int) -> None:
    """Refuse a TIFF of several images: pages may be bands, dates or places.

    Raises:
        RefusedImage: there is more than one.
    """
    if images > 1:
        raise RefusedImage(
            f"the TIFF holds {images} images or pages, one with all bands is taken: write the "
            "bands into one image (tifffile: photometric='minisblack', planarconfig='separate')"
        )


def wrong_bands(found: int, names: Sequence[str], dtype: str) -> str:
    """Why an image of another number of bands is refused, and the cure."""
    cure = "write these bands, and no others, in this order into one file"
    if dtype == "uint8" and (found, len(names)) == (4, 3):
        cure = "save it without transparency (alpha)"
    elif dtype == "uint8" and (found, len(names)) == (3, 1):
        cure = "save it in grey"
    bands = "1 band" if found == 1 else f"{found} bands"
    return f"the image has {bands}, wanted {len(names)} ({', '.join(names)}): {cure}"


def is_grey(pixels: Array, content: Buffer) -> bool:
    """Whether an image is a grey PNG or JPEG of 8 bits: the same in red, green and blue."""
    is_picture = bytes(content[: len(PNG_MAGIC)]).startswith((PNG_MAGIC, JPEG_MAGIC))
    return is_picture and len(pixels) == 1 and pixels.dtype == np.uint8


def in_colour(pixels: Array, content: Buffer, wanted: Chips) -> Array:
    """A grey PNG or JPEG in red, green and blue, where three bands of 8 bits are wanted.

    Args:
        pixels: (bands, H, W), what was read from `content`.
    """
    _, *size = pixels.shape
    if wanted.dtype == "uint8" and wanted.shape[0] == 3 and is_grey(pixels, content):
        return np.broadcast_to(pixels, (3, *size))
    return pixels


def as_chip(pixels: Array, content: Buffer, wanted: Chips) -> Array:
    """The image that was read from `content` in the bands of a chip, and in its size if they fit.

    An image of another dtype or number of bands stays as it is: it is refused for that.
    """
    pixels = in_colour(pixels, content, wanted)
    if not wanted.fit or pixels.dtype != np.dtype(wanted.dtype):
        return pixels
    _, height, width = wanted.shape
    return fit_to(pixels, height, width, wanted.fit, wanted.nodata or 0)


def magnification(rows: int, columns: int, wanted: Chips) -> float:
    """By how much the fit of the chips enlarges an image; less than 1 where it shrinks it."""
    _, height, width = wanted.shape
    return _scale(rows, columns, height, width, wanted.fit)


def _scale(rows: int, columns: int, height: int, width: int, how: Fit) -> float:
    return (min if how == "pad" else max)(height / rows, width / columns)


def fit_to(pixels: Array, height: int, width: int, how: Fit, fill: int = 0) -> Array:
    """Resample an image to the size of a chip, bilinear, averaging where it shrinks.

    Args:
        pixels: (bands, H, W), unsigned integers.
        how: `stretch` gives up the proportions. `crop` fills the chip with the middle of the image,
            `pad` puts the whole image into the middle of the chip.
        fill: the value around an image that is padded.

    Returns:
        (bands, height, width), of the same dtype.
    """
    bands, rows, columns = pixels.shape
    if (rows, columns) == (height, width):
        return pixels
    if how == "stretch":
        return _resample(pixels, height, width, (0, 0, columns, rows))
    if how == "crop":
        # Cut first: a line of a million pixels, scaled to the height of a chip, fills the memory.
        scale = _scale(rows, columns, height, width, how)
        high, wide = min(rows, height / scale), min(columns, width / scale)
        left, top = (columns - wide) / 2, (rows - high) / 2
        box = (left, top, min(columns, left + wide), min(rows, top + high))
        return _resample(pixels, height, width, box)
    scale = _scale(rows, columns, height, width, how)
    high, wide = max(1, round(rows * scale)), max(1, round(columns * scale))
    top, left = (height - high) // 2, (width - wide) // 2
    chip = np.full((bands, height, width), fill, pixels.dtype)
    whole = _resample(pixels, high, wide, (0, 0, columns, rows))
    chip[:, top : top + high, left : left + wide] = whole
    return chip


def _resample(
    pixels: Array, height: int, width: int, box: tuple[float, float, float, float]
) -> Array:
    """Resample the part in `box`: left, top, right, bottom."""
    planes = [Image.fromarray(band.astype(np.float32)) for band in pixels]
    size, bilinear = (width, height), Image.Resampling.BILINEAR
    resized = np.stack([np.asarray(plane.resize(size, bilinear, box)) for plane in planes])
    limits = np.iinfo(pixels.dtype)
    rounded: Array = np.clip(np.rint(resized), limits.min, limits.max)
    return rounded.astype(pixels.dtype)
