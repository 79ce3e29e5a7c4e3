"""What comes out: a cloud-optimized GeoTIFF on the scene's grid, and its STAC item."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
from rasterio.enums import ColorInterp
from rasterio.transform import from_origin

from service.maps.make import Made, Options, make_map
from service.maps.cog import overview_factors
from tests.make import maps
from tests.make.maps import CLASSES, COLOURS
from tests.make.stac_schemas import faults

SIDE = 1300  # pixels: two overviews


@pytest.fixture(scope="module")
def folder(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene with its item in a data set, and its map in a folder of its own."""
    folder = tmp_path_factory.mktemp("map")
    for name in ("images", "items", "maps"):
        (folder / name).mkdir()
    maps.write_scene(folder / "images" / "S2A.tif", maps.ground(SIDE, SIDE))
    properties = {"datetime": "2025-06-17T10:00:31Z", "platform": "sentinel-2a"}
    item = {"type": "Feature", "id": "S2A_33TWM", "properties": properties, "assets": {}}
    (folder / "items" / "S2A.json").write_text(json.dumps(item), encoding="utf-8")
    make_map(folder / "images" / "S2A.tif", folder / "maps" / "S2A.tif", bundle, Options(2))
    return folder


@pytest.fixture(scope="module")
def item(folder: Path) -> Any:
    """The item of the map."""
    return json.loads((folder / "maps" / "S2A.json").read_bytes())


def test_the_map_keeps_the_grid_of_the_scene(folder: Path) -> None:
    with rasterio.open(folder / "images" / "S2A.tif") as scene:
        with rasterio.open(folder / "maps" / "S2A.tif") as found:
            assert (found.crs, found.transform) == (scene.crs, scene.transform)
            assert (found.shape, found.count, found.nodata) == (scene.shape, 2, 255)


def test_the_map_has_palette_and_names_and_confidence_is_no_transparency(folder: Path) -> None:
    with rasterio.open(folder / "maps" / "S2A.tif") as found:
        palette = found.colormap(1)
        assert ["#" + bytes(palette[value][:3]).hex() for value in range(3)] == list(COLOURS)
        assert palette[255][3] == 0
        assert found.tags(1) == {f"class_{i}": name for i, name in enumerate(CLASSES)}
        assert found.colorinterp == (ColorInterp.palette, ColorInterp.undefined)
        assert found.descriptions == ("class", "confidence, percent")
        assert found.read(2).max() <= 100


def test_overviews_show_the_most_frequent_class(folder: Path) -> None:
    path = folder / "maps" / "S2A.tif"
    with rasterio.open(path) as found:
        assert found.overviews(1) == [2, 4]
        labels = found.read(1)
    with rasterio.open(path, overview_level=0) as half:
        shown = half.read(1)
    fours = labels.reshape(SIDE // 2, 2, SIDE // 2, 2).transpose(0, 2, 1, 3).reshape(-1, 4)
    counts = (fours[:, :, None] == np.arange(3)).sum(axis=1)  # (pixels, classes)
    chosen = counts[np.arange(len(fours)), shown.reshape(-1)]
    assert np.array_equal(chosen, counts.max(axis=1))


@pytest.mark.parametrize(
    ("height", "width", "factors"),
    [(512, 512, []), (513, 9, [2]), (1300, 1300, [2, 4]), (10980, 10980, [2, 4, 8, 16, 32])],
)
def test_overviews_end_where_one_fits_into_a_block(
    height: int, width: int, factors: list[int]
) -> None:
    assert overview_factors(height, width) == factors


def test_the_map_is_a_valid_cog(folder: Path) -> None:
    """All headers come first, then the pixels of the smallest overview, the map last."""
    path = folder / "maps" / "S2A.tif"
    assert b"LAYOUT=IFDS_BEFORE_DATA" in path.read_bytes()[:500]
    with tifffile.TiffFile(path) as file:
        pages = [page for page in file.pages if isinstance(page, tifffile.TiffPage)]
        assert [page.shape[0] for page in pages] == [SIDE, SIDE // 2, SIDE // 4]
        assert all(page.is_tiled for page in pages)
        headers = [page.offset for page in pages]
        data = [min(page.dataoffsets) for page in pages]
        assert headers == sorted(headers) and max(headers) < min(data)
        assert data == sorted(data, reverse=True)


def test_the_item_is_valid_stac(item: Any) -> None:
    assert faults(item) == []
    for name in ("geometry", "links", "stac_version"):
        assert faults({key: value for key, value in item.items() if key != name}), name
    assert faults(item | {"properties": item["properties"] | {"datetime": "yesterday"}})


def test_the_item_says_where_the_map_lies_and_what_its_values_mean(item: Any, folder: Path) -> None:
    properties, asset = item["properties"], item["assets"]["map"]
    assert properties["proj:code"] == "EPSG:32633"
    assert properties["proj:transform"] == [10, 0, 500_000, 0, -10, 5_100_000]
    assert properties["proj:shape"] == [SIDE, SIDE]
    assert 14.99 < item["bbox"][0] < item["bbox"][2] < 15.2
    named = [(row["value"], row["name"]) for row in asset["classification:classes"]]
    assert named == [*enumerate(CLASSES), (255, "nodata")]
    content = (folder / "maps" / asset["href"]).read_bytes()
    assert asset["file:checksum"] == "1220" + hashlib.sha256(content).hexdigest()
    assert asset["file:size"] == len(content)
    areas = properties["map:square_kilometres"]
    assert sum(areas.values()) == pytest.approx(SIDE * SIDE * 1e-4, abs=1e-3)


def test_the_item_leads_to_scene_model_and_the_items_of_the_scene(
    item: Any, folder: Path, bundle: Path
) -> None:
    links = [link for link in item["links"] if link["rel"] == "derived_from"]
    found = [(folder / "maps" / link["href"]).resolve() for link in links]
    files = (folder / "images" / "S2A.tif", bundle / "model.json", folder / "items" / "S2A.json")
    assert found == [path.resolve() for path in files]
    scene = hashlib.sha256(files[0].read_bytes()).hexdigest()
    assert scene in links[0]["title"]
    model = hashlib.sha256((bundle / "model.onnx").read_bytes()).hexdigest()
    assert item["properties"]["map:model"]["sha256"] == model and model in links[1]["title"]
    assert item["properties"]["datetime"] == "2025-06-17T10:00:31Z"
    assert {"onnxruntime", "rasterio", "gdal"} <= item["properties"]["processing:software"].keys()


def test_addresses_and_tag_replace_paths_where_they_must_not_be_seen(
    scene: Path, bundle: Path, tmp_path: Path
) -> None:
    options = Options(1, tag="landcover@v1.2.0", scene_href="urn:scene", model_href="urn:model")
    item = make_map(scene, tmp_path / "map.tif", bundle, options).item
    assert [link["href"] for link in item["links"]] == ["urn:scene", "urn:model"]
    assert item["properties"]["map:model"]["tag"] == "landcover@v1.2.0"
    assert str(scene.parent) not in json.dumps(item)


def warnings_of(made: Made) -> str:
    """All warnings; they are in the item too."""
    assert made.item["properties"]["map:warnings"] == made.warnings
    return "; ".join(made.warnings)


def test_a_scene_outside_the_training_area_is_said_to_be(bundle: Path, tmp_path: Path) -> None:
    pixels = maps.ground(80, 90)
    place = from_origin(500_000, 4_000_000, 10, 10)
    scene = maps.write_scene(tmp_path / "scene.tif", pixels, transform=place)
    made = make_map(scene, tmp_path / "map.tif", bundle, Options(1))
    assert "100% of the scene lies outside the area" in warnings_of(made)
    scene = maps.write_scene(tmp_path / "scene.tif", pixels)
    assert "outside" not in warnings_of(make_map(scene, tmp_path / "map.tif", bundle, Options(1)))


def test_a_scene_across_the_date_line_has_two_parts(bundle: Path, tmp_path: Path) -> None:
    place = from_origin(655_500, 6_900_000, 10, 10)
    scene = maps.write_scene(
        tmp_path / "scene.tif", maps.ground(80, 200), crs="EPSG:32660", transform=place
    )
    item = make_map(scene, tmp_path / "map.tif", bundle, Options(1)).item
    west, _, east, _ = item["bbox"]
    assert 179.9 < west < 180 and -180 < east < -179.9
    assert item["geometry"]["type"] == "MultiPolygon"
    assert faults(item) == []
    seen = maps.make_bundle(
        tmp_path / "model", area={"west": 179.0, "south": 61.0, "east": -179.0, "north": 63.0}
    )
    made = make_map(scene, tmp_path / "map.tif", seen, Options(1))
    assert made.item["properties"]["map:outside"] == 0


def test_a_scene_unlike_the_reference_is_said_to_be(bundle: Path, tmp_path: Path) -> None:
    scene = maps.write_scene(tmp_path / "scene.tif", maps.ground(400, 400) // 3 * 4)
    made = make_map(scene, tmp_path / "map.tif", bundle, Options(1))
    assert "unlike what the model was tested on" in warnings_of(made)
    assert "mean/B02" in made.item["properties"]["map:drift"]
    scene = maps.write_scene(tmp_path / "scene.tif", maps.ground(400, 400, seed=9))
    made = make_map(scene, tmp_path / "map.tif", bundle, Options(1))
    assert made.item["properties"]["map:drift"] == {}


def test_a_map_that_is_unsure_says_so(bundle: Path, tmp_path: Path) -> None:
    scene = maps.write_scene(tmp_path / "scene.tif", maps.ground(80, 90))
    made = make_map(scene, tmp_path / "map.tif", bundle, Options(1))
    share = float((maps.read(tmp_path / "map.tif")[1] < 50).mean())
    assert made.item["properties"]["map:low_confidence"] == pytest.approx(share, abs=1e-3)
    assert share > 0.2 and "have a confidence below 50 %" in warnings_of(made)
