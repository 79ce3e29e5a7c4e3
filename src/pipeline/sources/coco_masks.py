r"""The `segmentation` of an annotation in COCO's format: polygons or RLE -> the RLE of its pixels.

    [[x, y, x, y, x, y, ...], ...]                     polygons, one for each part that is seen
    {"size": [480, 640], "counts": [5, 3, ...]}        RLE, the pixels column by column
    {"size": [480, 640], "counts": "n\\j0..."}          the same, compressed by COCO's tools

A pixel belongs to a polygon if its centre does (GDAL's rule); where a polygon has the centre of no
pixel, those that it touches do. What lies beyond the edges of the image is cut off.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError
from rasterio import Affine
from rasterio.features import rasterize

from contracts.faults import first_fault
from contracts.masks import Rle, decode_rle, encode_rle
from pipeline.errors import DataError

BEYOND = 1.0  # pixels that a mask may reach over its box: annotations round
FIRST = 48  # letter of a compressed RLE, in ASCII; 6 bits each

Box = tuple[float, float, float, float]
Pixels = npt.NDArray[np.bool_]


def read(segmentation: Any, box: Box, size: tuple[int, int]) -> Rle:
    """Read the mask of an object.

    Args:
        box: of the object, cut off at the edges of the image.
        size: height and width of the image.

    Raises:
        DataError: there is none, it cannot be read, or it does not lie in its box.
    """
    if not segmentation:
        raise DataError("it has no mask (segmentation), which --masks needs")
    high, wide = size
    left, top = (max(0, int(np.floor(edge - BEYOND))) for edge in box[:2])
    right = min(wide, int(np.ceil(box[2] + BEYOND)))
    bottom = min(high, int(np.ceil(box[3] + BEYOND)))
    window = (left, top, right, bottom)
    if isinstance(segmentation, dict):
        pixels = _of_rle(segmentation, window, size)
    else:
        pixels = _of_polygons(segmentation, window, size)
    if not pixels.any():
        raise DataError(f"the mask has no pixel in its box and the {wide} x {high} pixels")
    return Rle(size=size, counts=tuple(encode_rle(pixels, top, left, size)))


def _of_rle(found: dict[str, Any], window: Any, size: tuple[int, int]) -> Pixels:
    left, top, right, bottom = window
    if isinstance(counts := found.get("counts"), str):
        counts = decompress(counts)
    try:
        rle = Rle.model_validate({**found, "counts": counts})
    except ValidationError as error:
        raise DataError(f"its RLE: {first_fault(error)}") from None
    if rle.size != size:
        of, wanted = (f"{wide} x {high}" for high, wide in (rle.size, size))
        raise DataError(f"its RLE is of {of} pixels, the image has {wanted}")
    pixels = decode_rle(rle.counts, size, left, right)[top:bottom]
    if int(pixels.sum()) < sum(rle.counts[1::2]):
        raise DataError("the mask reaches beyond its box")
    return pixels


def decompress(text: str) -> list[int]:
    """The counts of a compressed RLE: 5 bits a letter, and differences from the third on.

    As `rleFrString` of COCO's API has it (github.com/cocodataset/cocoapi, common/maskApi.c).

    Raises:
        DataError: it is cut off, or has another letter.
    """
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - FIRST
        if not 0 <= bits < 64:
            raise DataError(f"its RLE has the letter {letter!a}, which COCO does not write")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise DataError("its RLE is cut off")
    return counts


def _of_polygons(found: Any, window: Any, size: tuple[int, int]) -> Pixels:
    try:
        parts = [np.array(part, float).reshape(-1, 2) for part in found]
    except (TypeError, ValueError):
        raise DataError(
            "its segmentation is neither RLE nor polygons, which are lists of x, y, x, y, ..."
        ) from None
    for part in parts:
        if len(part) < 3 or not np.isfinite(part).all():
            raise DataError(f"a polygon of {len(part)} points, wanted 3 finite ones or more")
    low = np.min([part.min(axis=0) for part in parts], axis=0).clip(0)
    high = np.max([part.max(axis=0) for part in parts], axis=0).clip(max=size[::-1])
    left, top, right, bottom = window
    if (low < high).all() and ((low < (left, top)).any() or (high > (right, bottom)).any()):
        raise DataError("the mask reaches beyond its box")
    pixels = _draw(parts, window, all_touched=False)
    return pixels if pixels.any() else _draw(parts, window, all_touched=True)


def _draw(parts: list[npt.NDArray[np.float64]], window: Any, all_touched: bool) -> Pixels:
    left, top, right, bottom = window
    rings = (
        {"type": "Polygon", "coordinates": [[*part.tolist(), part[0].tolist()]]} for part in parts
    )
    pixels: Pixels = rasterize(
        rings,
        (bottom - top, right - left),
        transform=Affine.translation(left, top),
        all_touched=all_touched,
        dtype="uint8",
    ).astype(bool)
    return pixels
