"""TIFF from an untrusted upload: bytes -> (bands, height, width).

Two ways in. `read_plain` takes what most chips are, one uncompressed little-endian image in
adjoining strips, in microseconds, and gives up on everything else. `read_any` leaves the rest to
tifffile, after the limits have been checked on the header. Both work on bytes in memory: nothing
that the file names, a VRT's source or an OME companion, is ever opened.

Source: TIFF 6.0 (Adobe, 1992); BigTIFF (Aware Systems, 2007).
"""

import io
import struct
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tifffile

from service.errors import TooLarge, Unprocessable

MAX_DIRECTORIES = 32  # overviews and masks of one image; more is an attack or a film
COMPRESSIONS = {
    1: "none",
    5: "LZW",
    8: "deflate",
    32773: "PackBits",
    32946: "deflate",
    50000: "ZSTD",
}
DTYPES = {(8, 1): "u1", (16, 1): "<u2"}  # (bits, sample format) of the fast way
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 16: 8}  # bytes of a value, by TIFF's number of its type
CODES = {1: "B", 3: "H", 4: "I"}
REDUCED, MASK = 1, 4  # bits of NewSubfileType

WIDTH, HEIGHT, BITS, COMPRESSION, FILL_ORDER = 256, 257, 258, 259, 266
STRIP_OFFSETS, SAMPLES, STRIP_SIZES, PLANAR, SAMPLE_FORMAT = 273, 277, 279, 284, 339
TILE_WIDTH = 322
READ = frozenset(
    (WIDTH, HEIGHT, BITS, COMPRESSION, FILL_ORDER, STRIP_OFFSETS, SAMPLES, STRIP_SIZES, PLANAR)
) | {SAMPLE_FORMAT, TILE_WIDTH}

Buffer = bytes | memoryview
Array = npt.NDArray[Any]


class Plain(NamedTuple):
    """Where the pixels of a plain TIFF lie."""

    height: int
    width: int
    bands: int
    dtype: str
    start: int
    planar: bool


def read_plain(content: Buffer) -> Array | None:
    """Read an uncompressed TIFF without copying; None when it is not plain enough, or broken."""
    try:
        plain = _locate(content)
    except (struct.error, KeyError, IndexError):
        return None
    if plain is None:
        return None
    count = plain.height * plain.width * plain.bands
    pixels = np.frombuffer(content, plain.dtype, count, plain.start)
    if plain.planar:
        return pixels.reshape(plain.bands, plain.height, plain.width)
    return pixels.reshape(plain.height, plain.width, plain.bands).transpose(2, 0, 1)


def _locate(content: Buffer) -> Plain | None:
    if bytes(content[:4]) != b"II*\x00":
        return None
    (directory,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, directory)
    end = directory + 2 + 12 * count
    if content[end : end + 4] != b"\x00\x00\x00\x00":  # another image, overview or mask follows
        return None
    tags: dict[int, tuple[int, ...]] = {}
    for tag, kind, length, value in struct.iter_unpack("<HHI4s", content[directory + 2 : end]):
        if tag in READ:
            tags[tag] = _values(content, kind, length, value)
    return _plain(tags, len(content))


def _values(content: Buffer, kind: int, length: int, value: bytes) -> tuple[int, ...]:
    code = CODES[kind]
    if SIZES[kind] * length <= 4:
        return struct.unpack_from(f"<{length}{code}", value)
    if length > len(content):
        raise IndexError("the directory names more values than the file has bytes")
    return struct.unpack_from(f"<{length}{code}", content, struct.unpack("<I", value)[0])


def _plain(tags: dict[int, tuple[int, ...]], size: int) -> Plain | None:
    unusual = tags.get(COMPRESSION, (1,)) != (1,) or tags.get(FILL_ORDER, (1,)) != (1,)
    if unusual or TILE_WIDTH in tags:
        return None
    height, width, bands = tags[HEIGHT][0], tags[WIDTH][0], tags.get(SAMPLES, (1,))[0]
    bits, formats = set(tags[BITS]), set(tags.get(SAMPLE_FORMAT, (1,)))
    dtype = DTYPES.get((tags[BITS][0], min(formats)))
    if dtype is None or len(bits) > 1 or len(formats) > 1 or len(tags[BITS]) not in (1, bands):
        return None
    offsets, sizes = tags[STRIP_OFFSETS], tags[STRIP_SIZES]
    whole = height * width * bands * (tags[BITS][0] // 8)
    start, end = offsets[0], offsets[0]
    for offset, length in zip(offsets, sizes, strict=False):
        if offset != end:
            return None
        end += length
    if len(offsets) != len(sizes) or end - start != whole or end > size or whole == 0:
        return None
    return Plain(height, width, bands, dtype, start, tags.get(PLANAR, (1,)) == (2,))


def read_any(content: Buffer, max_pixels: int) -> Array:
    """Read the one image of a TIFF with tifffile, striped or tiled, compressed or not.

    Raises:
        TooLarge: it declares more than `max_pixels` values.
        Unprocessable: it is broken, holds several images, or is compressed in a way not taken.
    """
    check_directories(bytes(content))
    try:
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            page = file.pages.first
            _check_page(page, max_pixels)
            pixels = page.asarray()
    except (TooLarge, Unprocessable):
        raise
    except Exception as error:  # whatever a decoder says of hostile bytes, the upload is at fault
        raise Unprocessable(
            f"the TIFF can not be read ({type(error).__name__}): write it again"
        ) from None
    return _bands_first(pixels, page.axes)


def _check_page(page: Any, max_pixels: int) -> None:
    values = page.imagewidth * page.imagelength * page.imagedepth * page.samplesperpixel
    segment = (page.tilewidth or 1) * (page.tilelength or 1) * page.samplesperpixel
    if values > max_pixels or segment > max_pixels:
        raise TooLarge(
            f"the TIFF declares {page.imagewidth} x {page.imagelength} pixels in "
            f"{page.samplesperpixel} bands, at most {max_pixels} values are taken: cut it up"
        )
    if int(page.compression) not in COMPRESSIONS:
        known = ", ".join(dict.fromkeys(COMPRESSIONS.values()))
        raise Unprocessable(
            f"the TIFF is compressed by method {int(page.compression)}; taken are {known}: "
            "write it again"
        )
    if page.dtype is None or page.dtype.kind not in "uif":
        raise Unprocessable("the TIFF holds values of no common type; wanted unsigned integers")


def _bands_first(pixels: Array, axes: str) -> Array:
    if axes == "YX":
        return pixels[None]
    if axes == "YXS":
        return pixels.transpose(2, 0, 1)
    if axes == "SYX":
        return pixels
    raise Unprocessable(f"the TIFF has axes {axes}; wanted one image of height, width and bands")


def check_directories(content: bytes) -> None:
    """Walk the chain of directories, at most `MAX_DIRECTORIES`, and insist on one image.

    Raises:
        Unprocessable: the chain is broken, cyclic or long, or holds several images.
    """
    try:
        subfiles = _walk(content)
    except struct.error:
        raise Unprocessable("the TIFF is cut off or broken: write it again") from None
    images = [kind for kind in subfiles if not kind & (REDUCED | MASK)]
    if len(images) > 1:
        raise Unprocessable(f"the TIFF holds {len(images)} images; send one image a request")


def _walk(content: bytes) -> list[int]:
    """Give NewSubfileType of every directory."""
    order = {b"II": "<", b"MM": ">"}.get(content[:2])
    if order is None:
        raise struct.error
    (magic,) = struct.unpack_from(f"{order}H", content, 2)
    big = magic == 43
    where = 8 if big else 4
    pointer, counter, entry = ("Q", "Q", "HHQ") if big else ("I", "H", "HHI")
    step = struct.calcsize(f"<{entry}{pointer}")
    seen: list[int] = []
    subfiles: list[int] = []
    (offset,) = struct.unpack_from(order + pointer, content, where)
    while offset:
        if offset in seen or len(seen) == MAX_DIRECTORIES:
            raise Unprocessable(
                f"the TIFF's directories run in a circle or are more than {MAX_DIRECTORIES}"
            )
        seen.append(offset)
        (count,) = struct.unpack_from(order + counter, content, offset)
        first = offset + struct.calcsize(f"<{counter}")
        subfiles.append(_subfile(content, order, entry, first, min(count, 4096), step))
        (offset,) = struct.unpack_from(order + pointer, content, first + step * count)
    return subfiles


def _subfile(content: bytes, order: str, entry: str, first: int, count: int, step: int) -> int:
    for number in range(count):
        at = first + number * step
        tag, _, _ = struct.unpack_from(order + entry, content, at)
        if tag == 254:
            (kind,) = struct.unpack_from(f"{order}I", content, at + struct.calcsize(f"<{entry}"))
            return int(kind)
    return 0
