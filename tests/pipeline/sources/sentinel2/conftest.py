"""A catalogue on loopback, and the source that asks it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pipeline.sources.sentinel2 import Sentinel2
from pipeline.sources.sentinel2.area import read_area, read_dates
from pipeline.sources.sentinel2.catalogues import Catalogue, Patience
from pipeline.sources.sentinel2.options import Options
from pipeline.sources.source import AnyFile, FinishedFile, RefusedFile
from tests.fakes import stac
from tests.make import scenes

PATIENCE = Patience(connect=1, read=1, tries=4, wait=0.01)
DATES = "2025-05/2025-09"
AREA = "14.99,46.04,15.02,46.06"  # around the simulated scenes


class World(NamedTuple):
    """A catalogue and how to ask it."""

    state: stac.Catalogue
    catalogue: Catalogue
    cache: Path

    def source(self, area: str = AREA, dates: str = DATES, **options: Any) -> Sentinel2:
        """The source."""
        given = Options(read_area(area), read_dates(dates), scenes.BANDS, cache=self.cache)
        return Sentinel2(self.catalogue, given._replace(**options), PATIENCE)

    def files(self, **options: Any) -> dict[str, AnyFile]:
        """What the source yields, by path."""
        return {file.path: file for file in self.source(**options).files()}

    def images(self, **options: Any) -> dict[str, Any]:
        """The pixels of the images; of those that are refused, the reason."""
        found = {}
        for path, file in self.files(**options).items():
            if path.startswith("images/"):
                found[Path(path).stem] = (
                    file.reason if isinstance(file, RefusedFile) else scenes.read(place(file))
                )
        return found


def place(file: AnyFile) -> Path:
    """Where a finished file is."""
    assert isinstance(file, FinishedFile)
    return file.place


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """An empty open catalogue."""
    state = stac.Catalogue()
    with stac.catalogue(state) as url:
        yield World(state, Catalogue("fake", url, scenes.COLLECTION), tmp_path / "cache")
