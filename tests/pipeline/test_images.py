"""Image files become arrays, and files that are no chip are told apart with a reason."""

import io
import socket
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from PIL import Image
from rasterio.io import MemoryFile
from rasterio.transform import from_origin

from pipeline.dataset import Dataset
from pipeline.errors import DataError
from pipeline.images import decode, digest, fault


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


def npy(pixels: npt.NDArray[Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, pixels, **options)
    return buffer.getvalue()


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
