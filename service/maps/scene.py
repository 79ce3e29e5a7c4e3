"""Opens a scene, refuses what the model cannot map, and reads it once, from top to bottom.

GDAL is held to one driver, to this one file (no sidecar, no overview beside it), and to little
memory. Windows with a margin would decode most blocks four times, so blocks are read in whole rows
into a ring of lines, and strips are cut out of that.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio._err import CPLE_BaseError  # what GDAL says has no public name
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.warp import transform
from rasterio.windows import Window

from contracts.bundle import Input, Segmentation
from service.errors import NotFound, Unprocessable, UnsupportedMedia
from service.files import reason
from service.maps.grid import Grid, Strip
from service.maps.radiometry import Conversion, Offset, find_offset

GDAL = {
    "GDAL_CACHEMAX": 32,  # MiB; each block is read once
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_NUM_THREADS": "1",
}
READ = 256  # lines that are read at once, at least
BLOCK = 64 << 20  # bytes of a block with all bands, at most
LINES = 4096  # of a block, at most
SAME = 0.01  # share of a pixel's size
TRUE = 0.05  # of a pixel's edge, by which projections of large areas may stretch it
DEGREE = 111_195.0  # metres of a degree of latitude, on the sphere
MOST = 200_000  # pixels of an edge
UTM = "project it first, e.g. gdalwarp -t_srs EPSG:32633 -tr {0:g} {0:g} with the zone of its place"

Array = npt.NDArray[Any]


class Scene(NamedTuple):
    """A scene that the model can map."""

    path: Path
    dataset: DatasetReader
    bands: tuple[int, ...]
    """Numbers of the model's bands in the file, from 1."""
    offset: Offset
    conversion: Conversion
    item: dict[str, Any] | None
    """The STAC item beside it."""
    item_path: Path | None

    def read(self, window: Window, out: Array | None = None) -> Array:
        """Read a window in the numbers and bands of the model.

        Raises:
            Unprocessable: the file is cut off or damaged there.
        """
        try:
            numbers: Array = self.dataset.read(self.bands, window=window, out=out)
        except (RasterioError, OSError):
            last = window.row_off + window.height
            raise Unprocessable(
                f"{self.path.name} cannot be read at rows {window.row_off} to {last} of "
                f"{self.dataset.height}: it is cut off or damaged, copy or fetch it again"
            ) from None
        return self.conversion(numbers)


@contextmanager
def open_scene(
    path: Path,
    manifest: Segmentation,
    bands: Sequence[str] = (),
    offset: int | None = None,
    item: Path | None = None,
) -> Iterator[Scene]:
    """Open a scene for a model; `bands`, `offset` and `item` replace what the file says.

    Raises:
        NotFound: no such file.
        UnsupportedMedia: it is no GeoTIFF.
        Unprocessable: the model cannot map it; field, value, cure.
    """
    if not path.is_file():
        what = "a folder, not a file: name one scene" if path.is_dir() else "no such file"
        raise NotFound(f"scene {path.name}: {what}")
    document, item_path = _read_item(path, item)
    with rasterio.Env(**GDAL):
        try:
            dataset = rasterio.open(path.resolve(), driver="GTiff")
        except (RasterioError, OSError):
            raise UnsupportedMedia(
                f"{path.name} is no GeoTIFF that can be read: convert it (gdal_translate), or "
                "fetch it again if it was cut off"
            ) from None
        with dataset:
            wanted = manifest.input
            chosen = _choose_bands(dataset, bands, document, wanted)
            check_pixels(dataset, chosen, wanted)
            check_place(dataset, manifest)
            scales, offsets = (
                [values[band - 1] for band in chosen]
                for values in (dataset.scales, dataset.offsets)
            )
            found = find_offset(offset, document, scales, offsets, wanted)
            shift = found.value - wanted.offset
            conversion = Conversion(shift, _nodata(dataset, wanted), wanted.nodata)
            yield Scene(path, dataset, chosen, found, conversion, document, item_path)


def digest(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        Unprocessable: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Unprocessable(f"{path.name} cannot be read: {reason(error)}") from None


def _read_item(path: Path, given: Path | None) -> tuple[dict[str, Any] | None, Path | None]:
    """The STAC item of a scene: as given, beside it, or in `items` as in a data set."""
    places = (path.with_suffix(".json"), path.parent.parent / "items" / f"{path.stem}.json")
    for place in (given,) if given else places:
        try:
            document = json.loads(place.read_bytes())
        except FileNotFoundError:
            if given:
                raise NotFound(f"--item {place.name}: no such file") from None
            continue
        except (OSError, ValueError):
            document = None
        if isinstance(document, dict) and document.get("type") == "Feature":
            return document, place
        if given:
            raise Unprocessable(f"--item {place.name} is no STAC item: give one, or leave it out")
    return None, None


def _choose_bands(
    dataset: DatasetReader,
    given: Sequence[str],
    item: dict[str, Any] | None,
    wanted: Input,
) -> tuple[int, ...]:
    """Find the bands of the model by their names, whatever their order."""
    if given and len(given) != dataset.count:
        raise Unprocessable(
            f"--bands names {len(given)} bands, the scene has {dataset.count}: name each, in the "
            "order of the file; - is one that is not needed"
        )
    image = (item or {}).get("assets", {}).get("image", {})
    of_item = [str(band.get("name", "")) for band in image.get("bands", [])]
    names = list(given) or [name or "" for name in dataset.descriptions]
    if not any(names) and len(of_item) == dataset.count:
        names = of_item
    if not any(names):
        example = [*wanted.bands, *("-" for _ in range(dataset.count - len(wanted.bands)))]
        raise Unprocessable(
            f"the {dataset.count} bands of the scene have no names, and their order is not guessed:"
            f" name each, - where it is not needed; if the file has the model's order, --bands "
            f"{','.join(example)}"
        )
    missing = [band for band in wanted.bands if band not in names]
    if missing:
        raise Unprocessable(
            f"the scene has bands {', '.join(name or '?' for name in names)}, the model needs "
            f"{', '.join(missing)} too: add them, or name the bands with --bands"
        )
    twice = [band for band in wanted.bands if names.count(band) > 1]
    if twice:
        raise Unprocessable(
            f"the scene has band {twice[0]} {names.count(twice[0])} times: take a file of one "
            "date, or name the others - with --bands"
        )
    return tuple(names.index(band) + 1 for band in wanted.bands)


def check_pixels(dataset: DatasetReader, bands: Sequence[int], wanted: Input) -> None:
    """Refuse another dtype, and blocks or sizes that no honest scene has.

    Raises:
        Unprocessable: field, value, cure.
    """
    dtypes = {dataset.dtypes[band - 1] for band in bands}
    if dtypes != {wanted.dtype}:
        cure = f"convert it (gdal_translate -ot {wanted.dtype})"
        if "uint8" in dtypes:
            cure = "stretched colours are no measurements: take the product's digital numbers"
        elif any(dtype.startswith("float") for dtype in dtypes):
            cure = (
                "take the product's digital numbers; reflectance from 0 to 1 becomes such with "
                f"gdal_translate -ot {wanted.dtype} -scale 0 1 0 {wanted.scale:g}"
            )
        raise Unprocessable(
            f"the scene has dtype {', '.join(sorted(dtypes))}, the model wants {wanted.dtype}: "
            f"{cure}"
        )
    if max(dataset.shape) > MOST:
        raise Unprocessable(
            f"the scene is {dataset.width} x {dataset.height} pixels, at most {MOST} an edge are "
            "mapped: cut it into scenes"
        )
    rows, columns = (max(edge) for edge in zip(*dataset.block_shapes, strict=True))
    itemsize = max(np.dtype(dtype).itemsize for dtype in dataset.dtypes)
    size = rows * columns * itemsize * dataset.count
    if size > BLOCK or rows > LINES:
        raise Unprocessable(
            f"the scene is stored in blocks of {columns} x {rows} pixels ({size >> 20} MiB), at "
            f"most {BLOCK >> 20} MiB and {LINES} lines are read at once: rewrite it with blocks of "
            "512 (gdal_translate -of COG)"
        )


def check_place(dataset: DatasetReader, manifest: Segmentation) -> None:
    """Refuse a grid that is not the one that the model knows, or none.

    Raises:
        Unprocessable: field, value, cure.
    """
    shortest = min(dataset.shape)
    if shortest <= manifest.margin:
        raise Unprocessable(
            f"the scene is {dataset.width} x {dataset.height} pixels, the model looks "
            f"{manifest.margin} around each: take a scene of at least {manifest.margin + 1} an edge"
        )
    wanted = manifest.input.resolution or 10.0
    if dataset.crs is None:
        raise Unprocessable(
            "the scene has no CRS, a map would have no place: give it its own, e.g. rio edit-info "
            "--crs EPSG:32633 FILE"
        )
    at = dataset.transform
    if at.is_identity:
        raise Unprocessable(
            "the scene has no geotransform, a map would have no place: give it its own, e.g. rio "
            "edit-info --transform"
        )
    if not dataset.crs.is_projected:
        raise Unprocessable(
            f"the scene has CRS {dataset.crs.to_string()[:40]} in degrees, the model wants pixels "
            f"of {wanted:g} m: {UTM.format(wanted)}"
        )
    if at.b or at.d or at.a <= 0 or at.e >= 0:
        raise Unprocessable(
            f"the scene is rotated or flipped (transform {tuple(at)[:6]}): {UTM.format(wanted)}"
        )
    metres = dataset.crs.linear_units_factor[1]
    sizes = (at.a * metres, -at.e * metres)
    if manifest.input.resolution and any(abs(s / wanted - 1) > SAME for s in sizes):
        raise Unprocessable(
            f"the scene has pixels of {sizes[0]:g} x {sizes[1]:g} m, the model wants {wanted:g} m: "
            f"resample it on purpose, e.g. gdalwarp -tr {wanted:g} {wanted:g} -r cubic"
        )
    true = _on_the_ground(dataset)
    if any(abs(t / s - 1) > TRUE for t, s in zip(true, sizes, strict=True)):
        raise Unprocessable(
            f"pixels of {sizes[0]:g} x {sizes[1]:g} m in the CRS {dataset.crs.to_string()[:40]} of "
            f"the scene are {true[0]:.1f} x {true[1]:.1f} m on the ground there: "
            f"{UTM.format(wanted)}"
        )


def _on_the_ground(dataset: DatasetReader) -> tuple[float, float]:
    """Width and height of the pixel in the middle, metres: Mercator's are not what it says."""
    row, column = dataset.height / 2, dataset.width / 2
    corners = ((column, row), (column + 1, row), (column, row + 1))
    x, y = zip(*(dataset.transform @ corner for corner in corners), strict=True)
    try:
        longitudes, latitudes = map(np.array, transform(dataset.crs, "EPSG:4326", x, y))
    except (RasterioError, CPLE_BaseError):
        longitudes = latitudes = np.full(3, math.inf)
    if not np.isfinite(latitudes).all() or not np.isfinite(longitudes).all():
        raise Unprocessable(
            f"the scene has its middle at {x[0]:g}, {y[0]:g}, where its CRS "
            f"{dataset.crs.to_string()[:40]} has no place: give it its own, e.g. rio edit-info "
            "--crs EPSG:32633 FILE"
        )
    east = (longitudes - longitudes[0] + 180) % 360 - 180
    away = np.hypot(east * math.cos(math.radians(latitudes[0])), latitudes - latitudes[0]) * DEGREE
    return float(away[1]), float(away[2])


def _nodata(dataset: DatasetReader, wanted: Input) -> int | None:
    """The number of a pixel without data, if a number of this dtype can be it."""
    value = dataset.nodata
    limits = np.iinfo(wanted.dtype)
    if value is None or not math.isfinite(value) or not limits.min <= value <= limits.max:
        return wanted.nodata
    return int(value)


class Reader:
    """Lines of a scene in a ring: each block is decoded once a panel."""

    def __init__(self, scene: Scene, grid: Grid) -> None:
        """Hold no line yet."""
        self._scene, self._grid = scene, grid
        block = max(rows for rows, _ in scene.dataset.block_shapes)
        self._step = block * max(1, READ // block)
        rows, columns = grid.panel
        lines = rows + 2 * grid.margin + grid.stride + 2 * self._step
        lines = -(-lines // self._step) * self._step
        width = min(scene.dataset.width, columns + 2 * grid.margin + grid.stride)
        dtype = scene.dataset.dtypes[scene.bands[0] - 1]
        self._ring = np.zeros((len(scene.bands), lines, width), dtype)
        self.size = self._ring.nbytes
        """Bytes."""
        self._columns = (0, 0)
        self._rows = (0, 0)

    def fill(self, strip: Strip, out: Array) -> None:
        """Write a strip with its margin into `out` (bands, rows, columns), mirrored at the edges.

        Raises:
            Unprocessable: the file is cut off or damaged there.
        """
        rows, columns = self._grid.source_rows(strip), self._grid.source_columns(strip)
        left, right = int(columns.min()), int(columns.max()) + 1
        self._hold(int(rows.min()), int(rows.max()) + 1, (left, right))
        # The middle is a slice; what is mirrored, left and right of it, is taken one by one.
        begin = strip.columns.start - self._grid.margin
        first, stop = max(0, -begin), min(len(columns), self._grid.width - begin)
        middle = slice(int(columns[first]) - left, int(columns[first]) - left + stop - first)
        for band, lines in enumerate(self._ring):
            chosen = lines[rows % lines.shape[0]]
            out[band, :, first:stop] = chosen[:, middle]
            out[band, :, :first] = chosen[:, columns[:first] - left]
            out[band, :, stop:] = chosen[:, columns[stop:] - left]

    def _hold(self, first: int, stop: int, columns: tuple[int, int]) -> None:
        """Read what is missing of lines `first` to `stop`, in whole rows of blocks."""
        start, end = self._rows
        if columns != self._columns or not start <= first <= end:
            self._columns = columns
            start = end = first // self._step * self._step
        height, ring = self._scene.dataset.height, self._ring.shape[1]
        while end < stop:
            count = min(self._step, height - end)
            at = end % ring
            window = Window(columns[0], end, columns[1] - columns[0], count)
            lines = self._ring[:, at : at + count, : columns[1] - columns[0]]
            found = self._scene.read(window, lines)
            if found is not lines:
                lines[...] = found
            end += count
        self._rows = (max(start, end - ring), end)
