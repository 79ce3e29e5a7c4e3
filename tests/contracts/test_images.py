"""The table of images: the pipeline and the service read the same files alike."""

import io
import resource
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image

from contracts.bundle import Input
from contracts.images import FITS, Fit, fit_to, magnification, wrong_bands
from pipeline.data.images import decode
from pipeline.errors import DataError
from service.errors import ServiceError
from service.inference.decode import read_image
from tests.make.images import CHIP, CHIPS, PICTURE, PICTURES, npy, picture, png_chunk, tiff

MAX_PIXELS = 1 << 24
BANDS_APART = np.ascontiguousarray(CHIP)  # (bands, H, W), a page each if tifffile may choose


def deep_png(colour: int, channels: int) -> bytes:
    """A PNG of 16 bits a channel."""
    values = np.arange(32 * 32 * channels, dtype=">u2").reshape(32, 32 * channels) * 7
    lines = b"".join(b"\0" + row.tobytes() for row in values)
    head = struct.pack(">IIBBBBB", 32, 32, 16, colour, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def pages(**options: Any) -> bytes:
    content = io.BytesIO()
    tifffile.imwrite(content, BANDS_APART, **options)
    return content.getvalue()


def of_mode(form: str, mode: str, **options: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(PICTURE).convert(mode).save(content, form, **options)
    return content.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    return picture("JPEG", quality=90, exif=exif)


def compressed(method: str) -> bytes:
    return tiff(PICTURE, planarconfig="contig", compression=method)


READ = {
    **{f"{name}.tif": content for name, content in CHIPS.items() if "NPY" not in name},
    **{f"{name}.npy": content for name, content in CHIPS.items() if "NPY" in name},
    **{f"{name}.{name[-4:].strip().lower()}": content for name, content in PICTURES.items()},
    "grey of 16 bits.png": deep_png(0, 1),
    "grey.png": of_mode("PNG", "L"),
    "four bands.png": of_mode("PNG", "RGBA"),
    "grey.jpg": of_mode("JPEG", "L"),
    "turned by EXIF.jpg": turned(),
}
REFUSED = {
    "RGB of 16 bits.png": (deep_png(2, 3), "a PNG of 16 bits in several channels"),
    "grey and alpha of 16 bits.png": (deep_png(4, 2), "half of its bits"),
    "palette.png": (of_mode("PNG", "P"), "the picture has colour mode P"),
    "grey and alpha.png": (of_mode("PNG", "LA"), "colour mode LA"),
    "one bit.png": (of_mode("PNG", "1"), "colour mode 1"),
    "CMYK.jpg": (of_mode("JPEG", "CMYK"), "colour mode CMYK"),
    "a page a band.tif": (pages(photometric="minisblack"), "images or pages"),
    "JPEG in TIFF.tif": (compressed("jpeg"), "compressed by"),
    "WebP in TIFF.tif": (compressed("webp"), "compressed by"),
    "LZMA in TIFF.tif": (compressed("lzma"), "compressed by"),
    "LERC in TIFF.tif": (compressed("lerc"), "compressed by"),
    "archive.npy": (b"PK\x03\x04" + npy(CHIP), ""),
    "objects.npy": (npy(np.full((1, 2, 2), None, object)), ""),
}


def test_files_of_the_table_are_read_alike_by_training_and_service() -> None:
    for name, content in READ.items():
        trained, served = decode(name, content).pixels, read_image(content, MAX_PIXELS)
        assert trained.dtype.newbyteorder("=") == served.dtype.newbyteorder("="), name
        assert np.array_equal(trained, served), name


def test_files_beyond_the_table_are_refused_by_training_and_service() -> None:
    for name, (content, reason) in REFUSED.items():
        with pytest.raises(DataError) as refused:
            decode(name, content)
        assert reason in str(refused.value), name
        with pytest.raises(ServiceError) as error:
            read_image(content, MAX_PIXELS)
        assert reason in error.value.detail, name


@pytest.mark.parametrize(
    ("found", "wanted", "dtype", "cure"),
    [
        (1, 3, "uint8", "write these bands, and no others, in this order into one file"),
        (4, 3, "uint8", "save it without transparency"),
        (3, 1, "uint8", "save it in grey"),
        (4, 3, "uint16", "write these bands"),
    ],
)
def test_other_bands_are_refused_with_the_cure(
    found: int, wanted: int, dtype: str, cure: str
) -> None:
    said = wrong_bands(found, ("red", "green", "blue")[:wanted], dtype)
    assert said.startswith(f"the image has {found} band") and cure in said


def test_what_a_fit_enlarges_is_known() -> None:
    cases: list[tuple[Fit, tuple[int, int], bool]] = [
        ("crop", (200, 20), True),
        ("pad", (200, 20), False),
        ("pad", (20, 20), True),
        ("stretch", (200, 20), True),
        ("crop", (32, 40), False),
    ]
    for fit, size, enlarges in cases:
        wanted = Input(
            dtype="uint8",
            bands=("grey",),
            height=32,
            width=32,
            scale=1,
            units="",
            nodata=None,
            valid_max=255,
            resolution=None,
            fit=fit,
        )
        assert (magnification(*size, wanted) > 1) is enlarges, (fit, size)


def test_sixteen_bits_are_kept() -> None:
    pixels = decode("x.png", deep_png(0, 1)).pixels
    assert pixels.dtype == np.uint16
    assert len(np.unique(pixels)) == 1024


def image(height: int, width: int) -> npt.NDArray[np.uint16]:
    """A ramp from left to right, another one from top to bottom."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 60_000 // height, columns * 60_000 // width]).astype(np.uint16)


@pytest.mark.parametrize("how", FITS)
def test_every_fit_makes_a_chip_of_the_size_and_dtype_from_any_image(how: Fit) -> None:
    for height, width in ((1, 1), (1, 900), (900, 1), (5, 7), (48, 48), (300, 200)):
        chip = fit_to(image(height, width), 48, 32, how)
        assert (chip.shape, chip.dtype.name) == ((2, 48, 32), "uint16"), (height, width)


def test_crop_keeps_the_middle_pad_keeps_everything_stretch_gives_up_proportions() -> None:
    wide = image(50, 100)
    across = {how: fit_to(wide, 50, 50, how, fill=65_535)[1, 25] for how in FITS}
    assert np.array_equal(across["crop"], wide[1, 25, 25:75])
    assert across["pad"].min() < 1_000 and np.sort(across["pad"])[-1] < 60_000
    assert across["stretch"].min() < 1_000 < 58_000 < across["stretch"].max()
    above = fit_to(wide, 50, 50, "pad", fill=65_535)[0]
    assert (above[:12] == 65_535).all() and (above[-12:] == 65_535).all()


def test_an_image_of_the_right_size_is_not_touched() -> None:
    pixels = image(32, 32)
    assert all(fit_to(pixels, 32, 32, how) is pixels for how in FITS)


@pytest.mark.parametrize("how", FITS)
@pytest.mark.parametrize("shape", [(1, 1, 2_000_000), (1, 2_000_000, 1)])
def test_a_fit_of_a_long_line_takes_no_more_memory_than_the_line(
    how: Fit, shape: tuple[int, ...]
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert fit_to(np.zeros(shape, np.uint8), 64, 64, how).shape == (1, 64, 64)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 512 << 10  # KiB
