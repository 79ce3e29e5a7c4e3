"""Draws a scene and its map as PNG, for the page: at most EDGE pixels along an edge."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from PIL import Image
from rasterio.enums import Resampling
from rasterio.io import DatasetReader

from contracts.bundle import NODATA
from service.errors import Unprocessable
from service.files import replace_file
from service.inference.preview import visible
from service.maps.scene import Scene

EDGE = 2048
DARKEST, BRIGHTEST = 2, 98  # percentiles that become black and white
FAST = 3  # level of deflate

Array = npt.NDArray[Any]


def draw_scene(scene: Scene, bands: Sequence[str], target: Path) -> None:
    """Draw a scene in true colour; pixels without data are transparent.

    Raises:
        OSError: it cannot be written.
        Unprocessable: the file is cut off or damaged.
    """
    chosen = [scene.bands[index] for index in visible(len(bands), bands)]
    try:
        pixels = _read(scene.dataset, chosen, Resampling.average)
    except (rasterio.errors.RasterioError, OSError):
        raise Unprocessable(
            "the scene cannot be read to its end: it is cut off or damaged, copy or fetch it again"
        ) from None
    nodata = scene.conversion.nodata
    known = np.ones(pixels.shape[1:], bool) if nodata is None else (pixels != nodata).any(axis=0)
    values = pixels.astype(np.float32)
    low, high = np.percentile(values[:, known], (DARKEST, BRIGHTEST)) if known.any() else (0, 1)
    shown = np.clip((values - low) / max(float(high - low), 1e-9), 0, 1) * 255
    alpha = np.where(known, 255, 0)[None]
    _write(np.concatenate([shown, alpha]).astype(np.uint8), target)


def draw_map(source: Path, colours: Sequence[str], target: Path, values: Path) -> None:
    """Draw a map in the colours of its classes, and its values: red is class, green confidence.

    Raises:
        OSError: one cannot be written.
    """
    with rasterio.open(source, driver="GTiff") as file:
        labels, confidence = _read(file, [1, 2], Resampling.nearest)
    palette = np.zeros((NODATA + 1, 4), np.uint8)
    palette[: len(colours)] = [(*bytes.fromhex(colour[1:]), 255) for colour in colours]
    _write(palette[labels].transpose(2, 0, 1), target)
    _write(np.stack([labels, confidence, np.zeros_like(labels)]), values)


def _read(file: DatasetReader, bands: Sequence[int], how: Resampling) -> Array:
    height, width = file.shape
    smaller = max(1.0, max(height, width) / EDGE)
    shape = (len(bands), max(1, round(height / smaller)), max(1, round(width / smaller)))
    pixels: Array = file.read(bands, out_shape=shape, resampling=how)
    return pixels


def _write(pixels: Array, target: Path) -> None:
    """Write (3 or 4, height, width) as PNG."""
    content = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    image.save(content, "PNG", compress_level=FAST)
    replace_file(target, content.getvalue(), durable=False)
