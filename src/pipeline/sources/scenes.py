"""Your own scenes with label maps: GeoTIFFs of any size, and a raster of classes for each.

    python -m pipeline.ingest scenes --images scenes/ --labels landuse/ \\
        --classes 1=cultivated,2=forest,3=water --bands B02,B03,B04,B08

The label map of `scenes/a.tif` is `landuse/a.tif`, on the same grid; one label map for all scenes
is a file. A value that `--classes` does not name is not labelled.
"""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from pydantic import ValidationError
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile

from contracts.bundle import NODATA
from contracts.faults import first_fault
from pipeline.data.dataset import Dataset
from pipeline.data.maps import IMAGES, LABELS, open_scene
from pipeline.errors import SourceError
from pipeline.sources.source import AnyFile, File, FinishedFile

SUFFIXES = (".tif", ".tiff")
BLUE = ("b02", "blue")
DARKEST = 5  # percent of the pixels
BRIGHT = (
    0.1  # reflectance; of five real dates the three clear ones had 0.075, the clouded 0.11, 0.23
)
LOOK = 512  # pixels along an edge that are looked at
SCALES = {"uint8": 255.0, "uint16": 10_000.0}  # full range; Sentinel-2's reflectance x 10,000


class Scenes:
    """GeoTIFFs with a label map each.

    Raises:
        SourceError: no scene or label map, one that cannot be read, or options that do not fit.
    """

    def __init__(
        self,
        images: Path,
        labels: Path,
        classes: dict[int, str],
        *,
        bands: tuple[str, ...] = (),
        size: int = 64,
        name: str = "",
        nodata: int | None = None,
        licence: str = "not stated",
    ) -> None:
        rasters = _rasters(images, "--images")
        # One label map for all may lie among the scenes.
        self._scenes = [path for path in rasters if not _is(path, labels)] or rasters
        self._labels = labels
        self._classes = classes
        for scene in self._scenes:
            self._label_map(scene)
        first = _describe(self._scenes[0])
        bands = bands or first["bands"]
        if len(bands) != first["count"]:
            raise SourceError(
                f"{len(bands)} bands are named, {self._scenes[0]} has {first['count']}: give the "
                "name of each as --bands, in the order of the file"
            )
        try:
            self._dataset = Dataset(
                name=name or images.resolve().stem,
                labels="maps",
                classes=tuple(classes.values()),
                bands=bands,
                dtype=cast(Any, first["dtype"]),
                size=size,
                scale=SCALES.get(first["dtype"], 1.0),
                units="reflectance" if first["dtype"] == "uint16" else "display value, 0 to 1",
                nodata=first["nodata"] if nodata is None else nodata,
                valid_max=int(np.iinfo(first["dtype"]).max),
                resolution=first["resolution"],
                origin=f"the scenes of {images.name}",
                licence=licence,
            )
        except ValidationError as error:
            fault = first_fault(error)
            given = f"--size {size}" if fault.startswith("size:") else self._scenes[0]
            raise SourceError(f"{given}: {fault}") from None

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """Declare where the scenes are, and what their labels mean."""
        parser.add_argument(
            "--images", type=Path, required=True, help="folder of GeoTIFFs, or one of them"
        )
        parser.add_argument(
            "--labels", type=Path, required=True, help="folder of label maps, or one for all"
        )
        parser.add_argument(
            "--classes", required=True, help="values of the label maps: 1=forest,2=water"
        )
        parser.add_argument(
            "--bands", default="", help="band names in order (default: those in the files)"
        )
        parser.add_argument("--size", type=int, default=64, help="edge of a chip (default: 64)")
        parser.add_argument("--nodata", type=int, help="value of a pixel without data")
        parser.add_argument("--name", default="", help="of the data set (default: the folder's)")
        parser.add_argument("--licence", default="not stated", help="of the images")

    @classmethod
    def from_arguments(cls, arguments: Namespace) -> Self:
        """Open the scenes."""
        return cls(
            arguments.images,
            arguments.labels,
            parse_classes(arguments.classes),
            bands=tuple(filter(None, (band.strip() for band in arguments.bands.split(",")))),
            size=arguments.size,
            name=arguments.name,
            nodata=arguments.nodata,
            licence=arguments.licence,
        )

    def dataset(self) -> Dataset:
        """Describe the scenes."""
        return self._dataset

    def files(self) -> Iterator[AnyFile]:
        """Yield each scene, and its labels as indices of the classes."""
        for scene in self._scenes:
            if darkest := self._darkest_blue(scene):
                print(
                    f"warning: {scene.name} has no dark ground: 95 % of its blue is above "
                    f"{darkest:.2f}: leave it out if that is cloud, haze or snow, and take off an "
                    "offset that is still in its numbers",
                    file=sys.stderr,
                )
            yield FinishedFile(f"{IMAGES}/{scene.stem}.tif", scene)
            yield File(f"{LABELS}/{scene.stem}.tif", relabel(self._label_map(scene), self._classes))

    def __len__(self) -> int:
        return 2 * len(self._scenes)

    def _darkest_blue(self, scene: Path) -> float | None:
        """5th percentile of the blue reflectance, where even that is bright; None for most."""
        found = [index for index, band in enumerate(self._dataset.bands) if band.lower() in BLUE]
        if not found or self._dataset.dtype != "uint16":
            return None
        with open_scene(scene) as raster:
            shape = (min(raster.height, LOOK), min(raster.width, LOOK))
            blue = raster.read(found[0] + 1, out_shape=shape)
        seen = blue[blue != self._dataset.nodata]
        if not seen.size:
            return None
        numbers = float(np.percentile(seen, DARKEST)) + self._dataset.offset
        darkest = numbers / self._dataset.scale
        return darkest if darkest > BRIGHT else None

    def _label_map(self, scene: Path) -> Path:
        if self._labels.is_file():
            return self._labels
        for suffix in SUFFIXES:
            if (found := self._labels / f"{scene.stem}{suffix}").is_file():
                return found
        raise SourceError(
            f"{scene.name} has no label map: wanted {self._labels / scene.stem}.tif, or one file "
            "for all scenes as --labels"
        )


def parse_classes(text: str) -> dict[int, str]:
    """Read `1=forest,2=water`.

    Raises:
        SourceError: it is not written so.
    """
    found: dict[int, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        value, _, name = part.partition("=")
        if not value.strip().isdigit() or not name.strip():
            raise SourceError(f"--classes: {part!r} is not VALUE=NAME, as in 1=forest,2=water")
        if int(value) in found:
            raise SourceError(f"--classes names the value {int(value)} twice")
        if name.strip() in found.values():
            raise SourceError(
                f"--classes has the name {name.strip()} for two values: write them as one value "
                "into the label map"
            )
        found[int(value)] = name.strip()
    if len(found) < 2:
        raise SourceError("--classes names fewer than two classes: 1=forest,2=water")
    return found


def relabel(path: Path, classes: dict[int, str]) -> bytes:
    """Read a label map and write the indices of its classes, uint8, on the same grid.

    Raises:
        SourceError: it cannot be read, or has several bands or no whole numbers.
    """
    try:
        with open_scene(path) as raster:
            if raster.count != 1 or np.dtype(raster.dtypes[0]).kind not in "iu":
                raise SourceError(
                    f"{path}: a label map has one band of whole numbers, this one has "
                    f"{raster.count} of {raster.dtypes[0]}"
                )
            values = raster.read(1)
            profile = {
                "driver": "GTiff",
                "width": raster.width,
                "height": raster.height,
                "count": 1,
                "dtype": "uint8",
                "nodata": NODATA,
                "crs": raster.crs,
                "transform": raster.transform,
                "compress": "deflate",
            }
    except RasterioError as error:
        raise SourceError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    labels = np.full(values.shape, NODATA, np.uint8)
    for index, value in enumerate(classes):
        labels[values == value] = index
    with MemoryFile() as memory:
        with memory.open(**profile) as raster:
            raster.write(labels, 1)
        content: bytes = memory.read()
    return content


def _is(path: Path, other: Path) -> bool:
    return other.is_file() and path.samefile(other)


def _rasters(path: Path, option: str) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise SourceError(f"{option} {path} is not there: give a folder of GeoTIFFs")
    found = sorted(item for item in path.iterdir() if item.suffix.lower() in SUFFIXES)
    if not found:
        raise SourceError(f"{option} {path} holds no GeoTIFF (.tif): give a folder that does")
    return found


def _describe(path: Path) -> dict[str, Any]:
    try:
        with open_scene(path) as raster:
            names = tuple(name for name in raster.descriptions if name)
            metres = raster.crs is not None and not raster.crs.is_geographic
            return {
                "count": raster.count,
                "bands": names,
                "dtype": raster.dtypes[0],
                "nodata": None if raster.nodata is None else int(raster.nodata),
                "resolution": round(raster.res[0], 2) if metres else None,
            }
    except RasterioError as error:
        raise SourceError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
