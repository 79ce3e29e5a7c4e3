"""Small scenes with label maps, and what changes them."""

from pathlib import Path
from typing import Any
from warnings import catch_warnings

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.transform import from_origin

from pipeline.data.dataset import Dataset

BANDS = ("B02", "B03", "B04")
SIZE = 16
CORNER = (400_000.0, 5_000_000.0)


def dataset(**changes: Any) -> Dataset:
    """Three bands, two classes, chips of 16 pixels of 10 m."""
    fields: dict[str, Any] = {
        "name": "scenes",
        "labels": "maps",
        "classes": ("low", "high"),
        "bands": BANDS,
        "dtype": "uint16",
        "size": SIZE,
        "scale": 10_000,
        "units": "reflectance",
        "nodata": 0,
        "valid_max": 20_000,
        "resolution": 10.0,
        "origin": "test",
        "licence": "none",
    }
    return Dataset(**(fields | changes))


def write_raster(path: Path, pixels: npt.NDArray[Any], **changes: Any) -> Path:
    """Write (bands, H, W) as a GeoTIFF in UTM; `changes` replace fields of its profile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = changes.pop("names", ())
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "count": len(pixels),
        "height": pixels.shape[1],
        "width": pixels.shape[2],
        "dtype": pixels.dtype,
        "crs": "EPSG:32633",
        "transform": from_origin(*CORNER, 10, 10),
    }
    with catch_warnings(action="ignore"), rasterio.open(path, "w", **(profile | changes)) as raster:
        raster.write(pixels)
        for index, name in enumerate(names):
            raster.set_band_description(index + 1, name)
    return path


def make_scene(
    folder: Path, name: str = "a", height: int = 40, width: int = 50, **changes: Any
) -> npt.NDArray[np.uint8]:
    """Write images/<name>.tif and labels/<name>.tif below `folder`; returns the labels.

    What is bright is of the class 1. `changes` replace fields of the image's profile.
    """
    rng = np.random.default_rng(0)
    squares = (rng.random((height // 8 + 1, width // 8 + 1)) < 0.5).repeat(8, 0).repeat(8, 1)
    labels: npt.NDArray[np.uint8] = squares[:height, :width].astype(np.uint8)
    noise = rng.integers(0, 200, (len(BANDS), height, width))
    pixels = (1000 + 2000 * labels[None].astype(np.int64) + noise).astype(np.uint16)
    write_raster(folder / "images" / f"{name}.tif", pixels, **changes)
    write_raster(folder / "labels" / f"{name}.tif", labels[None])
    return labels
