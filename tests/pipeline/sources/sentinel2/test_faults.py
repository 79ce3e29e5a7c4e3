"""What catalogues do on a bad day: each case ends in the right pixels, or in its sentence."""

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

from pipeline.errors import SourceError
from pipeline.sources import File
from tests.make import scenes
from tests.pipeline.sources.sentinel2.conftest import World

BAND = "/files/a/B03.tif"
ONE = {"a": 1}
"""Name of each scene that has to arrive -> the seed of its pixels."""


class Case(NamedTuple):
    """A bad day."""

    make: Callable[[World], World | None]
    arrives: dict[str, int] = ONE
    refused: dict[str, str] = {}
    """Name of each scene that is refused -> a part of the reason."""


def trouble(path: str, *faults: int | str) -> Callable[[World], None]:
    def make(world: World) -> None:
        scenes.add_scene(world.state, "a")
        world.state.trouble[path] += faults

    return make


def large_pages(world: World) -> None:
    scenes.add_scene(world.state, "a")
    world.state.largest_page = 30


def expired_token(world: World) -> World:
    scenes.add_scene(world.state, "a")
    world.state.token = 2
    address = f"{world.catalogue.url}/token/{{collection}}"
    signed = world.catalogue._replace(access="sas", token_url=address, hosts=(".127.0.0.1",))
    world.state.trouble[BAND] += [403]  # as if the token had ended on the way
    return world._replace(catalogue=signed)


def split_tile(world: World) -> None:
    half = scenes.SIDE // 2
    scenes.add_scene(world.state, "a", part=slice(0, half))
    scenes.add_scene(world.state, "b", part=slice(half, scenes.SIDE), time="2025-06-17T10:00:45Z")


def reprocessed(world: World) -> None:
    scenes.add_scene(world.state, "old", properties={"s2:processing_baseline": "05.09"}, seed=2)
    scenes.add_scene(world.state, "a", properties={"s2:processing_baseline": "05.11"})
    scenes.add_scene(world.state, "older", properties={"s2:processing_baseline": "04.00"}, seed=3)


def subtracted_twice(world: World) -> None:
    scenes.add_scene(world.state, "a", added=0, named=-0.1)


def still_in(world: World) -> None:
    scenes.add_scene(world.state, "a", added=1000, named=0.0)


CASES = {
    "429 while searching": Case(trouble("/search", 429, 429)),
    "429 while fetching": Case(trouble(BAND, 429, 429)),
    "502 for large pages": Case(large_pages),
    "502 while fetching": Case(trouble(BAND, 502)),
    "504 three times": Case(trouble("/search", 504, 504, 504)),
    "a search that hangs": Case(trouble("/search", "hang")),
    "a file that hangs": Case(trouble(BAND, "hang")),
    "a page that is cut": Case(trouble("/search", "cut")),
    "a file that is cut, twice": Case(trouble(BAND, "cut", "cut")),
    "a flipped byte, once": Case(trouble(BAND, "flip")),
    "a flipped byte, always": Case(
        trouble(BAND, "flip", "flip"),
        arrives={},
        refused={"a": "fake: item a: asset B03: sha256 is .* at 2 of 2 downloads"},
    ),
    "a token that has expired": Case(expired_token),
    "a split tile": Case(split_tile, arrives={"a": 1, "b": 1}),
    "a scene that was processed again": Case(reprocessed),
    "an offset that was subtracted before": Case(
        subtracted_twice, arrives={}, refused={"a": "item a: offset -1000 .* subtracted twice"}
    ),
    "an offset that is not named": Case(
        still_in, arrives={}, refused={"a": "item a: offset 0 .* 1000 may still be in them"}
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_bad_day_ends_in_the_right_pixels_or_in_a_sentence(world: World, case: Case) -> None:
    world = case.make(world) or world
    images = world.images()
    assert images.keys() == case.arrives.keys() | case.refused.keys()
    for name, reason in case.refused.items():
        assert re.search(reason, images[name]), images[name]
    for name, seed in case.arrives.items():
        wanted = [scenes.pixels(band, 0, seed) for band in scenes.BANDS]
        has_data = images[name] > 0
        assert has_data.any()
        assert np.array_equal(images[name], np.where(has_data, wanted, 0))


@pytest.mark.parametrize("fault", [429, 502, 503, 504, "hang", "cut"])
def test_a_search_that_always_fails_says_where_how_and_how_often(
    world: World, fault: int | str
) -> None:
    scenes.add_scene(world.state, "a")
    world.state.trouble["/search"] += [fault] * 50
    with pytest.raises(SourceError) as raised:
        world.images()
    message = str(raised.value)
    assert re.match(
        r"fake \(127.0.0.1:\d+\) cannot be searched: .*, \d tries: check", message
    ), message
    if isinstance(fault, int):
        assert f"HTTP {fault}" in message


@pytest.mark.parametrize("fault", [403, 429, 502, 503, 504, "hang"])
def test_a_file_that_always_fails_says_which_how_and_how_often(
    world: World, fault: int | str
) -> None:
    scenes.add_scene(world.state, "a")
    world.state.trouble[BAND] += [fault] * 50
    with pytest.raises(SourceError) as raised:
        world.images()
    reason = f"HTTP {fault}" if isinstance(fault, int) else "no answer in time"
    tries = 1 if fault == 403 else 4
    assert f"fake: item a: asset B03: {reason}, try {tries} of 4; 0 bytes" in str(raised.value)


def test_a_file_that_is_gone_costs_its_scene_alone(world: World) -> None:
    scenes.add_scene(world.state, "a")
    scenes.add_scene(world.state, "b", time="2025-06-27T10:00:31Z")
    del world.state.files["/files/a/B08.tif"]
    images = world.images()
    assert images["a"].startswith("fake: item a: asset B08: HTTP 404")
    assert images["b"].shape == (4, scenes.SIDE, scenes.SIDE)


def test_a_run_that_was_interrupted_fetches_no_file_and_no_byte_twice(world: World) -> None:
    scenes.add_scene(world.state, "a")
    long = {"B03": scenes.cog(scenes.pixels("B03", 1000, 1)) + bytes(300_000)}
    scenes.add_scene(world.state, "b", time="2025-06-27T10:00:31Z", files=long)
    world.state.trouble["/files/b/B03.tif"] += ["cut", 401]
    with pytest.raises(SourceError, match="HTTP 401"):
        world.images()
    fetched = world.state.asked.copy()
    world.state.ranges.clear()
    assert world.images().keys() == {"a", "b"}
    again = world.state.asked - fetched
    files = {path for path in again if "/files/" in path}
    assert files == {"GET /files/b/B03.tif", "GET /files/b/B04.tif", "GET /files/b/B08.tif"}
    assert int(world.state.ranges[0].removeprefix("bytes=").rstrip("-")) > 100_000
    assert not list(world.cache.glob("conveyor-sentinel2-parts/*")), "the bands stay on the disk"
    assert world.images().keys() == {"a", "b"}
    assert not [path for path in world.state.asked - fetched - again if "/files/" in path]


def test_a_server_that_cannot_resume_sends_the_file_whole(world: World) -> None:
    scenes.add_scene(world.state, "a")
    world.state.trouble[BAND] += ["cut", "whole"]
    assert not isinstance(world.images()["a"], str)


def test_without_checksums_every_block_is_decoded(world: World) -> None:
    scenes.add_scene(world.state, "a", checksums=False)
    world.state.trouble[BAND] += ["flip", "flip"]
    assert "asset B03: it cannot be decoded" in world.images()["a"]


def test_a_file_shorter_than_the_catalogue_names_is_refused(world: World) -> None:
    scenes.add_scene(world.state, "a")
    world.state.files[BAND] = world.state.files[BAND][:-100]
    assert "bytes, the catalogue names" in world.images()["a"]


def test_tokens_are_in_no_file(world: World) -> None:
    world = expired_token(world)
    item = world.files()["items/a.json"]
    assert world.state.asked[f"GET /token/{scenes.COLLECTION}"] == 2, "no new token was asked for"
    assert isinstance(item, File) and b"sig=" not in item.content
    for path in world.cache.rglob("*"):
        assert path.is_dir() or b"sig=2" not in path.read_bytes()
