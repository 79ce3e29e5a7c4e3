"""Bytes of an upload -> one chip array, within the limits of each format.

The content decides the format, never a file name or header. Nothing is written to disk, and no file
that the upload refers to is opened.
"""

import io
import math
import re
import struct
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from contracts.bundle import Input
from contracts.images import (
    BANDS,
    JPEG_MAGIC,
    PNG_MAGIC,
    Buffer,
    Fit,
    RefusedImage,
    check_mode,
    check_png,
    fit_to,
    in_colour,
    wrong_bands,
)
from service.errors import CUT_IT, BadRequest, TooLarge, Unprocessable, UnsupportedMedia
from service.inference.tiff import read_any, read_plain

TAKEN = "GeoTIFF, TIFF, PNG, JPEG or NPY"
MAX_SCANS = 64  # of a progressive JPEG; each one decodes the whole image again
MAX_SEGMENTS = 4096  # markers of a JPEG before its first scan, chunks of a PNG
SCAN = b"\xff\xda"
METADATA = {*range(0xE1, 0xEE), 0xEF, 0xFE}  # JPEG: APP1 to APP13, APP15, comments
MAX_NPY_HEADER = 4096
NPY_VERSIONS = {b"\x01\x00": "<H", b"\x02\x00": "<I", b"\x03\x00": "<I"}  # -> length of header
# The header is a Python dictionary; a pattern reads it, so that nothing can be evaluated.
NPY_HEADER = re.compile(
    rb"""\{\s*(?:(?:
    'descr'\s*:\s*'(?P<dtype>[<>=|]?(?:[ui][1248]|f[248]))'
    | 'fortran_order'\s*:\s*(?P<fortran>True|False)
    | 'shape'\s*:\s*\(\ *(?P<shape>(?:\d+\ *(?:,\ *|(?=\))))*)\)
    )\s*(?:,\s*)?){3}\}\s*""",
    re.VERBOSE,
)

Array = npt.NDArray[Any]


def decode(content: Buffer, wanted: Input, max_pixels: int, fit: Fit = "") -> Array:
    """Decode an upload into a chip (bands, height, width) as the model wants it, contiguous.

    `fit` says what becomes of an image of another size; the model's own way if it is empty.

    Raises:
        BadRequest: there are no bytes.
        TooLarge: the image declares more than `max_pixels` values.
        UnsupportedMedia: the format is not supported.
        Unprocessable: it is broken, or of another dtype, number of bands or size.
    """
    pixels = in_colour(read_image(content, max_pixels), content, wanted)
    return conform(pixels, wanted, fit)


def read_image(content: Buffer, max_pixels: int) -> Array:
    """Decode an upload into (bands, height, width), in its own dtype."""
    if not content:
        raise BadRequest("the upload is empty: send the bytes of an image")
    magic = bytes(content[:8])
    if magic[:4] in (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"):
        plain = read_plain(content)
        pixels = read_any(content, max_pixels) if plain is None else plain
    elif magic == PNG_MAGIC:
        pixels = _read_png(bytes(content), max_pixels)
    elif magic[:3] == JPEG_MAGIC:
        pixels = _read_picture(_without_metadata(bytes(content)), max_pixels)
    elif magic[:6] == b"\x93NUMPY":
        pixels = _read_npy(content, max_pixels)
    else:
        raise UnsupportedMedia(f"the upload is not a supported image: send {TAKEN}")
    if pixels.size > max_pixels:
        raise _too_large(pixels.shape, max_pixels)
    return pixels


def conform(pixels: Array, wanted: Input, fit: Fit) -> Array:
    """Check an image against what the model wants; resample it where that is asked for.

    Raises:
        Unprocessable: another dtype, number of bands or size, or no data at all.
    """
    bands = len(pixels)
    if bands != len(wanted.bands):
        raise Unprocessable(wrong_bands(bands, wanted.bands, wanted.dtype))
    if pixels.dtype != wanted.dtype:
        if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
            raise Unprocessable(f"some values are NaN or infinite; wanted {wanted.dtype}")
        if pixels.dtype.newbyteorder("=") != wanted.dtype:
            raise Unprocessable(
                f"values are {pixels.dtype.name}, wanted {wanted.dtype} "
                f"({wanted.units} x {wanted.scale:g}): convert them, not by stretching"
            )
    pixels = _sized(pixels, wanted, fit)
    chip = np.ascontiguousarray(pixels, dtype=wanted.dtype)
    # Nearly every chip has data in its first pixel: one value tells.
    if (
        wanted.nodata is not None
        and chip[0, 0, 0] == wanted.nodata
        and not (chip != wanted.nodata).any()
    ):
        raise Unprocessable(
            f"no pixel of the image has data: every value is {wanted.nodata}, the model's nodata"
        )
    return chip


def _sized(pixels: Array, wanted: Input, fit: Fit) -> Array:
    """An image in a size that the model takes."""
    _, height, width = pixels.shape
    if wanted.multiple:
        if fit:
            raise Unprocessable("fit: the model takes images of any size as they are: leave it out")
        if min(height, width) < wanted.multiple:
            raise Unprocessable(
                f"{width} x {height} pixels, wanted {wanted.multiple} x {wanted.multiple} at least"
            )
        return pixels
    if (height, width) == (wanted.height, wanted.width):
        return pixels
    how = fit or wanted.fit
    if not how:
        raise Unprocessable(
            f"{width} x {height} pixels, wanted {wanted.width} x {wanted.height}: cut the "
            "image into chips of that size, or add ?fit=resize to have it resampled"
        )
    return fit_to(pixels, wanted.height, wanted.width, how, wanted.nodata or 0)


def _read_png(content: bytes, max_pixels: int) -> Array:
    try:
        check_png(content)
    except RefusedImage as error:
        raise Unprocessable(str(error)) from None
    return _read_picture(_critical_chunks(content), max_pixels)


def _critical_chunks(content: bytes) -> bytes:
    """Keep only the chunks with pixels; compressed texts and profiles could hold gigabytes."""
    kept, position = [PNG_MAGIC], len(PNG_MAGIC)
    for _ in range(MAX_SEGMENTS):
        if position + 8 > len(content):
            return b"".join(kept)
        length, kind = struct.unpack_from(">IB", content, position)
        end = position + length + 12  # with the fields length, kind and checksum
        if not kind & 0x20:
            kept.append(content[position:end])
        position = end
    raise Unprocessable(f"the PNG has more than {MAX_SEGMENTS} chunks: save it again")


def _without_metadata(content: bytes) -> bytes:
    """Remove the metadata that cameras write into a JPEG; Pillow would parse them."""
    if content.count(SCAN) > MAX_SCANS:
        raise Unprocessable(f"the JPEG has more than {MAX_SCANS} scans: save it as a baseline JPEG")
    kept, position = [content[:2]], 2
    for _ in range(MAX_SEGMENTS):
        if content.startswith(SCAN, position) or position + 4 > len(content):
            return b"".join((*kept, content[position:]))
        mark, code, length = struct.unpack_from(">BBH", content, position)
        if mark != 0xFF or not 0xC0 <= code <= 0xFE:
            position += 1  # filling, or rubbish
            continue
        end = position + 2 + length
        if code not in METADATA:
            kept.append(content[position:end])
        position = end
    raise Unprocessable(f"the JPEG has more than {MAX_SEGMENTS} segments: save it again")


def _read_picture(content: bytes, max_pixels: int) -> Array:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
                check_mode(image.mode)
                bands = BANDS[image.mode]
                if image.width * image.height * bands > max_pixels:
                    raise _too_large((bands, image.height, image.width), max_pixels)
                pixels = np.asarray(image)
    except TooLarge:
        raise
    except RefusedImage as error:
        raise Unprocessable(str(error)) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise TooLarge(f"the picture declares more than {max_pixels} values: {CUT_IT}") from None
    except Exception as error:  # any error of a decoder is the fault of the upload
        raise Unprocessable(
            f"the picture cannot be read ({type(error).__name__}): it is cut off or broken"
        ) from None
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _read_npy(content: Buffer, max_pixels: int) -> Array:
    shape, fortran, dtype, start = _npy_header(content)
    if len(shape) != 3 or min(shape) < 1:
        raise Unprocessable(f"the NPY array has shape {shape}, wanted (bands, height, width)")
    count = math.prod(shape)
    if count > max_pixels:
        raise _too_large(shape, max_pixels)
    if len(content) - start != count * dtype.itemsize:
        raise Unprocessable(
            f"the NPY file has {len(content) - start} bytes of data, its header says "
            f"{count * dtype.itemsize}: it was cut off, send it again"
        )
    pixels: Array = np.frombuffer(content, dtype, count, start)
    return pixels.reshape(shape[::-1]).transpose(2, 1, 0) if fortran else pixels.reshape(shape)


def _npy_header(content: Buffer) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, Fortran's order, dtype, and where the data begin."""
    code = NPY_VERSIONS.get(bytes(content[6:8]))
    if code is None:
        raise Unprocessable("the NPY file has an unknown version: write it with numpy.save")
    first = 8 + struct.calcsize(code)
    if len(content) < first:
        raise Unprocessable("the NPY file ends within its header: it was cut off, send it again")
    start = first + struct.unpack_from(code, content, 8)[0]
    found = NPY_HEADER.fullmatch(bytes(content[first:start])) if start <= MAX_NPY_HEADER else None
    if found is None or None in found.groups():
        raise Unprocessable(
            "the NPY header is unreadable, or its dtype is not numeric: write the array of pixels "
            "with numpy.save"
        )
    shape = tuple(int(size) for size in found["shape"].split(b",") if size.strip())
    return shape, found["fortran"] == b"True", np.dtype(found["dtype"].decode()), start


def _too_large(shape: tuple[int, ...], max_pixels: int) -> TooLarge:
    bands, height, width = shape
    return TooLarge(
        f"{width} x {height} pixels in {bands} bands; at most {max_pixels} values are taken: "
        f"{CUT_IT}"
    )
