"""Sentinel-2 by area and dates, from a STAC catalogue, with a class for every pixel."""

import shutil
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from pipeline.data.dataset import Dataset
from pipeline.errors import SourceError
from pipeline.progress import track
from pipeline.sources.sentinel2 import preview
from pipeline.sources.sentinel2.assets import SceneFault
from pipeline.sources.sentinel2.catalogues import Catalogue, Patience, find_catalogue
from pipeline.sources.sentinel2.making import Images
from pipeline.sources.sentinel2.options import Options, add_arguments
from pipeline.sources.sentinel2.radiometry import SCALE
from pipeline.sources.sentinel2.search import Choice, Scene, search
from pipeline.sources.source import AnyFile, File, FinishedFile, RefusedFile

UNLABELLED = ("unlabelled",)


class Sentinel2:
    """Scenes of one catalogue.

    Raises:
        SourceError: the catalogue cannot be searched, or has too few or too many scenes.
    """

    def __init__(
        self, catalogue: Catalogue, options: Options, patience: Patience = Patience()
    ) -> None:
        self._catalogue, self._options, self._patience = catalogue, options, patience
        self._images = Images(catalogue, options, patience)
        self._found: Choice | None = None

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """Declare where, when and what."""
        add_arguments(parser)

    @classmethod
    def from_arguments(cls, arguments: Namespace) -> Self:
        """Check the options; nothing is asked of the catalogue yet."""
        catalogue = find_catalogue(arguments.catalogue, arguments.collection)
        return cls(catalogue, Options.read(arguments))

    def dataset(self) -> Dataset:
        """Describe the scenes."""
        options = self._options
        start, end = (f"{moment:%Y-%m-%d}" for moment in options.dates)
        box = ",".join(f"{number:.5g}" for number in options.area.box)
        return Dataset(
            name=options.name,
            labels="maps",
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
        self._images.tidy(self.scenes)
        for scene in self.scenes:
            where = f"{self._catalogue.name}: item {scene.item['id']}"
            try:
                yield from self._scene(scene)
            except SceneFault as fault:
                yield RefusedFile(f"images/{scene.name}.tif", f"{where}: {fault}")
            except SourceError as error:
                raise SourceError(f"{where}: {error}") from None

    def handled(self, dry_run: bool) -> bool:
        """Show what would be fetched, or fetch it into a folder that is not `data/`.

        Raises:
            SourceError: there is nothing to train on, or no scene can be used.
        """
        if dry_run:
            area = self._options.area
            preview.show(
                f"{self._catalogue.name}: {self._catalogue.collection}",
                area,
                self._choice(),
                self._described,
            )
        elif self._options.into:
            self._write_into(self._options.into)
        elif not self._options.labels:
            raise SourceError(
                "--labels is missing: training needs the class of pixels; --dry-run shows what "
                "there is, and --into FOLDER fetches scenes to make maps of"
            )
        return dry_run or self._options.into is not None

    def _write_into(self, folder: Path) -> None:
        written = 0
        for file in track(self.files(), f"fetch from {self._catalogue.name}", len(self)):
            target = folder / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(file, RefusedFile):
                print(f"refused: {file.path}: {file.reason}")
                continue
            fresh = target.with_name(f".{target.name}.new")
            if isinstance(file, File):
                fresh.write_bytes(file.content)
            else:
                shutil.copyfile(file.place, fresh)
            fresh.replace(target)
            written += 1
        if not written:
            raise SourceError("no scene can be used: the reasons stand above")
        print(f"{written} files are in {folder}: `images/` and their STAC items in `items/`")

    def _described(self, scene: Scene) -> tuple[int | None, str]:
        try:
            assets = self._images.assets(scene)
            added = self._images.offset(scene, assets[self._options.bands[0]])
            return preview.size_of(list(assets.values())), str(added.value)
        except SceneFault as fault:
            return None, f"refused: {fault}"

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

    def _scene(self, scene: Scene) -> Iterator[AnyFile]:
        made = self._images.made(scene)
        labels = self._options.labels
        labelled = self._images.labelled(made, labels) if labels else None
        yield FinishedFile(f"images/{scene.name}.tif", made.image)
        if labelled:
            yield FinishedFile(f"labels/{scene.name}.tif", labelled)
        yield File(f"items/{scene.name}.json", made.item.read_bytes())
