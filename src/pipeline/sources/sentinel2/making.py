"""From an item of the catalogue to an image with labels, in the cache."""

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path

import rasterio

from pipeline.sources.sentinel2.access import Access
from pipeline.sources.sentinel2.assets import CLOUDS, Asset, SceneFault, find_asset, find_assets
from pipeline.sources.sentinel2.catalogues import Catalogue, Patience
from pipeline.sources.sentinel2.fetch import fetch
from pipeline.sources.sentinel2.finished import Finished
from pipeline.sources.sentinel2.labels import NONE, Labels
from pipeline.sources.sentinel2.options import Options
from pipeline.sources.sentinel2.provenance import fingerprint, item_of
from pipeline.sources.sentinel2.radiometry import Offset, offset
from pipeline.sources.sentinel2.search import Scene
from pipeline.sources.sentinel2.stack import Bands, Grid, Wanted, cloudiness, stack, write_labels

SCL_RESOLUTION = 20  # metres
CACHE = 128  # MiB of decoded blocks; GDAL would take a twentieth of the memory


class Images:
    """Makes the images of one catalogue. The files of one scene at a time are on the disk."""

    def __init__(self, catalogue: Catalogue, options: Options, patience: Patience) -> None:
        self._catalogue, self._options, self._patience = catalogue, options, patience
        self._access = Access(catalogue, patience)
        # Names of our own: the folder may hold other things, and these are deleted.
        self._parts = options.cache / "conveyor-sentinel2-parts"
        self._scenes = options.cache / "conveyor-sentinel2-scenes"

    def assets(self, scene: Scene) -> dict[str, Asset]:
        """The files of the bands, and of the scene classification where there is one."""
        options = self._options
        assets = find_assets(scene, options.bands, options.resolution)
        clouds = find_asset(scene, CLOUDS, SCL_RESOLUTION)
        return {asset.band: asset for asset in (*assets, *([clouds] if clouds else []))}

    def offset(self, scene: Scene, asset: Asset) -> Offset:
        """What is added to the digital numbers of a file."""
        catalogue = self._catalogue
        return offset(catalogue.name, catalogue.collection, scene, asset, self._options.offset)

    def made(self, scene: Scene) -> Finished:
        """Make the image of a scene, or take the one that an earlier run has finished."""
        options = self._options
        assets = self.assets(scene)
        offsets = {band: self.offset(scene, assets[band]) for band in options.bands}
        chosen = [scene.item["geometry"] if options.whole else options.area.geometries()]
        mark = fingerprint(scene, assets, offsets, [*chosen, options.resolution, options.resample])
        made = Finished(self._scenes, f"{scene.name}-{mark[:16]}")
        if made.is_whole():
            self._check_clouds(made.clouded())
            return made
        made.folder.mkdir(parents=True, exist_ok=True)
        try:
            with rasterio.Env(GDAL_CACHEMAX=CACHE):
                self._make(scene, assets, offsets, made)
        except SceneFault:
            shutil.rmtree(self._parts / scene.name, ignore_errors=True)
            raise
        shutil.rmtree(self._parts / scene.name)
        for file in self._scenes.iterdir():  # of other areas or options
            if _scene_of(file) == scene.name and not file.name.startswith(made.name):
                file.unlink()
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
                self._check_clouds(share)
        nodata = {band: int(assets[band].number("nodata") or 0) for band in options.bands}
        wanted = Wanted(area, options.resolution, options.resample, options.offset is not None)
        unfinished = self._parts / scene.name / "image.tif"
        stacked = stack(Bands(paths, offsets, nodata), unfinished, wanted)
        record = {
            "clouds": None if share is None else round(share, 4),
            "darkest": stacked.floor,
            "resampled": options.resample,
            "valid": round(stacked.valid, 4),
        }
        unfinished.replace(made.image)
        item = item_of(scene, self._catalogue, assets, offsets, made.image, stacked.grid, record)
        made.write(item, stacked.clouds)

    def _check_clouds(self, share: float | None) -> None:
        if share is not None and 100 * share > self._options.clouds:
            raise SceneFault(
                f"{100 * share:.0f} % of the area is cloud or its shadow, --clouds allows "
                f"{self._options.clouds:g}"
            )

    def _fetch(self, scene: Scene, asset: Asset) -> Path:
        digest = hashlib.sha256(f"{asset.url} {asset.checksum}".encode()).hexdigest()[:16]
        target = self._parts / scene.name / f"{asset.band}-{digest}"
        return fetch(asset, target, self._access, self._patience)

    def labelled(self, made: Finished, source: Labels) -> Path:
        """Write the labels of an image; there are none under clouds.

        Raises:
            SceneFault: there are none at all.
        """
        with rasterio.open(made.image) as image:
            grid = Grid(image.crs, image.transform, image.width, image.height)
        labels = source.burn(grid)
        if (clouds := made.clouds()) is not None:
            labels[clouds] = NONE
        made.labels.unlink(missing_ok=True)  # it may be a link to a version of the data
        write_labels(made.labels, grid, labels, NONE)
        return made.labels

    def tidy(self, scenes: Iterable[Scene]) -> None:
        """Delete what earlier searches have left: the disk holds the scenes of one."""
        names = {scene.name for scene in scenes}
        for folder in self._parts.glob("*"):
            if folder.name not in names:
                shutil.rmtree(folder)
        for file in self._scenes.glob("*"):
            if _scene_of(file) not in names:
                file.unlink()


def _scene_of(file: Path) -> str:
    return file.name.rpartition("-")[0]
