"""Label maps for scenes: from a raster on the same grid, or from polygons that are burnt in.

Nothing is resampled: a raster on another grid is refused, with the command that warps it.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.errors import RasterioError
from rasterio.features import rasterize
from rasterio.io import DatasetReader
from rasterio.warp import transform_geom
from rasterio.windows import Window

from pipeline.errors import SourceError
from pipeline.sources.sentinel2 import area, geopackage
from pipeline.sources.sentinel2.assets import SceneFault
from pipeline.sources.sentinel2.stack import WGS84, Grid

NONE = 255  # not labelled
MOST = 254  # classes
ALIGNED = 0.01  # pixels
RASTERS = (".tif", ".tiff")
PACKAGES = (".gpkg",)
VECTORS = (".geojson", ".json")

Map = npt.NDArray[np.uint8]
"""(height, width): index of the class, or NONE."""


class Labels(Protocol):
    """Knows the class of places."""

    classes: tuple[str, ...]

    def burn(self, grid: Grid) -> Map:
        """The class of every pixel of a grid.

        Raises:
            SceneFault: there are no labels for this grid.
        """


def read_labels(paths: Sequence[Path], classes: str, field: str, layer: str) -> Labels:
    """Open label files of one kind, by their ending.

    Raises:
        SourceError: they cannot be read, or the classes are not in them.
    """
    for path in paths:
        if not path.is_file():
            raise SourceError(f"--labels {path}: no such file")
    endings = {path.suffix.lower() for path in paths}
    names = _named(classes)
    if endings <= set(RASTERS):
        return Rasters(paths, names)
    if endings <= {*PACKAGES, *VECTORS}:
        return Polygons(paths, names, field, layer)
    raise SourceError(
        f"--labels ends in {', '.join(sorted(endings))}: give rasters ({', '.join(RASTERS)}), or "
        f"polygons ({', '.join((*PACKAGES, *VECTORS))})"
    )


def _named(text: str) -> dict[str, str]:
    """`1=cultivated,2=forest`, or `cultivated,forest`: value -> name of the class."""
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    names = {value.strip(): (name or value).strip() for value, _, name in pairs}
    if len(names) != len(pairs):
        raise SourceError(f"--classes {text}: name each value once, as in 1=forest,2=water")
    return names


def _check_number(names: Mapping[str, str], path: Path) -> None:
    if not 1 <= len(names) <= MOST:
        raise SourceError(f"{path} has {len(names)} classes: name 1 to {MOST} with --classes")


def _classes(names: Iterable[str]) -> tuple[str, ...]:
    """The names in their order; two values may have one name."""
    return tuple(dict.fromkeys(names))


class Rasters:
    """One band of integers a file."""

    def __init__(self, paths: Sequence[Path], names: dict[str, str]) -> None:
        self._paths = paths
        found = sorted(set().union(*(_values(path) for path in paths)))
        if not names:
            names = {str(value): f"class-{value}" for value in found}
        missing = [value for value in names if not value.isdigit() or int(value) not in found]
        if missing:
            raise SourceError(
                f"--classes: {', '.join(missing)} is no value of {paths[0]}, which has "
                f"{', '.join(map(str, found[:30]))}: write 1=forest,2=water"
            )
        _check_number(names, paths[0])
        self.classes = _classes(names.values())
        self._index = {int(value): self.classes.index(name) for value, name in names.items()}

    def burn(self, grid: Grid) -> Map:
        """See `Labels`."""
        faults = []
        for path in self._paths:
            with _raster(path) as raster:
                if raster.crs != grid.crs:
                    faults.append(f"{path} is in {raster.crs}")
                    continue
                return self._lookup(raster, _place(raster, grid, path))
        raise SceneFault(f"no labels in {grid.crs}: {'; '.join(faults)}: add a --labels file")

    def _lookup(self, raster: DatasetReader, place: Window) -> Map:
        """Read what of a window lies on the raster."""
        labels: Map = np.full((place.height, place.width), NONE, np.uint8)
        left, top = max(0, place.col_off), max(0, place.row_off)
        right = min(raster.width, place.col_off + place.width)
        bottom = min(raster.height, place.row_off + place.height)
        if left >= right or top >= bottom:
            raise SceneFault(f"the labels {raster.name} lie beside the scene")
        values = raster.read(1, window=Window(left, top, right - left, bottom - top))
        part = labels[
            top - place.row_off : bottom - place.row_off,
            left - place.col_off : right - place.col_off,
        ]
        for value, index in self._index.items():
            part[values == value] = index
        return labels


def _raster(path: Path) -> DatasetReader:
    try:
        raster = rasterio.open(path, driver="GTiff")
    except RasterioError as error:
        raise SourceError(f"--labels {path} cannot be opened ({str(error)[:100]})") from None
    if raster.count != 1 or np.dtype(raster.dtypes[0]).kind not in "iu":
        raise SourceError(
            f"--labels {path} has {raster.count} band of {raster.dtypes[0]}, wanted 1 of integers"
        )
    return raster


def _values(path: Path) -> set[int]:
    """Every value of a raster but its nodata; without one, 0 is nothing."""
    with _raster(path) as raster:
        found: set[int] = set()
        for _, window in raster.block_windows(1):
            found |= {int(value) for value in np.unique(raster.read(1, window=window))}
        return found - {0 if raster.nodata is None else int(raster.nodata)}


def _place(raster: DatasetReader, grid: Grid, path: Path) -> Window:
    """The window of a raster that a grid is, if their pixels lie on each other."""
    own, wanted = raster.transform, grid.transform
    left, top = (wanted.c - own.c) / own.a, (wanted.f - own.f) / own.e
    wide, high = grid.width * wanted.a / own.a, grid.height * wanted.e / own.e
    beside = max(abs(left - round(left)), abs(top - round(top)))
    if own.b or own.d or max(beside, abs(wide - grid.width), abs(high - grid.height)) > ALIGNED:
        raise SceneFault(
            f"the labels {path} lie on another grid (pixels of {own.a:g} m, the scene's have "
            f"{wanted.a:g} m; {beside:.2f} pixels beside them): warp them with `rio warp "
            "LABELS.tif ALIGNED.tif --like SCENE.tif --resampling nearest`"
        )
    return Window(round(left), round(top), grid.width, grid.height)


class Feature(NamedTuple):
    """A polygon and its class."""

    geometry: dict[str, Any]
    value: str


class Polygons:
    """Polygons of GeoJSON or GeoPackage; where two lie on each other, the later one counts."""

    def __init__(
        self, paths: Sequence[Path], names: dict[str, str], field: str, layer: str
    ) -> None:
        self._features: list[tuple[str, list[Feature]]] = []
        for path in paths:
            crs, found = _features(path, layer)
            features = list(found)
            name = field or _only_field(path, features)
            self._features.append(
                (crs, [Feature(item, _value(path, name, given)) for item, given in features])
            )
        counts = Counter(item.value for _, group in self._features for item in group)
        names = names or {value: value for value in sorted(counts) if value}
        if missing := [value for value in names if not counts[value]]:
            raise SourceError(
                f"--classes: {', '.join(missing)} is no value in {paths[0]}, which has "
                f"{', '.join(sorted(counts)[:30])}"
            )
        self.classes = _classes(names.values())
        self._index = {value: self.classes.index(name) for value, name in names.items()}
        _check_number(names, paths[0])

    def burn(self, grid: Grid) -> Map:
        """See `Labels`."""
        shapes: list[tuple[dict[str, Any], int]] = []
        for crs, group in self._features:
            chosen = [item for item in group if item.value in self._index]
            moved = transform_geom(crs, grid.crs, [item.geometry for item in chosen])
            shapes += zip(moved, (self._index[item.value] for item in chosen), strict=True)
        labels: Map = rasterize(
            shapes,
            out_shape=(grid.height, grid.width),
            transform=grid.transform,
            fill=NONE,
            dtype="uint8",
        )
        if (labels == NONE).all():
            raise SceneFault("no polygon of --labels lies in the scene")
        return labels


def _features(
    path: Path, layer: str
) -> tuple[str, Iterator[tuple[dict[str, Any], dict[str, Any]]]]:
    if path.suffix.lower() in PACKAGES:
        return geopackage.crs(path, layer), geopackage.features(path, layer)
    return WGS84, area.features(path, "--labels")


def _only_field(path: Path, features: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    """The only column with text."""
    columns = {
        name for _, given in features for name, value in given.items() if isinstance(value, str)
    }
    if len(columns) != 1:
        others = sorted({name for _, given in features for name in given})
        raise SourceError(
            f"--label-field is missing: {path} has the columns {', '.join(others) or '(none)'}"
        )
    return columns.pop()


def _value(path: Path, field: str, given: dict[str, Any]) -> str:
    if field not in given:
        raise SourceError(f"--label-field {field}: {path} has {', '.join(given) or 'no columns'}")
    return "" if given[field] is None else str(given[field])
