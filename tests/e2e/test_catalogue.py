"""The Sentinel-2 source against a real STAC API: stac-fastapi on pgstac, PostgreSQL and PostGIS.

    pytest -s tests/e2e/test_catalogue.py

prints how long a search of 1,000 items takes.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from pipeline.errors import SourceError
from pipeline.sources.sentinel2 import Sentinel2
from pipeline.sources.sentinel2.area import read_area, read_dates
from pipeline.sources.sentinel2.catalogues import Catalogue
from pipeline.sources.sentinel2.options import Options
from pipeline.sources.source import FinishedFile
from tests.fakes import stac
from tests.make import scenes
from tests.make.stac_server import pgstac

ITEMS = 1000
OTHER = "sentinel-2-many"  # a collection without files
AREA = "14.99,46.04,15.02,46.06"


class Real(NamedTuple):
    """A server, and how to ask it."""

    url: str
    log: Path

    def source(self, collection: str, cache: Path, **options: Any) -> Sentinel2:
        """The source."""
        given = Options(read_area(AREA), read_dates("2025"), scenes.BANDS, most=ITEMS, cache=cache)
        return Sentinel2(Catalogue("pgstac", self.url, collection), given._replace(**options))

    def requests(self) -> int:
        """What it has answered."""
        return self.log.read_text(encoding="utf-8").count(" HTTP/1.1")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    """A server with the items of two simulated scenes, and with a thousand without files."""
    state = stac.Catalogue()
    scenes.add_scene(state, "old", properties={"s2:processing_baseline": "05.09"}, seed=2)
    one = scenes.add_scene(state, "new")
    scenes.add_scene(state, "cloudy", time="2025-06-22T10:00:31Z", clouds=80)
    folder = tmp_path_factory.mktemp("pgstac")
    with stac.catalogue(state) as files:
        items = [stac.located(item, files) | {"links": []} for item in state.items]
        for number in range(ITEMS):
            properties = one["properties"] | {"grid:code": f"MGRS-{number:04}"}
            items.append(
                one | {"id": f"S2A_{number:04}", "collection": OTHER, "properties": properties}
            )
        collections = [
            {"type": "Collection", "id": name, **stac.COLLECTION}
            for name in (scenes.COLLECTION, OTHER)
        ]
        with pgstac(folder, collections, items) as url:
            yield Real(url, folder / "server.log")


def test_a_thousand_items_are_found_on_ten_pages_in_twelve_requests(
    real: Real, tmp_path: Path
) -> None:
    before, started = real.requests(), time.perf_counter()
    found = real.source(OTHER, tmp_path).scenes
    seconds = time.perf_counter() - started
    assert len(found) == ITEMS
    assert real.requests() - before <= 12
    print(f"\n{ITEMS} items on 10 pages: {seconds:.1f} s, {real.requests() - before} requests")


def test_the_newest_processing_arrives_with_the_item_of_the_catalogue(
    real: Real, tmp_path: Path
) -> None:
    files = {file.path: file for file in real.source(scenes.COLLECTION, tmp_path).files()}
    assert files.keys() == {"images/new.tif", "items/new.json"}
    image = files["images/new.tif"]
    assert isinstance(image, FinishedFile)
    wanted = [scenes.pixels(band, 0, 1) for band in scenes.BANDS]
    assert np.array_equal(scenes.read(image.place), wanted)


def test_an_unknown_collection_is_named_with_those_that_there_are(
    real: Real, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match=f"choose --collection of .*{OTHER}"):
        assert real.source("sentinel-3", tmp_path).scenes
