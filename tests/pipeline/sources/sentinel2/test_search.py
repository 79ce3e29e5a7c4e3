"""Searching: what is found, what is chosen, and what an empty answer says."""

import warnings
from typing import Any

import pytest
import rasterio

from pipeline.errors import SourceError
from pipeline.sources.sentinel2 import search
from pipeline.sources.sentinel2.catalogues import CATALOGUES, find_catalogue
from tests.make import scenes
from tests.pipeline.sources.sentinel2.conftest import World, place


def names(world: World, **options: Any) -> list[str]:
    return [scene.name for scene in world.source(**options).scenes]


def test_every_page_is_read_and_asked_for_once(world: World) -> None:
    one = scenes.add_scene(world.state, "0000", properties={"grid:code": "MGRS-0"})
    world.state.items += [
        {**one, "id": f"{n:04}", "properties": {**one["properties"], "grid:code": f"MGRS-{n}"}}
        for n in range(1, 250)
    ]
    assert len(names(world, most=1000)) == 250
    assert world.state.asked["POST /search"] == 3
    assert world.state.asked.total() == 4


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_pages_that_are_too_large_are_halved_wherever_they_are(world: World, method: str) -> None:
    """The first page of 100 fails, and later one of 50; pystac-client tries each four times."""
    one = scenes.add_scene(world.state, "000", properties={"grid:code": "MGRS-0"})
    world.state.items += [
        {**one, "id": f"{n:03}", "properties": {**one["properties"], "grid:code": f"MGRS-{n}"}}
        for n in range(1, 120)
    ]
    world.state.methods = (method,)
    world.state.largest_page = 50
    world.state.trouble["/search"] += ["", "", "", "", "", 502, 502, 502, 502]
    assert len(names(world, most=1000)) == 120
    # 4 of 100, 1 and 4 of 50, then 25, 25 and 20.
    assert world.state.asked == {"GET /": 1, f"{method} /search": 12}


def test_of_a_scene_the_newest_processing_counts_even_if_it_is_cloudy(world: World) -> None:
    scenes.add_scene(world.state, "old", properties={"s2:processing_baseline": "02.14"}, clouds=5)
    scenes.add_scene(world.state, "new", properties={"s2:processing_baseline": "05.10"}, clouds=95)
    with pytest.raises(SourceError, match="1 older processings.*1 cloudier than 20 %"):
        names(world)
    assert names(world, clouds=100) == ["new"]


@pytest.mark.parametrize(
    "other",
    [
        {"time": "2025-06-17T11:40:31Z"},  # the next orbit, far north
        {"properties": {"platform": "sentinel-2b"}},
        {"properties": {"grid:code": "MGRS-33TVM"}},
    ],
    ids=["orbit", "satellite", "tile"],
)
def test_another_pass_satellite_or_tile_is_another_scene(world: World, other: Any) -> None:
    scenes.add_scene(world.state, "a")
    scenes.add_scene(world.state, "b", **other)
    assert sorted(names(world)) == ["a", "b"]


def test_a_baseline_may_be_in_the_name_alone(world: World) -> None:
    product = "S2A_MSIL2A_20250617T100031_N{}_R122_T33TWM_20250617T1400"
    for version in ("0509", "0511", "0510"):
        scenes.add_scene(
            world.state, product.format(version), properties={"s2:processing_baseline": None}
        )
    assert names(world) == [product.format("0511")]


def test_an_address_without_a_collection_is_told_which_it_has(world: World) -> None:
    scenes.add_scene(world.state, "a")
    unnamed = world._replace(catalogue=world.catalogue._replace(collection=""))
    with pytest.raises(
        SourceError, match="not named, .*an address needs one: choose --collection of sentinel-2"
    ):
        names(unnamed)


def test_an_empty_answer_names_the_search(world: World) -> None:
    scenes.add_scene(world.state, "a")
    with pytest.raises(SourceError, match=r"no scene: .*2019-01-01.*14.99,46.04.*: widen --dates"):
        names(world, dates="2019")
    with pytest.raises(
        SourceError, match="no such collection: choose --collection of sentinel-2-l2a"
    ):
        names(world._replace(catalogue=world.catalogue._replace(collection="sentinel-3")))


def test_scenes_beside_the_area_are_left_out(world: World) -> None:
    half = scenes.SIDE // 2
    scenes.add_scene(world.state, "west", part=slice(0, half // 4))
    scenes.add_scene(world.state, "east", part=slice(half, scenes.SIDE))
    assert names(world, area="15.01,46.045,15.012,46.05") == ["east"]


def test_too_many_scenes_are_refused_before_anything_is_fetched(world: World) -> None:
    for number in range(3):
        scenes.add_scene(world.state, f"{number}", time=f"2025-06-1{number}T10:00:31Z")
    with pytest.raises(SourceError, match="3 scenes that fit, more than --most 2"):
        names(world, most=2)


def test_a_server_that_repeats_its_pages_is_left(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "MOST", 2)
    for number in range(3):
        scenes.add_scene(world.state, f"{number}", time=f"2025-06-1{number}T10:00:31Z")
    with pytest.raises(SourceError, match="lists more than 2 scenes: .*fewer --dates"):
        names(world)


def test_names_of_files_are_safe_and_differ(world: World) -> None:
    for number, identity in enumerate(("../../etc/x", "a b", "a_b", ".hidden")):
        scenes.add_scene(world.state, identity, time=f"2025-06-1{number}T10:00:31Z")
    found = names(world)
    assert len(set(found)) == 4
    assert not [name for name in found if "/" in name or " " in name or name.startswith(".")]


@pytest.mark.parametrize(
    "change",
    [
        {"geometry": None},
        {"geometry": {"type": "Polygon", "coordinates": []}},
        {"properties": {"datetime": "2025-06-17 at noon"}},
        {"properties": {"datetime": "2025-06-17", "eo:cloud_cover": "few"}},
    ],
)
def test_an_item_that_is_none_is_named(world: World, change: dict[str, Any]) -> None:
    scenes.add_scene(world.state, "a")
    world.state.items[0] |= change
    with pytest.raises(SourceError, match="item a of the catalogue is no STAC item"):
        names(world)


def test_an_address_that_is_no_catalogue_is_refused(world: World) -> None:
    scenes.add_scene(world.state, "a")
    wrong = world.catalogue._replace(url=f"{world.catalogue.url}/collections")
    with pytest.raises(SourceError, match="cannot be searched: it is no STAC API"):
        names(world._replace(catalogue=wrong))
    nobody = world.catalogue._replace(url="http://127.0.0.1:9")
    with pytest.raises(SourceError, match="cannot be searched: .*4 tries"):
        names(world._replace(catalogue=nobody))


def test_known_catalogues_have_a_collection_and_encryption() -> None:
    for name in CATALOGUES:
        assert find_catalogue(name, "").collection
        assert find_catalogue(name, "").url.startswith("https://")
    assert find_catalogue("copernicus", "sentinel-2-l1c").collection == "sentinel-2-l1c"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("earthsearch", "is unknown: choose earth-search"),
        ("http://example.com/stac", "not encrypted"),
        ("https://me:secret@example.com/stac", "more than an address"),
        ("file:///etc", "is unknown"),
    ],
)
def test_other_catalogues_are_refused(name: str, message: str) -> None:
    with pytest.raises(SourceError, match=message) as raised:
        find_catalogue(name, "x")
    assert "secret" not in str(raised.value)


def test_warnings_of_the_library_are_not_for_the_user(world: World) -> None:
    scenes.add_scene(world.state, "a")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert names(world) == ["a"]


def test_an_area_in_two_zones_gives_scenes_in_two_crss(world: World) -> None:
    scenes.add_scene(world.state, "east")
    scenes.add_scene(world.state, "west", crs="EPSG:32632")
    files = world.files(area="8.9,46.0,15.1,46.1")
    for name, crs in {"east": "EPSG:32633", "west": "EPSG:32632"}.items():
        with rasterio.open(place(files[f"images/{name}.tif"])) as image:
            assert (image.crs.to_string(), image.shape) == (crs, (scenes.SIDE, scenes.SIDE))


@pytest.mark.parametrize("area", ["176.9,46,-176.9,46.1", "177.0,46,-176,46.1"])
def test_an_area_across_the_date_line_finds_both_sides_once(world: World, area: str) -> None:
    scenes.add_scene(world.state, "east", crs="EPSG:32601")
    scenes.add_scene(world.state, "west", crs="EPSG:32660")
    assert sorted(names(world, area=area)) == ["east", "west"]
    images = world.images(area=area)
    assert images["east"].shape == images["west"].shape == (4, scenes.SIDE, scenes.SIDE)
