"""Image files become arrays, and files that are no chip are told apart with a reason."""

import io
import socket
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile
from rasterio.transform import from_origin

from pipeline.data.dataset import Dataset
from pipeline.data.images import decode, digest, fault
from pipeline.errors import DataError


def geotiff(pixels: npt.NDArray[Any], **options: Any) -> bytes:
    bands, height, width = pixels.shape
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff",
            count=bands,
            height=height,
            width=width,
            dtype=pixels.dtype,
            crs="EPSG:32633",
            transform=from_origin(500_000, 5_000_000, 10, 10),
            **options,
        ) as raster:
            raster.write(pixels)
        return bytes(memory.read())


def sparse(size: int) -> bytes:
    """A small file of a large raster: blocks that nobody wrote are not in it."""
    options = {"tiled": True, "blockxsize": 4096, "blockysize": 4096, "sparse_ok": True}
    with MemoryFile() as memory:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            memory.open(
                driver="GTiff", count=1, height=size, width=size, dtype="uint16", **options
            ).close()
        return bytes(memory.read())


def npy(pixels: npt.NDArray[Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, pixels, **options)
    return buffer.getvalue()


def header(text: str, version: tuple[int, int] = (1, 0)) -> bytes:
    """The begin of an NPY file, whatever it says."""
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + length + text.encode("latin1")


def described(shape: str, descr: str = "'|u1'") -> bytes:
    return header(f"{{'descr':{descr},'fortran_order':False,'shape':{shape}}}\n")


def archive() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=PIXELS)
    return buffer.getvalue()


def changed(content: bytes, at: int, value: int) -> bytes:
    return content[:at] + bytes([value]) + content[at + 1 :]


def picture(pixels: npt.NDArray[Any], form: str, mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, form)
    return buffer.getvalue()


PIXELS = np.random.default_rng(0).integers(1, 9_000, (13, 16, 16)).astype(np.uint16)
RGB = np.random.default_rng(1).integers(0, 256, (16, 16, 3)).astype(np.uint8)
DATASET = Dataset(
    name="test",
    classes=("a", "b"),
    bands=("B02", "B03"),
    dtype="uint16",
    size=16,
    scale=10_000,
    units="reflectance",
    valid_max=20_000,
    origin="test",
    licence="none",
)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compress": "deflate", "predictor": 2},
        {"tiled": True, "blockxsize": 16, "blockysize": 16},
    ],
)
def test_a_geotiff_keeps_bands_values_and_position(options: dict[str, Any]) -> None:
    chip = decode("a.tif", geotiff(PIXELS, **options))
    assert np.array_equal(chip.pixels, PIXELS)
    assert chip.crs == "EPSG:32633"
    assert chip.centre == (500_080.0, 4_999_920.0)


def test_an_npy_file_is_read_bands_first() -> None:
    assert np.array_equal(decode("a.npy", npy(PIXELS)).pixels, PIXELS)


def test_a_png_becomes_bands_first() -> None:
    assert np.array_equal(decode("a.PNG", picture(RGB, "PNG")).pixels, RGB.transpose(2, 0, 1))


def test_a_jpeg_and_a_grey_picture_are_read() -> None:
    assert decode("a.jpg", picture(RGB, "JPEG")).pixels.shape == (3, 16, 16)
    assert decode("a.png", picture(RGB, "PNG", "L")).pixels.shape == (1, 16, 16)


@pytest.mark.parametrize("name", ["text.tif", "text.jpg", "text.png"])
def test_the_reason_is_the_same_each_time(name: str) -> None:
    """It goes into reports, which are compared: no addresses, no names made up for the moment."""
    with pytest.raises(DataError, match="the file"):
        decode(name, b"hello")
    said = [str(pytest.raises(DataError, decode, name, b"hello").value) for _ in range(2)]
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.tif", b""),
        ("empty.png", b""),
        ("cut.tif", geotiff(PIXELS)[:200]),
        ("cut.jpg", picture(RGB, "JPEG")[:200]),
        ("cut.png", picture(RGB, "PNG")[:100]),
        ("cut.npy", npy(PIXELS)[:300]),
        ("text.tif", b"hello"),
        ("text.jpg", b"hello"),
        ("text.npy", b"hello"),
        ("flat.npy", npy(PIXELS[0])),
        ("pickle.npy", npy(np.array([{"a": 1}], dtype=object))),
        ("palette.png", picture(RGB, "PNG", "P")),
        ("gif.png", picture(RGB, "GIF")),
    ],
)
def test_a_broken_file_is_told_with_a_reason(name: str, content: bytes) -> None:
    with pytest.raises(DataError) as caught:
        decode(name, content)
    assert len(str(caught.value)) > 5


PNG = picture(RGB, "PNG")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("archive.npy", archive(), "not an NPY file"),
        ("empty-archive.npy", b"PK\x05\x06" + bytes(18), "not an NPY file"),
        ("junk-archive.npy", b"PK\x03\x04" + b"x" * 100, "not an NPY file"),
        ("pickle.npy", b"\x80\x04N.", "not an NPY file"),
        ("version.npy", b"\x93NUMPY\x03\x00" + bytes(64), "NPY version 3.0; wanted 1.0 or 2.0"),
        ("1-tib.npy", described("(1,1048576,1048576)"), "the header says 1099511627776"),
        ("4-eib.npy", described("(1,2147483648,2147483648)"), "0 bytes of pixels, the header"),
        ("overflow.npy", described("(4294967296,4294967296,4294967296)"), "the header says"),
        ("negative.npy", described("(-1,-2,2)") + b"1234", "shape (-1, -2, 2); wanted (bands"),
        ("none.npy", described("(3,0,0)"), "shape (3, 0, 0); wanted (bands"),
        ("nothing.npy", described("(1000,1000000,1000000)", "'|V0'"), "wanted numbers"),
        ("objects.npy", described("(3,2,2)", "'|O'") + bytes(96), "values are object, wanted"),
        ("records.npy", described("(3,2,2)", "[('a','|u1')]") + bytes(12), "wanted numbers"),
        ("parentheses.npy", header("(" * 3900 + "\n"), "the header is damaged"),
        ("minus.npy", header("-" * 3900 + "1\n"), "the header is damaged"),
        ("lists.npy", header("[" * 150 + "]" * 150 + "\n", (2, 0)), "the header is damaged"),
        ("unhashable.npy", header("{[]:1}\n"), "the header is damaged"),
        ("keys.npy", header("{1:2,'descr':3}\n"), "the header is damaged"),
        ("string.npy", header("'''abc\n"), "the header is damaged"),
        ("indent.npy", header("  1\n 2\n"), "the header is damaged"),
        ("type.npy", described("(3,2,2)", "[('a',)]"), "the header is damaged"),
        ("long.npy", described("(" + "1," * 2000 + ")"), "shape (1, 1, 1, "),
        ("chunk.png", changed(PNG, PNG.index(b"IDAT") - 1, 0), "broken PNG file"),
        ("sparse.tif", sparse(40_000), "3200000000 bytes of pixels, wanted at most"),
    ],
)
def test_a_hostile_or_damaged_file_is_told_with_a_reason(
    name: str, content: bytes, reason: str
) -> None:
    with pytest.raises(DataError) as caught:
        decode(name, content)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 300


def test_an_npy_file_in_the_order_of_fortran_is_read_as_it_was() -> None:
    content = npy(np.asfortranarray(PIXELS))
    assert b"'fortran_order': True" in content
    assert np.array_equal(decode("a.npy", content).pixels, PIXELS)


SMALL = RGB[:4, :4]


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.png", picture(SMALL, "PNG")), ("a.npy", npy(SMALL.transpose(2, 0, 1)))],
)
@settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.too_slow],  # the machine may be busy
)
@given(
    changes=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=4)), max_size=3
    ),
    kept=st.just(1.0) | st.floats(0.2, 1),
)
@example(changes=[(0.3, b"\0")], kept=1.0)  # the length of a chunk of the PNG: a SyntaxError once
def test_whatever_happens_to_a_file_it_is_a_chip_or_a_reason(
    name: str, content: bytes, changes: list[tuple[float, bytes]], kept: float
) -> None:
    damaged = bytearray(content)
    for place, value in changes:
        start = int(place * len(content))
        damaged[start : start + len(value)] = value
    try:
        assert decode(name, bytes(damaged[: round(kept * len(content))])).pixels.ndim == 3
    except DataError as error:
        assert len(str(error)) > 5


def test_a_vrt_in_disguise_is_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.tif"
    secret.write_bytes(geotiff(PIXELS))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        port = listener.getsockname()[1]
        for target in (str(secret), f"/vsicurl/http://127.0.0.1:{port}/x.tif"):
            vrt = (
                f'<VRTDataset rasterXSize="16" rasterYSize="16"><VRTRasterBand dataType="UInt16" '
                f'band="1"><SimpleSource><SourceFilename>{target}</SourceFilename></SimpleSource>'
                f"</VRTRasterBand></VRTDataset>"
            ).encode()
            with pytest.raises(DataError):
                decode("innocent.tif", vrt)
        with pytest.raises(TimeoutError):
            listener.accept()
    with rasterio.open(secret) as raster:  # the canary itself is readable
        assert raster.count == 13


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (PIXELS[:3], "3 bands, wanted 2 (B02, B03)"),
        (PIXELS[:2, :, :8], "8 x 16 pixels, wanted 16 x 16"),
        (PIXELS[:2].astype(np.uint8), "values are uint8, wanted uint16"),
        (np.full((2, 16, 16), np.nan, np.float32), "512 values are NaN or infinite"),
        (np.full((2, 16, 16), 7, np.uint16), "constant: every value is 7"),
        (np.where(PIXELS[:2] > 8_000, 30_000, 1).astype(np.uint16), "largest value 30000"),
    ],
)
def test_an_unusable_chip_is_told_with_the_value(pixels: npt.NDArray[Any], words: str) -> None:
    assert words in (fault(pixels, DATASET) or "")


def test_a_good_chip_has_no_fault() -> None:
    assert fault(PIXELS[:2], DATASET) is None


def test_the_same_pixels_have_the_same_digest_in_every_format() -> None:
    grey = RGB.transpose(2, 0, 1)
    same = {
        digest(decode(n, c).pixels)
        for n, c in (("a.png", picture(RGB, "PNG")), ("a.npy", npy(grey)), ("a.tif", geotiff(grey)))
    }
    assert len(same) == 1
