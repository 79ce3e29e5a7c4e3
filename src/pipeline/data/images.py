"""Image files -> arrays, and what makes a chip unusable.

Arrays are bands first everywhere: (bands, height, width). A `.npy` file must be so as well.
"""

import hashlib
import io
import math
import re
import warnings
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

from contracts.images import COMPRESSIONS, check_mode, check_pages, check_png, wrong_bands
from pipeline.data.dataset import Dataset
from pipeline.errors import DataError

# GDAL's names of the compressions.
TAKEN = {name.upper() for name in COMPRESSIONS.values()}
NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
NUMBERS = "biuf"  # kinds of NumPy: bool, integers with and without sign, floating point
LARGEST = 2**30  # bytes of pixels; 512 bands of the largest chip, 1024 x 1024, in uint16
# What decoders call the bytes. It is another one each time, and the reasons go into reports.
PLACE = re.compile(r"'?/vsimem/[^\s']+'?|(image file )?<\S+ object at 0x[0-9a-f]+>")
LONGEST = 200  # letters of a reason: decoders quote the file


class Chip(NamedTuple):
    """A decoded file."""

    pixels: npt.NDArray[Any]
    """(bands, height, width), the dtype of the file."""
    crs: str = ""
    """For example EPSG:32633; empty where the file has none."""
    centre: tuple[float, float] | None = None
    """Centre of the chip in the units of `crs`, x then y."""


def decode(name: str, content: bytes) -> Chip:
    """Decode one image file.

    Raises:
        DataError: the file is empty, cut off, damaged, of another format, or of a kind or size that
            is not taken. Nothing else, whatever the bytes are.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if not content:
        raise DataError("empty file")
    try:
        if suffix in (".tif", ".tiff"):
            return _decode_geotiff(content)
        if suffix == ".npy":
            return _decode_npy(content)
        return _decode_picture(content)
    except Exception as error:  # on damaged bytes decoders raise what they run into, of any type
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        reason = PLACE.sub("the file", reason)
        raise DataError(f"cannot be read: {reason[:LONGEST]}") from None


def _decode_geotiff(content: bytes) -> Chip:
    # Driver pinned: left to itself GDAL follows a VRT in disguise to other files and addresses.
    with MemoryFile(content) as memory, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(memory.name, driver="GTiff") as raster:
            value = max(np.dtype(name).itemsize for name in raster.dtypes)
            size = raster.count * raster.height * raster.width * value
            if size > LARGEST:  # a few bytes can claim that, and GDAL makes room first
                raise ValueError(f"{size} bytes of pixels, wanted at most {LARGEST}")
            check_pages(len(raster.subdatasets))  # none is listed where there is one
            if raster.compression and raster.compression.value.upper() not in TAKEN:
                raise ValueError(
                    f"the TIFF is compressed by {raster.compression.value}; taken are "
                    f"{', '.join(dict.fromkeys(COMPRESSIONS.values()))}: write it again"
                )
            pixels = raster.read()
            if raster.crs is None:
                return Chip(pixels)
            centre = raster.xy(raster.height / 2, raster.width / 2, offset="ul")
            return Chip(pixels, raster.crs.to_string(), (float(centre[0]), float(centre[1])))


def _decode_npy(content: bytes) -> Chip:
    # Not np.load: that opens archives too, and makes room for what a header claims before it reads.
    if not content.startswith(np.lib.format.MAGIC_PREFIX):
        raise ValueError("not an NPY file; an archive (NPZ) or a pickle is not taken")
    file = io.BytesIO(content)
    shape, fortran, dtype = _npy_header(file)
    if dtype.kind not in NUMBERS:
        raise ValueError(f"values are {dtype}, wanted numbers")
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"shape {shape}; wanted (bands, height, width)")
    count, start = math.prod(shape), file.tell()
    if count * dtype.itemsize > len(content) - start:
        raise ValueError(
            f"{len(content) - start} bytes of pixels, the header says {count * dtype.itemsize}"
        )
    pixels = np.frombuffer(content, dtype, count, start)
    return Chip(pixels.reshape(shape, order="F" if fortran else "C"))


def _npy_header(file: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version not in NPY_HEADERS:
        raise ValueError(f"NPY version {version[0]}.{version[1]}; wanted 1.0 or 2.0")
    try:
        return NPY_HEADERS[version](file)
    except Exception as error:  # a header is Python, and NumPy lets pass what its parser raises
        raise ValueError(f"the header is damaged ({type(error).__name__})") from None


def _decode_picture(content: bytes) -> Chip:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        check_png(content)
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
            check_mode(image.mode)
            pixels = np.asarray(image)
    return Chip(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def fault(pixels: npt.NDArray[Any], dataset: Dataset, any_size: bool = False) -> str | None:
    """Say why a chip, or an image of `any_size`, cannot be used, or None when it can."""
    wanted = dataset.shape
    if pixels.shape[0] != wanted[0]:
        reason = wrong_bands(pixels.shape[0], dataset.bands, dataset.dtype)
        if (pixels.shape[0], wanted[0], dataset.dtype) == (3, 1, "uint8"):
            reason += ", or give three names as --bands: grey images are read as RGB then"
        return reason
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        return f"{int((~np.isfinite(pixels)).sum())} values are NaN or infinite"
    if pixels.dtype != np.dtype(dataset.dtype):
        return f"values are {pixels.dtype}, wanted {dataset.dtype}"
    if pixels.shape != wanted and not any_size:
        return (
            f"{pixels.shape[2]} x {pixels.shape[1]} pixels, wanted {wanted[2]} x {wanted[1]}: "
            "give --size and --fit"
        )
    if pixels.max() > dataset.valid_max:
        return f"largest value {pixels.max()}, wanted at most {dataset.valid_max}"
    if pixels.min() == pixels.max():
        return f"constant: every value is {pixels.min()}"
    return None


def digest(pixels: npt.NDArray[Any]) -> str:
    """SHA-256 of a chip's pixels: the same image has the same digest in every file format."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
