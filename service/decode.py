"""Bytes of an upload -> one chip array; every limit on a format stands here.

The format is read off the content, never off a file name or header. Nothing is written to disk,
and nothing that a file refers to is opened.
"""

import io
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from service.bundle import Input
from service.errors import BadRequest, TooLarge, UnsupportedMedia, Unprocessable
from service.tiff import read_any, read_plain

TAKEN = "GeoTIFF, TIFF, PNG, JPEG or NPY"
MODES = {"L": 1, "RGB": 3, "RGBA": 4, "I;16": 1}  # Pillow's mode -> bands
MAX_SCANS = 64  # of a progressive JPEG; each one decodes the whole image again
MAX_NPY_HEADER = 4096

Buffer = bytes | memoryview
Array = npt.NDArray[Any]


def decode(content: Buffer, wanted: Input, max_pixels: int, resize: bool = False) -> Array:
    """Decode an upload into a chip (bands, height, width) as the model wants it, contiguous.

    Raises:
        BadRequest: there are no bytes.
        TooLarge: the image declares more than `max_pixels` values.
        UnsupportedMedia: it is none of the formats taken.
        Unprocessable: it is broken, or of another dtype, number of bands or size.
    """
    return conform(read_image(content, max_pixels), wanted, resize)


def read_image(content: Buffer, max_pixels: int) -> Array:
    """Decode whatever was sent into (bands, height, width), of the dtype it has."""
    if not content:
        raise BadRequest("the upload is empty: send the bytes of an image")
    magic = bytes(content[:8])
    if magic[:4] in (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"):
        plain = read_plain(content)
        pixels = read_any(content, max_pixels) if plain is None else plain
    elif magic == b"\x89PNG\r\n\x1a\n" or magic[:3] == b"\xff\xd8\xff":
        pixels = _read_picture(content, max_pixels)
    elif magic[:6] == b"\x93NUMPY":
        pixels = _read_npy(content, max_pixels)
    else:
        raise UnsupportedMedia(f"the upload is no image that is taken: send {TAKEN}")
    if pixels.size > max_pixels:
        raise _too_large(pixels.shape, max_pixels)
    return pixels


def conform(pixels: Array, wanted: Input, resize: bool) -> Array:
    """Check an image against what the model wants; resize it when asked to.

    Raises:
        Unprocessable: another dtype, number of bands or size.
    """
    bands, height, width = pixels.shape
    if bands != len(wanted.bands):
        raise Unprocessable(
            f"{bands} bands, wanted {len(wanted.bands)} ({', '.join(wanted.bands)}), in this order"
        )
    if pixels.dtype != wanted.dtype:
        if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
            raise Unprocessable(f"some values are NaN or infinite; wanted {wanted.dtype}")
        if pixels.dtype.newbyteorder("=") != wanted.dtype:
            raise Unprocessable(
                f"values are {pixels.dtype.name}, wanted {wanted.dtype} "
                f"({wanted.units} x {wanted.scale:g}): convert them, not by stretching"
            )
    if (height, width) != (wanted.height, wanted.width):
        if not resize:
            raise Unprocessable(
                f"{width} x {height} pixels, wanted {wanted.width} x {wanted.height}: cut the "
                "image into chips of that size, or add ?fit=resize to have it resampled"
            )
        pixels = _resize(pixels, wanted)
    return np.ascontiguousarray(pixels, dtype=wanted.dtype)


def _resize(pixels: Array, wanted: Input) -> Array:
    """Bilinear, averaging when it shrinks; the whole image, without keeping its proportions."""
    size = (wanted.width, wanted.height)
    planes = [Image.fromarray(band.astype(np.float32)) for band in pixels]
    resized = [np.asarray(plane.resize(size, Image.Resampling.BILINEAR)) for plane in planes]
    limits = np.iinfo(wanted.dtype)
    rounded: Array = np.clip(np.rint(np.stack(resized)), limits.min, limits.max)
    return rounded.astype(wanted.dtype)


def _read_picture(content: Buffer, max_pixels: int) -> Array:
    if bytes(content).count(b"\xff\xda") > MAX_SCANS and content[0] == 0xFF:
        raise Unprocessable(f"the JPEG has more than {MAX_SCANS} scans: save it as a baseline JPEG")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
                bands = MODES.get(image.mode)
                if bands is None:
                    raise Unprocessable(
                        f"the picture has colour mode {image.mode}; taken are {', '.join(MODES)}"
                    )
                if image.width * image.height * bands > max_pixels:
                    raise _too_large((bands, image.height, image.width), max_pixels)
                pixels = np.asarray(image)
    except (TooLarge, Unprocessable):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise TooLarge(
            f"the picture declares more than {max_pixels} values: cut it into chips"
        ) from None
    except Exception as error:  # whatever a decoder says of hostile bytes, the upload is at fault
        raise Unprocessable(
            f"the picture can not be read ({type(error).__name__}): it is cut off or broken"
        ) from None
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _read_npy(content: Buffer, max_pixels: int) -> Array:
    stream = io.BytesIO(content)
    try:
        if np.lib.format.read_magic(stream) == (1, 0):
            header = np.lib.format.read_array_header_1_0(stream, max_header_size=MAX_NPY_HEADER)
        else:
            header = np.lib.format.read_array_header_2_0(stream, max_header_size=MAX_NPY_HEADER)
    except Exception as error:  # it parses a Python literal: any of a dozen errors
        raise Unprocessable(f"the NPY header can not be read ({type(error).__name__})") from None
    shape, fortran, dtype = header
    if dtype.hasobject or dtype.kind not in "uif" or dtype.names is not None:
        raise Unprocessable(f"the NPY file holds {dtype}, wanted plain numbers")
    if len(shape) != 3 or min(shape) < 1:
        raise Unprocessable(f"the NPY array has shape {shape}, wanted (bands, height, width)")
    if shape[0] * shape[1] * shape[2] > max_pixels:
        raise _too_large(shape, max_pixels)
    start, count = stream.tell(), shape[0] * shape[1] * shape[2]
    if len(content) - start != count * dtype.itemsize:
        raise Unprocessable(
            f"the NPY file has {len(content) - start} bytes of data, its header says "
            f"{count * dtype.itemsize}: it was cut off"
        )
    pixels: Array = np.frombuffer(content, dtype, count, start)
    return pixels.reshape(shape[::-1]).transpose(2, 1, 0) if fortran else pixels.reshape(shape)


def _too_large(shape: tuple[int, ...], max_pixels: int) -> TooLarge:
    bands, height, width = shape
    return TooLarge(
        f"{width} x {height} pixels in {bands} bands; at most {max_pixels} values are taken: "
        "cut the image into chips"
    )
