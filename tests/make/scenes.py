"""Small scenes of Sentinel-2 with simulated pixels: a file a band, and their STAC items."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.io import MemoryFile
from rasterio.transform import from_origin
from rasterio.warp import transform_bounds, transform_geom

from tests.fakes.stac import Catalogue

COLLECTION = "sentinel-2-l2a"
BANDS = ("B02", "B03", "B04", "B08")
SIDE = 96  # pixels
ORIGIN = (500_000, 5_100_000)  # metres, EPSG:32633
WATER, FOREST, SOIL = (300, 250, 150, 90), (250, 450, 260, 3200), (900, 1200, 1600, 2400)
"""Digital numbers of the bands, without an offset."""


@cache
def classes() -> npt.NDArray[np.uint8]:
    """Stripes (SIDE, SIDE): 0 water, 1 forest, 2 soil."""
    return np.repeat(np.arange(SIDE) * 3 // SIDE, SIDE).reshape(SIDE, SIDE).T.astype(np.uint8)


def pixels(band: str, added: int, seed: int) -> npt.NDArray[np.uint16]:
    """Digital numbers of a band (SIDE, SIDE), with `added` in each of them."""
    index = BANDS.index(band) if band in BANDS else 0
    levels = np.array([level[index] for level in (WATER, FOREST, SOIL)])
    noise = np.random.default_rng((seed, index)).normal(1, 0.1, (SIDE, SIDE))
    return (levels[classes()] * noise + added).clip(1).astype(np.uint16)


def cog(
    values: npt.NDArray[Any],
    metres: float = 10,
    crs: str | None = "EPSG:32633",
    origin: tuple[float, float] = ORIGIN,
) -> bytes:
    """A GeoTIFF of one band with blocks."""
    transform = from_origin(*origin, metres, metres)
    with MemoryFile() as memory:
        profile = {
            **{"driver": "GTiff", "count": 1, "dtype": values.dtype, "crs": crs},
            **{"transform": transform, "height": values.shape[0], "width": values.shape[1]},
            **{"compress": "deflate", "tiled": True, "blockxsize": 32, "blockysize": 32},
        }
        with memory.open(**profile) as file:
            file.write(values, 1)
        return bytes(memory.read())


def add_scene(
    catalogue: Catalogue,
    name: str,
    *,
    time: str = "2025-06-17T10:00:31Z",
    added: int = 1000,
    named: float | None = -0.1,
    clouds: float = 3,
    checksums: bool = True,
    scl: npt.NDArray[np.uint8] | None = None,
    properties: Mapping[str, Any] = {},
    files: Mapping[str, bytes] = {},
    part: slice = slice(0, SIDE),
    seed: int = 1,
    crs: str = "EPSG:32633",
) -> dict[str, Any]:
    """Add a scene: pixels with `added`, an item that names the offset `named`; `part` has data."""
    contents = {band: _masked(pixels(band, added, seed), part) for band in BANDS}
    encoded = {band: cog(values, crs=crs) for band, values in contents.items()}
    if scl is not None:
        encoded["SCL"] = cog(scl, 20, crs)
    encoded |= files
    assets: dict[str, dict[str, Any]] = {}
    for band, content in encoded.items():
        path = f"/files/{name}/{band}.tif"
        catalogue.files[path] = content
        assets[band] = {"href": path, "type": "image/tiff; application=geotiff"}
        if band != "SCL":
            offset = {} if named is None else {"raster:offset": named}
            assets[band] |= {
                "bands": [{"name": band}],
                "raster:scale": 0.0001,
                "nodata": 0,
                **offset,
            }
        if checksums:
            digest = hashlib.sha256(content).hexdigest()
            assets[band] |= {"file:checksum": f"1220{digest}", "file:size": len(content)}
    west, north = ORIGIN
    box = (west + part.start * 10, north - SIDE * 10, west + part.stop * 10, north)
    item = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [],
        "id": name,
        "collection": COLLECTION,
        "geometry": transform_geom(crs, "EPSG:4326", _rectangle(*box)),
        "bbox": list(transform_bounds(crs, "EPSG:4326", *box)),
        "properties": {
            "datetime": time,
            "eo:cloud_cover": clouds,
            "platform": "sentinel-2a",
            "grid:code": f"MGRS-{crs[-2:]}TWM",
            "s2:processing_baseline": "05.11" if added else "02.14",
            **properties,
        },
        "assets": assets,
        "links": [],
    }
    catalogue.items.append(item)
    return item


def area_of(item: Mapping[str, Any]) -> str:
    """The box of an item, as --area takes it."""
    return ",".join(str(number) for number in item["bbox"])


def read(path: Path) -> npt.NDArray[Any]:
    """The pixels of a GeoTIFF (bands, height, width)."""
    with rasterio.open(path) as file:
        values: npt.NDArray[Any] = file.read()
        return values


def _masked(values: npt.NDArray[np.uint16], part: slice) -> npt.NDArray[np.uint16]:
    masked = np.zeros_like(values)
    masked[:, part] = values[:, part]
    return masked


def _rectangle(west: float, south: float, east: float, north: float) -> dict[str, Any]:
    corners: Sequence[tuple[float, float]] = (
        (west, south),
        (east, south),
        (east, north),
        (west, north),
        (west, south),
    )
    return {"type": "Polygon", "coordinates": [list(corners)]}
