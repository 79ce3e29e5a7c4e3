"""The bands of a scene -> one GeoTIFF on the scene's own grid, offset 0, block by block."""

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from rasterio.windows import Window, from_bounds
from rasterio.windows import transform as window_transform

from pipeline.sources.sentinel2.area import Area
from pipeline.sources.sentinel2.assets import CLOUDS, SceneFault
from pipeline.sources.sentinel2.fetch import check_disk, open_raster
from pipeline.sources.sentinel2.radiometry import Darkest, Offset, corrected

BLOCK = 512  # pixels
WIDEST = 20_000  # pixels; a tile of Sentinel-2 has 10,980
SAME_SIZE = 0.01  # share of a pixel's size
CLOUDY = (3, 8, 9, 10)  # shadow, cloud of medium and high probability, cirrus: classes of the SCL
WGS84 = "EPSG:4326"


class Grid(NamedTuple):
    """Where the pixels of an image lie."""

    crs: Any
    transform: Affine
    width: int
    height: int


class Bands(NamedTuple):
    """The fetched files of a scene."""

    paths: Mapping[str, Path]
    """Band -> file; with the scene classification where there is one."""
    offsets: Mapping[str, Offset]
    nodata: Mapping[str, int]


class Wanted(NamedTuple):
    """What the image is to be like."""

    area: Area | None
    """To cut to its box; None: the whole scene."""
    resolution: float
    resample: str
    """For bands of other resolutions; empty: they are refused."""
    is_given: bool
    """Whether a person names the offset."""


class Stacked(NamedTuple):
    """What was written."""

    grid: Grid
    clouds: npt.NDArray[np.bool_] | None
    """(height, width), of the scene classification; None without one."""
    valid: float
    """Share of the pixels with data."""
    floor: int
    """Darkest digital number before the correction."""


def cloudiness(path: Path, area: Area | None) -> float:
    """Share of the scene classification, within the area, that is cloud or its shadow."""
    with _open(CLOUDS, path) as file:
        classes = _read(file, CLOUDS, _window(file, area))
    if not (known := int((classes != 0).sum())):
        raise SceneFault("no pixel of the area has data")
    return float(np.isin(classes, CLOUDY).sum() / known)


def stack(bands: Bands, target: Path, wanted: Wanted) -> Stacked:
    """Write the bands, in the order of `offsets`.

    Raises:
        SceneFault: the files are on no usable grid, hold nothing, or contradict their offset.
    """
    names = tuple(bands.offsets)
    offset = bands.offsets[names[0]]
    if other := [band for band in names if bands.offsets[band].value != offset.value]:
        raise SceneFault(f"bands {names[0]} and {other[0]} have different offsets: give --offset")
    with ExitStack() as opened:
        files = {
            band: opened.enter_context(_open(band, path)) for band, path in bands.paths.items()
        }
        first = _reference(files, names, wanted.resolution)
        window = _window(first, wanted.area)
        grid = Grid(
            first.crs,
            window_transform(window, first.transform),
            int(window.width),
            int(window.height),
        )
        sources = {
            band: _on_grid(band, file, first, opened, wanted.resample)
            for band, file in files.items()
        }
        check_disk(target.parent, grid.width * grid.height * 2 * len(names))
        clouds = np.zeros((grid.height, grid.width), bool) if CLOUDS in sources else None
        darkest, valid = Darkest(len(names)), 0
        with rasterio.open(target, "w", **_profile(grid, len(names))) as image:
            image.descriptions = names
            for place in _blocks(grid):
                at = Window(
                    window.col_off + place.col_off,
                    window.row_off + place.row_off,
                    place.width,
                    place.height,
                )
                if clouds is not None:
                    part = np.isin(_read(sources[CLOUDS], CLOUDS, at), CLOUDY)
                    clouds[place.toslices()] = part
                pixels = np.stack([_read(sources[band], band, at) for band in names])
                void = np.stack([pixels[i] == bands.nodata[n] for i, n in enumerate(names)]).any(0)
                clear = ~void if clouds is None else ~void & ~part
                for index in range(len(names)):
                    darkest.count(index, pixels[index][clear])
                    pixels[index] = corrected(pixels[index], offset.value)
                valid += int((~void).sum())
                pixels[:, void] = 0  # a pixel that lacks one band is no pixel
                image.write(pixels, window=place)
    if not valid:
        raise SceneFault("no pixel of the area has data in every band")
    darkest.check(offset, wanted.is_given)
    return Stacked(grid, clouds, valid / (grid.width * grid.height), darkest.floor)


def _open(band: str, path: Path) -> DatasetReader:
    try:
        file = open_raster(path)
    except RasterioError as error:
        raise SceneFault(f"band {band} cannot be opened ({str(error)[:100]})") from None
    if file.count != 1 or (band != CLOUDS and file.dtypes[0] != "uint16"):
        raise SceneFault(
            f"band {band} is {file.count} band of {file.dtypes[0]}, wanted 1 of uint16"
        )
    if max(file.shape) > WIDEST:
        raise SceneFault(
            f"band {band} has {file.width} x {file.height} pixels, at most {WIDEST} wide"
        )
    return file


def _reference(
    files: Mapping[str, DatasetReader], names: tuple[str, ...], resolution: float
) -> DatasetReader:
    """The first band of the wanted resolution; every image has its grid."""
    for band in names:
        file = files[band]
        if file.crs is None:
            raise SceneFault(f"band {band} has no CRS")
        if not file.crs.is_projected or not math.isclose(file.crs.linear_units_factor[1], 1):
            raise SceneFault(f"band {band} is in {file.crs}, wanted a CRS in metres")
        if file.transform.b or file.transform.d or file.transform.e > 0:
            raise SceneFault(f"band {band} is rotated or flipped, wanted north up")
        if all(math.isclose(size, resolution, rel_tol=SAME_SIZE) for size in file.res):
            return file
    sizes = ", ".join(f"{band} {files[band].res[0]:g} m" for band in names)
    raise SceneFault(f"no band has pixels of {resolution:g} m ({sizes}): change --resolution")


def _on_grid(
    band: str, file: DatasetReader, first: DatasetReader, opened: ExitStack, resample: str
) -> DatasetReader:
    """The file itself if it has the grid; else a view of it, if that is wanted."""
    if file.crs == first.crs and file.shape == first.shape:
        if file.transform.almost_equals(first.transform, 1e-3 * first.res[0]):
            return file
    how = "nearest" if band == CLOUDS else resample
    if file.crs != first.crs or not how:
        raise SceneFault(
            f"band {band} has {file.res[0]:g} m in {file.crs}, the image {first.res[0]:g} "
            f"m in {first.crs}: leave it out of --bands, or add --resample nearest or bilinear"
        )
    return opened.enter_context(
        WarpedVRT(
            file,
            crs=first.crs,
            transform=first.transform,
            width=first.width,
            height=first.height,
            resampling=Resampling[how],
        )
    )


def _window(file: DatasetReader, area: Area | None) -> Window:
    """The pixels that the box around the area touches."""
    if area is None:
        return Window(0, 0, file.width, file.height)
    box = transform_bounds(WGS84, file.crs, *area.box, densify_pts=21)  # its edges are curves
    exact = from_bounds(*box, file.transform)
    left, top = max(0, math.floor(exact.col_off)), max(0, math.floor(exact.row_off))
    right = min(file.width, math.ceil(exact.col_off + exact.width))
    bottom = min(file.height, math.ceil(exact.row_off + exact.height))
    if left >= right or top >= bottom:
        raise SceneFault("its pixels do not reach the area")
    return Window(left, top, right - left, bottom - top)


def _profile(grid: Grid, count: int, dtype: str = "uint16", nodata: int = 0) -> dict[str, Any]:
    return {
        "driver": "GTiff",
        "crs": grid.crs,
        "transform": grid.transform,
        "width": grid.width,
        "height": grid.height,
        "count": count,
        "dtype": dtype,
        "nodata": nodata,
        "tiled": True,
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "compress": "deflate",
        "predictor": 2,
        "bigtiff": "if_safer",
    }


def write_labels(target: Path, grid: Grid, labels: npt.NDArray[np.uint8], nodata: int) -> None:
    """Write a map of classes beside an image."""
    with rasterio.open(target, "w", **_profile(grid, 1, "uint8", nodata)) as file:
        file.write(labels, 1)


def _blocks(grid: Grid) -> Iterator[Window]:
    for top in range(0, grid.height, BLOCK):
        for left in range(0, grid.width, BLOCK):
            yield Window(left, top, min(BLOCK, grid.width - left), min(BLOCK, grid.height - top))


def _read(source: DatasetReader, band: str, window: Window) -> npt.NDArray[np.uint16]:
    try:
        pixels: npt.NDArray[np.uint16] = source.read(1, window=window)
    except RasterioError as error:
        raise SceneFault(f"band {band} cannot be read ({str(error)[:100]})") from None
    return pixels
