"""Offsets, nodata, grids and clouds: right, or refused with the reason."""

import re
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio.io import MemoryFile

from pipeline.sources.sentinel2.assets import check_bands
from pipeline.sources.sentinel2 import fetch, radiometry
from pipeline.errors import SourceError
from tests.make import scenes
from tests.pipeline.sources.sentinel2.conftest import World, place

BASELINE = {"s2:processing_baseline": "05.09"}
OLD = {"s2:processing_baseline": "02.14"}
EARTH_SEARCH = "earth-search"
PLANETARY = "planetary-computer"


@pytest.mark.parametrize(
    ("catalogue", "added", "named", "properties"),
    [
        # Corrected, flagged so, and yet an offset of -0.1: as Earth Search has it.
        (EARTH_SEARCH, 0, -0.1, BASELINE | {"earthsearch:boa_offset_applied": True}),
        (EARTH_SEARCH, 1000, -0.1, BASELINE | {"earthsearch:boa_offset_applied": False}),
        (EARTH_SEARCH, 0, None, OLD),
        # Not corrected, and no offset: as Planetary Computer has it.
        (PLANETARY, 1000, None, BASELINE),
        (PLANETARY, 0, None, OLD),
        # Collection 1 of the first years has the new baselines: dates tell nothing.
        (PLANETARY, 1000, None, BASELINE | {"datetime": "2025-06-17T10:00:31Z", "created": "2018"}),
        # Any other catalogue is believed.
        ("copernicus", 1000, -0.1, BASELINE),
        ("example.com", 1000, -0.1, {}),
        ("example.com", 0, 0.0, {}),
        ("example.com", 0, None, OLD),
    ],
)
def test_each_catalogue_is_believed_what_it_is_right_about(
    world: World, catalogue: str, added: int, named: float | None, properties: dict[str, Any]
) -> None:
    scenes.add_scene(world.state, "a", added=added, named=named, properties=properties)
    image = world._replace(catalogue=world.catalogue._replace(name=catalogue)).images()["a"]
    assert np.array_equal(image, [scenes.pixels(band, 0, 1) for band in scenes.BANDS]), image


@pytest.mark.parametrize(
    ("catalogue", "named", "properties", "reason"),
    [
        ("example.com", None, BASELINE, "its offset is unknown: .*--offset -1000"),
        ("example.com", None, {"s2:processing_baseline": None}, "its offset is unknown"),
        (EARTH_SEARCH, -0.1, BASELINE, "its offset is unknown"),
        (
            EARTH_SEARCH,
            -0.1,
            BASELINE | {"earthsearch:boa_offset_applied": True},
            "may still be in",
        ),
    ],
)
def test_an_offset_that_is_unknown_or_wrong_is_refused(
    world: World, catalogue: str, named: float | None, properties: dict[str, Any], reason: str
) -> None:
    scenes.add_scene(world.state, "a", named=named, properties=properties)
    refused = world._replace(catalogue=world.catalogue._replace(name=catalogue)).images()["a"]
    assert isinstance(refused, str)

    assert re.search(reason, refused), refused


def test_a_person_may_know_the_offset_better(world: World) -> None:
    scenes.add_scene(world.state, "a", added=1000, named=0.0)
    assert isinstance(world.images()["a"], str)
    image = world.images(offset=-1000)["a"]
    assert np.array_equal(image[0], scenes.pixels("B02", 0, 1))
    assert np.array_equal(world.images(offset=0)["a"][0], scenes.pixels("B02", 1000, 1))


@pytest.mark.parametrize("place", ["bands", "raster:bands"])
def test_the_offset_may_stand_in_the_band(world: World, place: str) -> None:
    item = scenes.add_scene(world.state, "a", named=None)
    for asset in item["assets"].values():
        del asset["raster:scale"]
        asset["bands"] = [{"name": asset["bands"][0]["name"]}]
        asset[place] = [{**asset["bands"][0], "scale": 0.0001, "offset": -0.1, "nodata": 0}]
    assert np.array_equal(world.images()["a"], [scenes.pixels(b, 0, 1) for b in scenes.BANDS])


@pytest.mark.parametrize("value", ["-0.1", [1]])
def test_an_offset_that_is_no_number_is_refused(world: World, value: Any) -> None:
    item = scenes.add_scene(world.state, "a")
    item["assets"]["B02"]["raster:offset"] = value
    assert "asset B02 has raster:offset" in world.images()["a"]


def test_a_scale_of_another_sensor_is_refused(world: World) -> None:
    item = scenes.add_scene(world.state, "a")
    item["assets"]["B02"]["raster:scale"] = 0.0000275
    assert "raster:scale 2.75e-05, wanted 0.0001" in world.images()["a"]


def test_dark_pixels_below_zero_are_data_and_nodata_stays_none() -> None:
    values = np.array([900, 1000, 1001, 65535], np.uint16)
    assert radiometry.corrected(values, -1000).tolist() == [1, 1, 1, 64535]
    assert radiometry.corrected(values, 0).tolist() == values.tolist()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"metres": 20}, r"band B04 has 20 m .*--resample nearest or bilinear"),
        ({"crs": "EPSG:32632"}, "band B04 .*EPSG:32632"),
        ({"crs": None}, "band B04 has"),
    ],
    ids=["20-m", "zone", "no-crs"],
)
def test_a_band_on_another_grid_is_refused(
    world: World, change: dict[str, Any], reason: str
) -> None:
    odd = scenes.cog(scenes.pixels("B04", 1000, 1), **change)
    scenes.add_scene(world.state, "a", files={"B04": odd})
    refused = world.images()["a"]

    assert re.search(reason, refused), refused


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"crs": "EPSG:4326", "metres": 0.0001, "origin": (15, 46.05)}, "wanted a CRS in metres"),
        ({"crs": None}, "band B02 has no CRS"),
        ({"metres": 20}, "no band has pixels of 10 m .*change --resolution"),
        ({"metres": -10}, "rotated or flipped"),
    ],
    ids=["degrees", "no-crs", "20-m", "flipped"],
)
def test_scenes_on_no_usable_grid_are_refused(
    world: World, change: dict[str, Any], reason: str
) -> None:
    files = {band: scenes.cog(scenes.pixels(band, 1000, 1), **change) for band in scenes.BANDS}
    scenes.add_scene(world.state, "a", files=files)

    assert re.search(reason, world.images()["a"])


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.zeros((96, 96), np.uint16), "no pixel of the area has data"),
        (np.ones((96, 96), np.uint8), "1 band of uint8, wanted 1 of uint16"),
        (np.zeros((2, 20_001), np.uint16), "20001 x 2 pixels, at most 20000"),
    ],
    ids=["empty", "8-bit", "wide"],
)
def test_pixels_of_no_use_are_refused(world: World, values: Any, reason: str) -> None:
    files = {band: scenes.cog(values) for band in scenes.BANDS}
    scenes.add_scene(world.state, "a", files=files)
    assert reason in world.images()["a"]


def test_what_is_no_image_is_refused(world: World) -> None:
    scenes.add_scene(world.state, "a", files={"B02": b"<VRTDataset/>"})
    assert "band B02 cannot be opened" in world.images()["a"]
    scenes.add_scene(world.state, "b", files={"B02": b"<html>"}, checksums=False, time="2025-07-01")
    assert "asset B02: it cannot be decoded" in world.images()["b"]


def test_jpeg_2000_is_read_as_copernicus_has_it(world: World) -> None:
    lossless = {"QUALITY": "100", "REVERSIBLE": "YES"}
    files = {}
    for band in scenes.BANDS:
        tiff = MemoryFile(scenes.cog(scenes.pixels(band, 1000, 1)))
        with tiff.open() as source, MemoryFile(ext=".jp2") as memory:
            rasterio.shutil.copy(source, memory.name, driver="JP2OpenJPEG", **lossless)
            files[band] = bytes(memory.read())
    scenes.add_scene(world.state, "a", files=files, checksums=False)
    assert np.array_equal(world.images()["a"], [scenes.pixels(b, 0, 1) for b in scenes.BANDS])


def test_a_disk_without_space_is_reported_before_it_is_full(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes.add_scene(world.state, "a")
    monkeypatch.setattr(fetch, "SPARE", 2**60)
    with pytest.raises(SourceError, match="item a: .* MiB are free in .*--cache"):
        world.images()


def test_coarser_bands_are_resampled_on_request_and_the_item_records_it(world: World) -> None:
    coarse = scenes.cog(scenes.pixels("B04", 1000, 1)[::2, ::2].copy(), 20)
    scenes.add_scene(world.state, "a", files={"B04": coarse})
    file = world.files(resample="nearest")
    image = scenes.read(place(file["images/a.tif"]))
    assert np.array_equal(image[2][::2, ::2], scenes.pixels("B04", 0, 1)[::2, ::2])
    assert b'"conveyor:resampled": "nearest"' in getattr(file["items/a.json"], "content")


def test_bands_are_found_by_name_whatever_their_order(world: World) -> None:
    item = scenes.add_scene(world.state, "a")
    assets = item["assets"]
    colours = {"B02": "blue", "B03": "green", "B04": "red", "B08": "nir"}
    item["assets"] = {colours[band]: assets[band] for band in reversed(scenes.BANDS)}
    file = place(world.files()["images/a.tif"])
    with rasterio.open(file) as image:
        assert image.descriptions == scenes.BANDS
        assert image.nodata == 0
    assert np.array_equal(scenes.read(file)[3], scenes.pixels("B08", 0, 1))
    del item["assets"]["nir"]
    assert "item a: no asset for B08; it has blue, green, red" in world.images()["a"]


@pytest.mark.parametrize("text", ["", "B02,B02", "B2", "B02,SCL", "blue"])
def test_bands_that_do_not_exist_are_refused(text: str) -> None:
    with pytest.raises(SourceError, match="--bands"):
        check_bands(text)


def test_clouds_over_the_area_refuse_a_scene_before_its_bands_are_fetched(world: World) -> None:
    scl = np.full((48, 48), 4, np.uint8)
    scl[:, 24:] = 9
    scenes.add_scene(world.state, "a", scl=scl)
    refused = world.images()["a"]
    assert refused == "fake: item a: 50 % of the area is cloud or its shadow, --clouds allows 20"
    assert world.state.asked["GET /files/a/B02.tif"] == 0
    assert world.images(clouds=60)["a"].shape == (4, 96, 96)
    assert world.images()["a"] == refused, "the cloudy image of an earlier run is taken"
    assert world.images(area="14.99,46.04,15.005,46.06")["a"].shape[2] < 48, "the clear half"


def test_an_image_is_cut_to_the_area_on_the_grid_of_the_scene(world: World) -> None:
    scenes.add_scene(world.state, "a")
    with rasterio.open(
        place(world.files(area="15.002,46.046,15.006,46.049")["images/a.tif"])
    ) as cut:
        offset = (cut.transform.c - 500_000) / 10, (5_100_000 - cut.transform.f) / 10
        assert all(value == int(value) > 0 for value in offset)
        left, top = map(int, offset)
        whole = scenes.pixels("B02", 0, 1)
        assert np.array_equal(cut.read(1), whole[top : top + cut.height, left : left + cut.width])
    assert world.images(area="15.002,46.046,15.006,46.049", whole=True)["a"].shape == (4, 96, 96)


def test_the_same_scene_has_the_same_bytes(world: World) -> None:
    scenes.add_scene(world.state, "a")
    first = place(world.files()["images/a.tif"]).read_bytes()
    other = world._replace(cache=world.cache.parent / "other")
    assert place(other.files()["images/a.tif"]).read_bytes() == first
