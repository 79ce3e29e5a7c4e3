"""Images of every format that is taken, and files that look like one and are an attack."""

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from tests.make.bundles import make_chip

Array = np.ndarray[Any, Any]
Tag = tuple[int, int, int, bytes]  # number, type, count, the four bytes of its field

CHIP = make_chip(7)
PIXELS_LAST = np.ascontiguousarray(CHIP.transpose(1, 2, 0))
PICTURE = np.ascontiguousarray(make_chip(3, 3, "uint8").transpose(1, 2, 0))
GIB = 1 << 30


def tiff(chip: Array, **options: Any) -> bytes:
    content = io.BytesIO()
    tifffile.imwrite(content, chip, photometric="minisblack", **options)
    return content.getvalue()


def npy(chip: Array) -> bytes:
    content = io.BytesIO()
    np.save(content, chip, allow_pickle=True)
    return content.getvalue()


def picture(form: str, pixels: Array = PICTURE, **options: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, form, **options)
    return content.getvalue()


CHIPS = {
    "plain TIFF": tiff(PIXELS_LAST, planarconfig="contig"),
    "TIFF in planes": tiff(CHIP, planarconfig="separate"),
    "TIFF in strips": tiff(PIXELS_LAST, planarconfig="contig", rowsperstrip=3),
    "tiled TIFF": tiff(PIXELS_LAST, planarconfig="contig", tile=(16, 16)),
    "deflated TIFF": tiff(PIXELS_LAST, planarconfig="contig", compression="zlib", rowsperstrip=8),
    "TIFF with predictor": tiff(
        PIXELS_LAST, planarconfig="contig", compression="zlib", predictor=True
    ),
    "LZW TIFF": tiff(PIXELS_LAST, planarconfig="contig", compression="lzw", tile=(32, 32)),
    "PackBits TIFF": tiff(PIXELS_LAST, planarconfig="contig", compression="packbits"),
    "ZSTD TIFF": tiff(PIXELS_LAST, planarconfig="contig", compression="zstd"),
    "big-endian TIFF": tiff(PIXELS_LAST, planarconfig="contig", byteorder=">"),
    "BigTIFF": tiff(PIXELS_LAST, planarconfig="contig", bigtiff=True),
    "NPY": npy(CHIP),
    "NPY in Fortran's order": npy(np.asfortranarray(CHIP)),
}
PICTURES = {
    "PNG": picture("PNG"),
    "baseline JPEG": picture("JPEG", quality=90),
    "progressive JPEG": picture("JPEG", quality=90, progressive=True),
}


def short(number: int, value: int) -> Tag:
    return number, 3, 1, struct.pack("<HH", value, 0)


def long(number: int, value: int) -> Tag:
    return number, 4, 1, struct.pack("<I", value)


def raw_tiff(tags: Sequence[Tag], following: int = 0) -> bytes:
    """A header and one directory, byte by byte."""
    entries = b"".join(struct.pack("<HHI", *tag[:3]) + tag[3] for tag in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    return head + entries + struct.pack("<I", following)


DATA_AT = 400  # where `one_strip` puts the data


def page(compression: int = 1, size: int = 8192, **changes: int) -> list[Tag]:
    """The tags of a page of 64 x 64 values of 16 bits in one strip; `changes` replace values."""
    value = {"width": 64, "height": 64, "bits": 16, "rows": 64, "bands": 1, "at": DATA_AT} | changes
    return [
        long(256, value["width"]),
        long(257, value["height"]),
        short(258, value["bits"]),
        short(259, compression),
        short(262, 1),
        long(273, value["at"]),
        short(277, value["bands"]),
        long(278, value["rows"]),
        long(279, size),
    ]


def one_strip(data: bytes, compression: int, extra: Sequence[Tag] = (), **changes: int) -> bytes:
    head = raw_tiff([*page(compression, len(data), **changes), *extra])
    return head.ljust(DATA_AT, b"\0") + data


@cache
def deflated_gibibyte() -> bytes:
    """Zeros; each block stands alone, so one is compressed and repeated."""
    coder = zlib.compressobj(9)
    head = coder.compress(b"") + coder.flush(zlib.Z_FULL_FLUSH)
    block = coder.compress(bytes(1 << 20)) + coder.flush(zlib.Z_FULL_FLUSH)
    checksum = struct.pack(">I", (GIB % 65521) << 16 | 1)
    return head + block * 1024 + b"\x03\x00" + checksum


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_with(*chunks: bytes) -> bytes:
    """A valid PNG with chunks after its header."""
    whole = PICTURES["PNG"]
    return whole[:33] + b"".join(chunks) + whole[33:]


def png_of(width: int, height: int) -> bytes:
    """A PNG that declares a size and has hardly any data."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = png_chunk(b"IDAT", zlib.compress(bytes(1 << 16)))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + data + png_chunk(b"IEND", b"")


def segment(code: int, data: bytes) -> bytes:
    return bytes((0xFF, code)) + struct.pack(">H", len(data) + 2) + data


def jpeg_with(*segments: bytes) -> bytes:
    whole = PICTURES["baseline JPEG"]
    return whole[:2] + b"".join(segments) + whole[2:]


def many_scans(count: int) -> bytes:
    whole = PICTURES["progressive JPEG"]
    last = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + last * count + whole[-2:]


def raw_npy(header: str, data: bytes = bytes(32768), version: int = 1) -> bytes:
    text = header.encode() + b"\n"
    size = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes((version, 0)) + size + text + data


def npy_of(shape: str = "(4, 64, 64)", descr: str = "'<u2'", **options: Any) -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    return raw_npy(header, **options)


def exif_bomb() -> bytes:
    """5,000 tags that all point at the same 60,000 bytes."""
    tags = b"".join(struct.pack("<HHII", number, 7, 60000, 8) for number in range(1, 5001))
    return segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 5000) + tags + bytes(4))


def tag_bomb(count: int, kind: int, number: int | None = None) -> bytes:
    """Tags that all point at the same data: gigabytes for whoever believes them."""
    size = {1: 1, 3: 2, 4: 4, 12: 8}[kind]
    numbers = [number or 1000 + at for at in range(count)]
    point = struct.pack("<I", 8)
    extra = [(item, kind, 600_000 // size, point) for item in numbers]
    return raw_tiff([*page(8), *extra]) + bytes(600_000)


def many_strips(count: int) -> bytes:
    """A strip a row, all of them at the same place."""
    data = zlib.compress(bytes(128))
    at = DATA_AT + 8 * count
    tags = page(8, width=64, height=count, rows=1)
    tags[5] = (273, 4, count, struct.pack("<I", DATA_AT))
    tags[8] = (279, 4, count, struct.pack("<I", DATA_AT + 4 * count))
    places = struct.pack("<I", at) * count + struct.pack("<I", len(data)) * count
    return raw_tiff(tags).ljust(DATA_AT, b"\0") + places + data


def chain(length: int, back: bool = False) -> bytes:
    """Directories that follow each other; the last one leads back to the first, or ends."""
    step = len(raw_tiff([short(256, 64)])) - 8
    parts = [b"II*\0\x08\0\0\0"]
    for number in range(length):
        last = number == length - 1
        following = (8 if back else 0) if last else 8 + (number + 1) * step
        parts.append(raw_tiff([short(256, 64)], following)[8:])
    return b"".join(parts)


def big_tiff(*numbers: int) -> bytes:
    return b"II+\0\x08\0\0\0" + struct.pack(f"<{len(numbers)}Q", *numbers) + bytes(64)


def film(frames: int) -> bytes:
    content = io.BytesIO()
    with tifffile.TiffWriter(content) as writer:
        for _ in range(frames):
            writer.write(CHIP[0], photometric="minisblack", contiguous=False)
    return content.getvalue()


def bombs() -> Iterator[tuple[str, bytes]]:
    """Files that declare, or hold, far more than they should."""
    yield "PNG of 60000 x 60000", png_of(60000, 60000)
    yield "PNG of 2^31 - 1 pixels a line", png_of(2**31 - 1, 1)
    yield "PNG of 20000 x 20000 of zeros", png_of(20000, 20000)
    yield "TIFF of 2^32 - 1 pixels a side", one_strip(b"", 1, width=2**32 - 1, height=2**32 - 1)
    yield "TIFF of 65535 x 65535, deflated", one_strip(b"", 8, width=65535, height=65535)
    yield "TIFF of 65535 bands", one_strip(bytes(8192), 8, bands=65535)
    yield "strip that inflates to 1 GiB", one_strip(deflated_gibibyte(), 8)
    yield "strip of ZSTD of 1 GiB", one_strip(bytes(imagecodecs.zstd_encode(bytes(GIB))), 50000)
    yield "strip of PackBits of 512 MiB", one_strip(b"\x81\0" * (4 << 20), 32773)
    tile = [long(322, 2**31), long(323, 2**31), long(324, 400), long(325, 9)]
    yield "tile of 2^31 pixels a side", one_strip(zlib.compress(bytes(99)), 8, tile)
    yield "strips of 0 lines", one_strip(zlib.compress(bytes(8192)), 8, rows=0)
    yield "100,000 strips", many_strips(100_000)
    yield "tag of 2^32 - 1 values", one_strip(bytes(8192), 8, [(320, 3, 2**32 - 1, bytes(4))])
    yield "offsets of 2^32 - 1 strips", raw_tiff([(273, 4, 2**32 - 1, bytes(4)), *page(1)])
    for kind in (1, 3, 4, 12):
        yield f"1,000 tags at one place, type {kind}", tag_bomb(1000, kind)
    yield "1,000 times the same tag", tag_bomb(1000, 3, number=258)
    widths = (256, 4, 33, struct.pack("<I", 8))
    yield "33 widths and a height of 8 million", one_strip(bytes(8192), 8, [widths], height=1 << 23)
    yield "60,000 tags", raw_tiff([short(256, 64)] * 60_000)
    yield "JPEG with 300 scans", many_scans(300)
    yield "JPEG with 200,000 segments", jpeg_with(segment(0xE5, b"") * 200_000)
    yield "JPEG with a million bytes of filling", jpeg_with(b"\xff" * 1_000_000)
    yield "PNG with 80,000 chunks", png_with(png_chunk(b"teSt", b"") * 80_000)


def broken() -> Iterator[tuple[str, bytes]]:
    """Files that are none, or none that is taken."""
    yield "TIFF without width", one_strip(bytes(8192), 8, width=0)
    yield "TIFF without height", one_strip(bytes(8192), 1, height=0)
    yield "TIFF with one strip of 4", one_strip(zlib.compress(bytes(2048)), 8, rows=16)
    yield "film of 200 frames", film(200)
    yield "directories in a circle", chain(5, back=True)
    yield "directory that follows itself", chain(1, back=True)
    yield "5,000 directories", chain(5000)
    yield "BigTIFF that begins at 2^64 - 1", big_tiff(2**64 - 1)
    yield "BigTIFF that begins at 2^63 - 1", big_tiff(2**63 - 1)
    yield "BigTIFF of 2^64 - 1 tags", big_tiff(16, 2**64 - 1)
    yield "TIFF that begins beyond its end", b"II*\0\xff\xff\xff\xff"
    yield "JPEG within a TIFF", one_strip(PICTURES["baseline JPEG"], 7)
    yield "TIFF of bits", one_strip(bytes(8192), 1, bits=1)
    yield "TIFF of 999 bits", one_strip(bytes(8192), 1, bits=999)
    yield "only a magic number", b"II*\0"
    yield "PNG of bits", picture("PNG", np.zeros((64, 64), bool))
    yield "PNG without data", PICTURES["PNG"][:33]
    yield "JPEG without data", b"\xff\xd8\xff"
    yield "NPY without header", b"\x93NUMPY"
    yield "NPY of version 9", npy_of(version=9)
    for shape in ("(-1, 64, 64)", "(0, 64, 64)", f"({2**62}, 4, 4)", "(64, 64)", "()", "(4,,4)"):
        yield f"NPY of shape {shape}", npy_of(shape)
    yield "NPY of shape of 3,000 digits", npy_of(f"({'9' * 1000}, {'9' * 1000}, {'9' * 1000})")
    yield "NPY of shape of booleans", npy_of("(True, True, True)", data=bytes(2))
    for descr in ("'|O'", "[('a', '<u2')]", "('<u2', (2,))", "'<M8[s]'", "'<c8'", "'|S9'", "'f1'"):
        yield f"NPY of dtype {descr}", npy_of(descr=descr)
    yield "NPY of objects", npy(np.array([{"a": 1}] * 4, dtype=object))
    code = "__import__('os').system('true')"
    yield "NPY with code", raw_npy(code)
    yield "NPY with code as shape", npy_of(f"({code}, 64, 64)")
    yield "NPY nested 4,000 deep", raw_npy("(" * 4000)
    yield "NPY of brackets", npy_of("[" * 3000 + "]" * 3000)
    yield "NPY with a header of 2^32 - 1 bytes", b"\x93NUMPY\x02\0\xff\xff\xff\xff{"
    for value in (np.nan, np.inf, -np.inf):
        yield f"NPY of {value}", npy(np.full((4, 64, 64), value, np.float32))
        yield f"TIFF of {value}", tiff(
            np.full((64, 64, 4), value, np.float32), planarconfig="contig"
        )


def strangers() -> Iterator[tuple[str, bytes]]:
    """Formats that Pillow or GDAL would open."""
    for form in ("GIF", "BMP", "WEBP", "ICO", "PPM", "TGA", "PCX"):
        yield form, picture(form)
    yield "EPS", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n(/etc/passwd) (r) file\n"
    yield "FITS", b"SIMPLE  =                    T".ljust(2880) + bytes(2880)
    yield "PSD", b"8BPS\0\x01" + bytes(6) + struct.pack(">HIIHH", 3, 64, 64, 8, 3) + bytes(64)
    yield "SVG", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    yield "ZIP", b"PK\x03\x04" + bytes(64)
    yield "NPZ", b"PK\x03\x04chip.npy" + bytes(64)
    yield "pickle", b"\x80\x04cposix\nsystem\n(S'true'\ntR."
    yield "HDF5", b"\x89HDF\r\n\x1a\n" + bytes(64)
    yield "JPEG 2000", b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(64)
    yield "text", b"hello"
    yield "zeros", bytes(32768)
    yield "one byte", b"\0"
