"""A scene has the model's digital numbers, is converted to them, or is refused."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.errors import ServiceError
from service.maps.make import Made, Options, make_map
from service.maps.radiometry import Conversion
from tests.make import maps

PIXELS = maps.ground(120, 130)


@pytest.fixture(scope="module")
def expected(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The map of the scene with offset 0."""
    folder = tmp_path_factory.mktemp("expected")
    scene = maps.write_scene(folder / "scene.tif", PIXELS)
    make_map(scene, folder / "map.tif", bundle, Options(1))
    return maps.read(folder / "map.tif")


def map_of(bundle: Path, folder: Path, options: Options = Options(1)) -> Made:
    """Map the scene of a folder."""
    return make_map(folder / "scene.tif", folder / "map.tif", bundle, options)


def refusal(bundle: Path, folder: Path, options: Options = Options(1)) -> str:
    """Why the scene of a folder is refused."""
    with pytest.raises(ServiceError) as caught:
        map_of(bundle, folder, options)
    return caught.value.detail


def write_item(folder: Path, offset: float | None, **properties: Any) -> None:
    """Write the STAC item of the scene beside it."""
    radiometry = {} if offset is None else {"raster:scale": 1e-4, "raster:offset": offset}
    item = {
        **{"type": "Feature", "id": "S2A_33TWM", "properties": properties},
        "assets": {"image": {"href": "scene.tif", **radiometry}},
    }
    (folder / "scene.json").write_text(json.dumps(item), encoding="utf-8")


def test_1000_in_the_numbers_is_taken_out_by_tags_item_or_option(
    bundle: Path, tmp_path: Path, expected: Any
) -> None:
    maps.write_scene(tmp_path / "scene.tif", PIXELS + 1000, offset=-0.1)
    made = map_of(bundle, tmp_path)
    assert np.array_equal(maps.read(tmp_path / "map.tif"), expected)
    assert made.item["properties"]["map:offset"] == -1000
    maps.write_scene(tmp_path / "scene.tif", PIXELS + 1000, scale=None)
    map_of(bundle, tmp_path, Options(1, offset=-1000))
    assert np.array_equal(maps.read(tmp_path / "map.tif"), expected)
    write_item(tmp_path, -0.1)
    map_of(bundle, tmp_path)
    assert np.array_equal(maps.read(tmp_path / "map.tif"), expected)


def test_1000_in_the_numbers_that_no_one_names_is_refused(bundle: Path, tmp_path: Path) -> None:
    for scale in (None, 1e-4):
        maps.write_scene(tmp_path / "scene.tif", PIXELS + 1000, scale=scale)
        found = refusal(bundle, tmp_path)
        assert re.search(r"brighter in every band.*--offset -1000", found)


def test_1000_that_was_taken_out_before_is_not_taken_out_twice(
    bundle: Path, tmp_path: Path
) -> None:
    maps.write_scene(tmp_path / "scene.tif", PIXELS, offset=-0.1)
    assert re.search(r"% of the pixels would be below zero.*--offset 0", refusal(bundle, tmp_path))


def test_an_offset_with_the_wrong_sign_is_refused(bundle: Path, tmp_path: Path) -> None:
    maps.write_scene(tmp_path / "scene.tif", PIXELS + 1000, scale=None)
    found = refusal(bundle, tmp_path, Options(1, offset=1000))
    assert re.search(r"--offset 1000 would be added.*say --offset -1000", found)


def test_numbers_that_agree_are_taken_with_a_warning_where_no_one_names_an_offset(
    bundle: Path, tmp_path: Path, expected: Any
) -> None:
    maps.write_scene(tmp_path / "scene.tif", PIXELS, scale=None)
    made = map_of(bundle, tmp_path)
    assert np.array_equal(maps.read(tmp_path / "map.tif"), expected)
    assert any("offset unknown" in warning for warning in made.warnings)


def test_without_a_reference_an_offset_that_no_one_names_is_refused(tmp_path: Path) -> None:
    empty = {"samples": 0, "signals": {}, "classes": {}}
    bundle = maps.make_bundle(tmp_path / "model", reference=empty)
    maps.write_scene(tmp_path / "scene.tif", PIXELS, scale=None)
    assert "say --offset 0" in refusal(bundle, tmp_path)
    map_of(bundle, tmp_path, Options(1, offset=0))


def test_a_model_of_numbers_with_1000_gets_them(tmp_path: Path) -> None:
    wanted = {
        **{"dtype": "uint16", "bands": ("B02", "B03", "B04", "B08"), "height": 32, "width": 32},
        **{"scale": 10000.0, "offset": -1000, "units": "reflectance", "nodata": 0},
        **{"valid_max": 65535, "resolution": 10.0},
    }
    empty = {"samples": 0, "signals": {}, "classes": {}}
    bundle = maps.make_bundle(tmp_path / "model", input=wanted, reference=empty)
    for name, pixels, offset in (("low", PIXELS, 0.0), ("high", PIXELS + 1000, -0.1)):
        scene = maps.write_scene(tmp_path / f"{name}.tif", pixels, offset=offset)
        make_map(scene, tmp_path / f"map-{name}.tif", bundle, Options(1))
    low, high = (maps.read(tmp_path / f"map-{name}.tif") for name in ("low", "high"))
    assert np.array_equal(low, high)


def test_another_scale_is_refused(bundle: Path, tmp_path: Path) -> None:
    maps.write_scene(tmp_path / "scene.tif", PIXELS, scale=2e-5)
    assert "the tags of the scene: scale 2e-05, the model wants 0.0001" in refusal(bundle, tmp_path)


def test_an_offset_never_makes_data_out_of_nodata_or_the_reverse() -> None:
    numbers = np.array([0, 1, 900, 1000, 1001, 65535], np.uint16)
    down = Conversion(-1000, 0, 0)(numbers.copy())
    assert down.tolist() == [0, 1, 1, 1, 1, 64535]
    up = Conversion(1000, 65535, 0)(numbers.copy())
    assert up.tolist() == [1000, 1001, 1900, 2000, 2001, 0]
    assert Conversion(0, 0, 0)(numbers) is numbers
