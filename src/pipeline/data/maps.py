"""Scenes with a class for every pixel -> chips with label maps.

`images/<name>.tif` is a scene of any size, north up; `labels/<name>.tif` has one band of uint8 on the
same grid: the index of the class of each pixel, or 255 where no one has said. A predefined split is
one directory above: `train/images/<name>.tif`.
"""

import math
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import DatasetReader
from rasterio.windows import Window

from contracts.bundle import NODATA
from pipeline.data.chip_table import Row
from pipeline.data.dataset import Dataset, Maps, label
from pipeline.data.images import digest

IMAGES, LABELS = "images", "labels"
SAME_GRID = 1e-3  # pixels: rounding, not another grid
SAME_RESOLUTION = 0.01  # share


class Strip(NamedTuple):
    """The chips of some lines of a scene."""

    chips: npt.NDArray[Any]
    """(N, bands, size, size)."""
    labels: Maps
    rows: list[Row]
    """Of these chips; `Row.row` is not set yet."""


def scenes(names: Iterable[str]) -> list[str]:
    """The images among the files of `data/`."""
    return [name for name in names if label(name) == IMAGES]


def labels_of(image: str) -> str:
    """The file of labels of an image: `train/images/a.tif` -> `train/labels/a.tif`."""
    head, _, name = image.rpartition(f"{IMAGES}/")
    return f"{head}{LABELS}/{name}"


def scene_fault(folder: Path, image: str, dataset: Dataset) -> str | None:
    """Say why a scene or its labels cannot be used, or None when they can."""
    try:
        with open_scene(folder / image) as scene:
            if reason := image_fault(scene, dataset):
                return reason
            if not (folder / labels_of(image)).is_file():
                return f"it has no labels: {labels_of(image)} is missing"
            with open_scene(folder / labels_of(image)) as labels:
                return label_fault(scene, labels, dataset)
    except rasterio.errors.RasterioError as error:
        return f"cannot be read: {str(error).splitlines()[0][:200]}"


def open_scene(path: Path) -> DatasetReader:
    """Open a GeoTIFF; the driver is pinned, as GDAL follows a VRT in disguise to other files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path, driver="GTiff")


def image_fault(scene: DatasetReader, dataset: Dataset) -> str | None:
    """Why the grid or the bands of a scene are not those of the data set."""
    names = tuple(name for name in scene.descriptions if name)
    if scene.count != len(dataset.bands):
        return f"it has {scene.count} bands, wanted {len(dataset.bands)}"
    if names and names != dataset.bands:
        return f"its bands are {', '.join(names)}, wanted {', '.join(dataset.bands)} in this order"
    if set(scene.dtypes) != {dataset.dtype}:
        return f"values are {scene.dtypes[0]}, wanted {dataset.dtype}"
    if scene.transform.b or scene.transform.d:
        return "it is rotated: warp it to a grid with north up (gdalwarp)"
    if scene.crs is not None and dataset.resolution is not None:
        if scene.crs.is_geographic:
            return f"its grid is in degrees ({scene.crs}): warp it to metres (gdalwarp -t_srs)"
        if not all(
            math.isclose(size, dataset.resolution, rel_tol=SAME_RESOLUTION) for size in scene.res
        ):
            return f"a pixel is {scene.res[0]:g} m, wanted {dataset.resolution:g} m"
    return None


def label_fault(scene: DatasetReader, labels: DatasetReader, dataset: Dataset) -> str | None:
    """Why a label map does not belong to a scene, or has values without a class."""
    if (labels.count, labels.dtypes[0]) != (1, "uint8"):
        return f"its labels are {labels.count} band of {labels.dtypes[0]}, wanted 1 of uint8"
    if labels.shape != scene.shape:
        return (
            f"its labels have {labels.width} x {labels.height} pixels, "
            f"the image has {scene.width} x {scene.height}"
        )
    # A scene without a CRS has the identity: then only the sizes can be compared.
    if scene.crs is not None and (
        labels.crs != scene.crs
        or not labels.transform.almost_equals(scene.transform, SAME_GRID * scene.res[0])
    ):
        return "its labels lie on another grid: warp them to that of the image, by nearest"
    found: set[int] = set()
    for _, window in labels.block_windows(1):
        found |= set(np.unique(labels.read(1, window=window)).tolist())
    if wrong := sorted(value for value in found - {NODATA} if value >= len(dataset.classes)):
        return f"label {wrong[0]} has no class; there are {len(dataset.classes)}, from 0 on"
    if found <= {NODATA}:
        return "no pixel has a label"
    return None


def cut(folder: Path, image: str, dataset: Dataset) -> Iterator[Strip]:
    """Cut a scene into chips that touch, line by line; those without a label are left out.

    At the right and the lower edge a chip is filled with the mirrored image, without labels.
    """
    size = dataset.size
    with open_scene(folder / image) as scene, open_scene(folder / labels_of(image)) as labels:
        for top in range(0, scene.height, size):
            window = Window(0, top, scene.width, min(size, scene.height - top))
            pixels, known = scene.read(window=window), labels.read(1, window=window)
            if dataset.nodata is not None:
                known[(pixels == dataset.nodata).all(axis=0)] = NODATA
            chips = _side_by_side(pixels, size, "reflect")
            maps = _side_by_side(known[None], size, "constant")[:, 0]
            kept = np.flatnonzero((maps != NODATA).any(axis=(1, 2)))
            rows = [
                Row(
                    row=-1,
                    path=image,
                    label="",
                    sha256=digest(np.vstack((chips[i], maps[i][None].astype(chips.dtype)))),
                    crs=scene.crs.to_string() if scene.crs else image,
                    centre=_centre(scene, dataset, int(i) * size, top),
                )
                for i in kept
            ]
            yield Strip(chips[kept], maps[kept], rows)


def _side_by_side(lines: npt.NDArray[Any], size: int, beyond: Any) -> npt.NDArray[Any]:
    """Cut lines (bands, <= size, W) into squares (N, bands, size, size)."""
    bands, high, wide = lines.shape
    count = -(-wide // size)
    fill = {"constant_values": NODATA} if beyond == "constant" else {}
    room = ((0, 0), (0, size - high), (0, count * size - wide))
    padded = np.pad(lines, room, beyond, **fill)
    squares: npt.NDArray[Any] = padded.reshape(bands, size, count, size).transpose(2, 0, 1, 3)
    return squares


def _centre(scene: DatasetReader, dataset: Dataset, left: int, top: int) -> tuple[float, float]:
    """Centre of the chip whose upper left pixel is given: metres, where the scene says where."""
    column, row = left + dataset.size / 2, top + dataset.size / 2
    if scene.crs is None:
        pixel = dataset.resolution or 1.0
        return column * pixel, -row * pixel
    x, y = scene.xy(row, column, offset="ul")
    return float(x), float(y)
