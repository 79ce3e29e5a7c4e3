"""TIFF from an untrusted upload: bytes -> (bands, height, width).

`read_plain` reads one uncompressed little-endian image in adjoining strips, as most chips are, in
microseconds, and returns None for everything else. `read_any` checks the limits on the header, then
uses tifffile. Both work on bytes in memory: no file that the upload names, such as a VRT's source
or an OME companion, is ever opened.

Source: TIFF 6.0 (Adobe, 1992); BigTIFF (Aware Systems, 2007).
"""

import io
import math
import struct
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tifffile

from contracts.images import COMPRESSIONS, Buffer, RefusedImage, check_pages
from service.errors import CUT_IT, TooLarge, Unprocessable

MAX_DIRECTORIES = 32  # overviews and masks of one image; more is an attack or a film
MAX_TAGS = 1024  # of one directory
MAX_VALUES = 16384  # of one tag: strips or tiles of the image; each costs microseconds
MAX_TEXT = 1 << 20  # bytes of a tag that holds text or a profile
DTYPES = {(8, 1): "u1", (16, 1): "<u2"}  # (bits, sample format) of the fast way
SIZES = {
    **{1: 1, 2: 1, 6: 1, 7: 1, 3: 2, 8: 2, 4: 4, 9: 4, 11: 4, 13: 4},
    **{5: 8, 10: 8, 12: 8, 16: 8, 17: 8, 18: 8},
}  # bytes of a value, by TIFF's number of its type
CODES = {1: "B", 3: "H", 4: "I", 16: "Q"}
REDUCED, MASK = 1, 4  # bits of NewSubfileType
SUBFILE = 254

WIDTH, HEIGHT, BITS, COMPRESSION, FILL_ORDER = 256, 257, 258, 259, 266
STRIP_OFFSETS, SAMPLES, STRIP_SIZES, PLANAR, SAMPLE_FORMAT = 273, 277, 279, 284, 339
TILE_WIDTH = 322
SCALARS = frozenset((WIDTH, HEIGHT, COMPRESSION, FILL_ORDER, SAMPLES, PLANAR, TILE_WIDTH)) | {
    *(254, 278, 317, 323, 32997, 32998)  # kind, lines of a strip, predictor, tile's height, depths
}
READ = frozenset(
    (WIDTH, HEIGHT, BITS, COMPRESSION, FILL_ORDER, STRIP_OFFSETS, SAMPLES, STRIP_SIZES, PLANAR)
) | {SAMPLE_FORMAT, TILE_WIDTH}

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
    except (struct.error, KeyError, IndexError, ValueError):
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
    if count > MAX_TAGS:
        return None
    end = directory + 2 + 12 * count
    if content[end : end + 4] != b"\x00\x00\x00\x00":  # another image, overview or mask follows
        return None
    tags: dict[int, tuple[int, ...]] = {}
    for tag, kind, length, value in struct.iter_unpack("<HHI4s", content[directory + 2 : end]):
        if tag in tags:
            return None
        if tag in READ:
            tags[tag] = _values(content, kind, length, value)
    return _plain(tags, len(content))


def _values(content: Buffer, kind: int, length: int, value: bytes) -> tuple[int, ...]:
    code = CODES[kind]
    if SIZES[kind] * length <= 4:
        return struct.unpack_from(f"<{length}{code}", value)
    if length > MAX_VALUES:
        raise IndexError("more values than a plain image needs")
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
            _check_segments(page, len(content))
            pixels = page.asarray()
    except (TooLarge, Unprocessable):
        raise
    except Exception as error:  # any error of a decoder is the fault of the upload
        raise Unprocessable(
            f"the TIFF cannot be read ({type(error).__name__}): write it again"
        ) from None
    return _bands_first(pixels, page.axes)


def _check_page(page: Any, max_pixels: int) -> None:
    values = page.imagewidth * page.imagelength * page.imagedepth * page.samplesperpixel
    tile = (page.tilewidth or 1) * (page.tilelength or 1) * (page.tiledepth or 1)
    segment = tile * page.samplesperpixel
    if values < 1:
        raise Unprocessable("the TIFF declares an image without pixels: write it again")
    if max(values, segment, math.prod(page.shape)) > max_pixels:
        raise TooLarge(
            f"the TIFF declares {page.imagewidth} x {page.imagelength} pixels in "
            f"{page.samplesperpixel} bands, at most {max_pixels} values are taken: "
            f"{CUT_IT}"
        )
    if int(page.compression) not in COMPRESSIONS:
        known = ", ".join(dict.fromkeys(COMPRESSIONS.values()))
        raise Unprocessable(
            f"the TIFF is compressed by method {int(page.compression)}; taken are {known}: "
            "write it again"
        )
    if page.dtype is None or page.dtype.kind not in "uif":
        raise Unprocessable("the TIFF holds values of no common type; wanted unsigned integers")


def _check_segments(page: Any, size: int) -> None:
    """Refuse missing segments: some decoders would fill them with zeros."""
    offsets, lengths = page.dataoffsets, page.databytecounts
    if not math.prod(page.chunked) <= len(offsets) == len(lengths):
        raise Unprocessable(
            "the TIFF has fewer strips or tiles than its size needs: write it again"
        )
    if any(offset + length > size for offset, length in zip(offsets, lengths, strict=True)):
        raise Unprocessable("the TIFF is cut off: its pixels end beyond its end, send it again")


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

    Tags are counted before anything reads them: a thousand that all point at the same megabyte
    are a gigabyte of numbers.

    Raises:
        Unprocessable: the chain is broken, cyclic or long, or holds several images, or a tag is
            larger than any image needs.
    """
    try:
        subfiles = _walk(content)
    except (struct.error, OverflowError):
        raise Unprocessable("the TIFF is cut off or broken: write it again") from None
    try:
        check_pages(sum(not kind & (REDUCED | MASK) for kind in subfiles))
    except RefusedImage as error:
        raise Unprocessable(str(error)) from None


def _walk(content: bytes) -> list[int]:
    """Give NewSubfileType of every directory."""
    order = {b"II": "<", b"MM": ">"}.get(content[:2])
    if order is None:
        raise struct.error
    (magic,) = struct.unpack_from(f"{order}H", content, 2)
    big = magic == 43
    where = 8 if big else 4
    pointer, counter, entry = ("Q", "Q", "HHQQ") if big else ("I", "H", "HHII")
    step = struct.calcsize(f"<{entry}")
    seen: list[int] = []
    subfiles: list[int] = []
    (offset,) = struct.unpack_from(order + pointer, content, where)
    while offset:
        if offset in seen or len(seen) == MAX_DIRECTORIES:
            raise Unprocessable(
                f"the TIFF's directories run in a circle or are more than {MAX_DIRECTORIES}: "
                "send one image a request"
            )
        seen.append(offset)
        (count,) = struct.unpack_from(order + counter, content, offset)
        if count > MAX_TAGS:
            raise Unprocessable(f"the TIFF has {count} tags, at most {MAX_TAGS}: write it again")
        first = offset + struct.calcsize(f"<{counter}")
        end = first + step * count
        (offset,) = struct.unpack_from(order + pointer, content, end)
        subfiles.append(_subfile(content[first:end], order + entry, len(content)))
    return subfiles


def _subfile(directory: bytes, entry: str, size: int) -> int:
    """Check the tags of one directory in a file of `size` bytes; give its NewSubfileType."""
    subfile = total = 0
    field = struct.calcsize(entry[0] + entry[-1])
    for tag, kind, count, value in struct.iter_unpack(entry, directory):
        width = SIZES.get(kind, 1)
        total += width * count
        if count > (MAX_VALUES if width > 1 else MAX_TEXT) or total > size:
            raise Unprocessable(
                f"the TIFF's tag {tag} has {count} values, more than are taken: write the image "
                "again in larger strips or tiles, without metadata"
            )
        if tag in SCALARS and (count != 1 or kind not in CODES):  # several widths are a bomb
            raise Unprocessable(f"the TIFF's tag {tag} is not one whole number: write it again")
        if tag == SUBFILE:  # a value that is shorter than its field stands at the left of it
            subfile = value >> 8 * max(0, field - width) if entry[0] == ">" else value
    return subfile
