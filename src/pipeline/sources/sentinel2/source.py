"""The source: options in, scenes with their labels and items out."""

import hashlib
import shutil
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Self

import rasterio
from rich.console import Console
from rich.table import Table

from pipeline.data.dataset import Dataset
from pipeline.errors import SourceError
from pipeline.sources.sentinel2.area import Area, read_area, read_dates
from pipeline.sources.sentinel2.assets import CLOUDS, Asset, SceneFault, check_bands, find_asset
from pipeline.sources.sentinel2.assets import find_assets
from pipeline.sources.sentinel2.catalogues import CATALOGUES, Access, Catalogue, Patience
from pipeline.sources.sentinel2.catalogues import find_catalogue
from pipeline.sources.sentinel2.fetch import Place, fetch
from pipeline.sources.sentinel2.finished import Finished
from pipeline.sources.sentinel2.footprints import drawn
from pipeline.sources.sentinel2.labels import NONE, Labels, read_labels
from pipeline.sources.sentinel2.provenance import fingerprint, item_of
from pipeline.sources.sentinel2.radiometry import ADDED, SCALE, Offset, offset
from pipeline.sources.sentinel2.search import Choice, Scene, search
from pipeline.sources.sentinel2.stack import Bands, Grid, Wanted, cloudiness, stack, write_labels
from pipeline.sources.source import AnyFile, File, FinishedFile, RefusedFile

SCL_RESOLUTION = 20  # metres
UNLABELLED = ("unlabelled",)


class Options(NamedTuple):
    """What a person chooses."""

    area: Area
    dates: tuple[datetime, datetime]
    bands: tuple[str, ...]
    clouds: float = 20
    """Per cent, of the whole scene in the catalogue and of the area in the pixels."""
    labels: Labels | None = None
    resolution: float = 10
    resample: str = ""
    offset: int | None = None
    whole: bool = False
    size: int = 64
    most: int = 100
    name: str = "sentinel2"
    cache: Path = Path("artifacts/downloads/sentinel2")


class Sentinel2:
    """Scenes of one catalogue.

    Raises:
        SourceError: the catalogue cannot be searched, or has too few or too many scenes.
    """

    def __init__(
        self, catalogue: Catalogue, options: Options, patience: Patience = Patience()
    ) -> None:
        self._catalogue, self._options, self._patience = catalogue, options, patience
        self._access = Access(catalogue, patience)
        self._found: Choice | None = None

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """Declare where, when and what."""
        add = parser.add_argument
        add("--area", required=True, help="GeoJSON file, or west,south,east,north in degrees")
        add("--dates", required=True, help="2025-05/2025-09, 2025-06-17 or 2025")
        add("--clouds", type=float, default=20, help="at most, per cent (default: %(default)s)")
        add("--bands", default="B02,B03,B04,B08", help="in this order (default: %(default)s)")
        add(
            "--catalogue",
            default="earth-search",
            help=f"{', '.join(CATALOGUES)}, or the address of a STAC API (default: %(default)s)",
        )
        add("--collection", default="", help="of the catalogue (default: its Sentinel-2 level 2A)")
        add(
            "--labels",
            type=Path,
            action="append",
            default=[],
            help="classes of places: GeoTIFF on the scenes' grid, GeoJSON or GeoPackage; may be "
            "repeated",
        )
        add("--classes", default="", help="1=forest,2=water or forest,water (default: all)")
        add("--label-field", default="", help="column of the polygons with the class")
        add("--layer", default="", help="of the GeoPackage")
        add("--resolution", type=float, default=10, help="metres (default: %(default)s)")
        add(
            "--resample", choices=("nearest", "bilinear"), default="", help="take coarser bands too"
        )
        add(
            "--offset",
            type=int,
            choices=(0, -ADDED),
            help="of the digital numbers, where you know better than the catalogue",
        )
        add("--whole", action="store_true", help="whole scenes, not cut to the area")
        add("--size", type=int, default=64, help="of a chip, pixels (default: %(default)s)")
        add("--most", type=int, default=100, help="scenes (default: %(default)s)")
        add("--name", default="sentinel2", help="of the data set (default: %(default)s)")
        add("--cache", type=Path, default=Options._field_defaults["cache"], help="for downloads")

    @classmethod
    def from_arguments(cls, arguments: Namespace) -> Self:
        """Check the options; nothing is asked of the catalogue yet."""
        if not 0 <= arguments.clouds <= 100:
            raise SourceError(f"--clouds is {arguments.clouds:g}; choose 0 to 100 per cent")
        if not 0 < arguments.resolution <= 1000:
            raise SourceError(
                f"--resolution is {arguments.resolution:g}; choose 10, 20 or 60 metres"
            )
        catalogue = find_catalogue(arguments.catalogue, arguments.collection)
        given = (arguments.classes, arguments.label_field, arguments.layer)
        labels = read_labels(arguments.labels, *given) if arguments.labels else None
        options = Options(
            area=read_area(arguments.area),
            dates=read_dates(arguments.dates),
            bands=check_bands(arguments.bands),
            labels=labels,
            **{
                name: getattr(arguments, name)
                for name in Options._fields
                if name not in ("area", "dates", "bands", "labels")
            },
        )
        return cls(catalogue, options)

    def dataset(self) -> Dataset:
        """Describe the scenes."""
        options = self._options
        start, end = (f"{moment:%Y-%m-%d}" for moment in options.dates)
        box = ",".join(f"{number:.5g}" for number in options.area.box)
        return Dataset(
            name=options.name,
            classes=options.labels.classes if options.labels else UNLABELLED,
            bands=options.bands,
            dtype="uint16",
            size=options.size,
            scale=SCALE,
            units="reflectance",
            nodata=0,
            valid_max=2**16 - 1,
            resolution=options.resolution,
            origin=f"Sentinel-2, collection {self._catalogue.collection} of {self._catalogue.url}, "
            f"{start} to {end}, {box}",
            licence="contains modified Copernicus Sentinel data: free, full and open",
            passed_over=dict(sorted(self._choice().left_out.items())),
        )

    def __len__(self) -> int:
        return len(self.scenes) * (3 if self._options.labels else 2)

    def files(self) -> Iterator[AnyFile]:
        """Yield each scene as image, labels and item; a scene that is refused as its fault.

        Raises:
            SourceError: the catalogue cannot be reached, or the disk is full.
        """
        self._tidy()
        for scene in self.scenes:
            try:
                yield from self._scene(scene)
            except SceneFault as fault:
                yield RefusedFile(f"images/{scene.name}.tif", str(fault))

    def preview(self) -> None:
        """Print what would be fetched: a table, and a map of the footprints. Fetches nothing."""
        scenes = self.scenes
        table = Table("time (UTC)", "scene", "tile", title=f"{self._catalogue.name}")
        for column in ("clouds %", "covers %", "baseline", "MiB", "offset"):
            table.add_column(column, justify="right")
        faults: Counter[str] = Counter()
        total = 0
        for scene in scenes:
            megabytes, added = "?", "?"
            try:
                assets = self._assets(scene)
                sizes = [asset.size for asset in assets.values()]
                if all(sizes):
                    megabytes = f"{sum(filter(None, sizes)) / 2**20:.0f}"
                    total += sum(filter(None, sizes))
                added = str(self._offset(scene, assets[self._options.bands[0]]).value)
            except SceneFault as fault:
                faults[str(fault)] += 1
            table.add_row(
                f"{scene.time:%Y-%m-%d %H:%M}",
                scene.name,
                scene.tile,
                "?" if scene.clouds is None else f"{scene.clouds:.0f}",
                f"{100 * scene.covered:.0f}",
                "{:02}.{:02}".format(*scene.baseline) if scene.baseline else "?",
                megabytes,
                added,
            )
        Console().print(table)
        print(drawn(self._options.area, [scene.item["geometry"] for scene in scenes]))
        print(
            f"{len(scenes)} to fetch, {total / 2**20:.0f} MiB; the map has how many cover a place "
            "of the area, and a dot where one covers what is around it"
        )
        for reason, count in (self._choice().left_out + faults).items():
            print(f"left out: {count} {reason}")

    @property
    def scenes(self) -> list[Scene]:
        """What the search has found, by time."""
        return self._choice().scenes

    def _choice(self) -> Choice:
        if self._found is None:
            options = self._options
            found = search(
                self._catalogue, options.area, options.dates, options.clouds, self._patience
            )
            if len(found.scenes) > options.most:
                raise SourceError(
                    f"{self._catalogue.name} has {len(found.scenes)} scenes that fit, more than "
                    f"--most {options.most}: choose fewer --dates or --clouds, or raise --most"
                )
            self._found = found
        return self._found

    def _assets(self, scene: Scene) -> dict[str, Asset]:
        """The files of the bands, and of the scene classification where there is one."""
        options = self._options
        name = self._catalogue.name
        assets = find_assets(scene, options.bands, options.resolution, name)
        clouds = find_asset(scene, CLOUDS, SCL_RESOLUTION, name)
        return {asset.band: asset for asset in (*assets, *([clouds] if clouds else []))}

    def _offset(self, scene: Scene, asset: Asset) -> Offset:
        catalogue = self._catalogue
        return offset(catalogue.name, catalogue.collection, scene, asset, self._options.offset)

    def _scene(self, scene: Scene) -> Iterator[AnyFile]:
        made = self._made(scene)
        labels = self._labelled(made) if self._options.labels else None
        yield FinishedFile(f"images/{scene.name}.tif", made.image)
        if labels:
            yield FinishedFile(f"labels/{scene.name}.tif", labels)
        yield File(f"items/{scene.name}.json", made.item.read_bytes())

    def _made(self, scene: Scene) -> Finished:
        """Make the image of a scene, or take the one that an earlier run has finished."""
        options = self._options
        assets = self._assets(scene)
        offsets = {band: self._offset(scene, assets[band]) for band in options.bands}
        chosen = [scene.item["geometry"] if options.whole else options.area.geometries()]
        mark = fingerprint(scene, assets, offsets, [*chosen, options.resolution, options.resample])
        made = Finished(options.cache / "scenes", f"{scene.name}-{mark[:16]}")
        if not made.is_whole():
            made.folder.mkdir(parents=True, exist_ok=True)
            try:
                self._make(scene, assets, offsets, made)
            except SceneFault:
                shutil.rmtree(self._parts(scene), ignore_errors=True)
                raise
            shutil.rmtree(self._parts(scene))
        return made

    def _make(
        self, scene: Scene, assets: dict[str, Asset], offsets: dict[str, Offset], made: Finished
    ) -> None:
        options = self._options
        area = None if options.whole else options.area
        paths: dict[str, Path] = {}
        share = None
        for band in sorted(assets, key=lambda name: name != CLOUDS):  # clouds first: they are small
            paths[band] = self._fetch(scene, assets[band])
            if band == CLOUDS:
                share = cloudiness(paths[CLOUDS], area)
                if 100 * share > options.clouds:
                    raise SceneFault(
                        f"{100 * share:.0f} % of the area is cloud or its shadow, --clouds allows "
                        f"{options.clouds:g}"
                    )
        nodata = {band: int(assets[band].field("nodata") or 0) for band in options.bands}
        wanted = Wanted(area, options.resolution, options.resample, options.offset is not None)
        unfinished = made.folder / f"{made.name}.part"
        try:
            stacked = stack(Bands(paths, offsets, nodata), unfinished, wanted)
        except SceneFault as fault:
            raise SceneFault(f"{self._catalogue.name}: item {scene.item['id']}: {fault}") from None
        record = {
            "clouds": None if share is None else round(share, 4),
            "darkest": stacked.floor,
            "resampled": options.resample,
            "valid": round(stacked.valid, 4),
        }
        unfinished.replace(made.image)
        item = item_of(scene, self._catalogue, assets, offsets, made.image, stacked.grid, record)
        made.write(item, stacked.clouds)

    def _fetch(self, scene: Scene, asset: Asset) -> Path:
        place = Place(self._catalogue.name, scene.item["id"], asset)
        digest = hashlib.sha256(f"{asset.url} {asset.checksum}".encode()).hexdigest()[:16]
        target = self._parts(scene) / f"{asset.band}-{digest}"
        return fetch(place, target, self._access, self._patience)

    def _labelled(self, made: Finished) -> Path:
        """Write the labels of an image; there are none under clouds."""
        assert self._options.labels
        with rasterio.open(made.image) as image:
            grid = Grid(image.crs, image.transform, image.width, image.height)
        labels = self._options.labels.burn(grid)
        if (clouds := made.clouds()) is not None:
            labels[clouds] = NONE
        made.labels.unlink(missing_ok=True)  # it may be a link to a version of the data
        write_labels(made.labels, grid, labels, NONE)
        return made.labels

    def _parts(self, scene: Scene) -> Path:
        return self._options.cache / "parts" / scene.name

    def _tidy(self) -> None:
        """Delete what earlier searches have left: the disk holds the scenes of one."""
        names = {scene.name for scene in self.scenes}
        for folder in self._options.cache.glob("parts/*"):
            if folder.name not in names:
                shutil.rmtree(folder)
        for file in self._options.cache.glob("scenes/*"):
            if file.name.rpartition("-")[0] not in names:
                file.unlink()
