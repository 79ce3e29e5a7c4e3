"""Labels of scenes: rasters on the same grid or refused, polygons burnt in."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from rasterio.warp import transform

from pipeline.errors import SourceError
from pipeline.sources.sentinel2.labels import NONE, read_labels
from tests.make import polygons, scenes
from tests.pipeline.sources.sentinel2.conftest import World, place

CODES = np.array([3, 7, 9], np.uint8)[scenes.classes()]  # water, forest, soil of a raster
NAMES = "3=water,7=forest,9=soil"
FOREST = (500_320, 5_099_040, 500_640, 5_100_000)  # the second stripe: columns 32 to 63
HOLE = (500_400, 5_099_400, 500_500, 5_099_500)


def raster(folder: Path, values: npt.NDArray[Any] = CODES, **options: Any) -> Path:
    path = folder / "lulc.tif"
    path.write_bytes(scenes.cog(values, **options))
    return path


def burnt(world: World, *paths: Path, classes: str = "", field: str = "", layer: str = "") -> Any:
    """The label map of the scene, or why there is none."""
    if not world.state.items:
        scenes.add_scene(world.state, "a")
    files = world.files(labels=read_labels(paths, classes, field, layer))
    if "labels/a.tif" not in files:
        return getattr(files["images/a.tif"], "reason")
    return scenes.read(place(files["labels/a.tif"]))[0]


def in_degrees(west: float, south: float, east: float, north: float) -> polygons.Ring:
    corners = polygons.rectangle(west, south, east, north)
    xs, ys = transform("EPSG:32633", "EPSG:4326", *zip(*corners, strict=True))
    return list(zip(xs, ys, strict=True))


def test_a_raster_on_the_grid_gives_each_pixel_its_class(world: World, tmp_path: Path) -> None:
    assert np.array_equal(burnt(world, raster(tmp_path), classes=NAMES), scenes.classes())
    without_names = read_labels([raster(tmp_path)], "", "", "")
    assert without_names.classes == ("class-3", "class-7", "class-9")


def test_values_without_a_name_are_not_labelled_and_two_may_share_one(
    world: World, tmp_path: Path
) -> None:
    labels = burnt(world, raster(tmp_path), classes="3=other,9=other")
    assert np.array_equal(labels, np.where(scenes.classes() == 1, NONE, 0))


def test_a_larger_or_smaller_raster_is_cut_or_leaves_pixels_without_a_label(
    world: World, tmp_path: Path
) -> None:
    larger = np.pad(CODES, 8, mode="edge")
    west, north = scenes.ORIGIN
    labels = burnt(world, raster(tmp_path, larger, origin=(west - 80, north + 80)), classes=NAMES)
    assert np.array_equal(labels, scenes.classes())
    labels = burnt(
        world, raster(tmp_path, CODES[10:60, 20:90].copy(), origin=(west + 200, north - 100))
    )
    assert np.array_equal(labels[10:60, 20:90], scenes.classes()[10:60, 20:90])
    assert (labels[:10] == NONE).all() and (labels[:, :20] == NONE).all()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"origin": (500_005, 5_100_000)}, "lie on another grid .*0.50 pixels beside.*rio warp"),
        ({"metres": 20}, "lie on another grid .*pixels of 20 m"),
        ({"crs": "EPSG:32632"}, "no labels in EPSG:32633: .*lulc.tif is in EPSG:32632"),
        ({"origin": (600_000, 5_100_000)}, "lie beside the scene"),
    ],
    ids=["half-a-pixel", "20-m", "zone", "beside"],
)
def test_a_raster_on_another_grid_is_refused_and_never_resampled(
    world: World, tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    refused = burnt(world, raster(tmp_path, **options))
    assert isinstance(refused, str) and re.search(reason, refused), refused


def test_each_zone_has_a_raster_of_its_own(world: World, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = raster(tmp_path / "other", crs="EPSG:32632")
    assert np.array_equal(burnt(world, other, raster(tmp_path)), scenes.classes())


def test_under_clouds_there_are_no_labels(world: World, tmp_path: Path) -> None:
    scl = np.full((48, 48), 4, np.uint8)
    scl[:4] = 8
    scenes.add_scene(world.state, "a", scl=scl)
    labels = burnt(world, raster(tmp_path))
    assert (labels[:8] == NONE).all()
    assert np.array_equal(labels[8:], scenes.classes()[8:])


@pytest.mark.parametrize(
    "kind", ["geojson", "geopackage", "geopackage-with-heights", "geopackage-big-endian"]
)
def test_polygons_are_burnt_in(world: World, tmp_path: Path, kind: str) -> None:
    if kind == "geojson":
        rings = [in_degrees(*FOREST), in_degrees(*HOLE)]
        path = polygons.write_geojson(tmp_path / "a.geojson", [(rings, {"landuse": "forest"})])
    else:
        shape = ([polygons.rectangle(*FOREST), polygons.rectangle(*HOLE)], "forest")
        path = polygons.write_geopackage(
            tmp_path / "a.gpkg",
            {"landuse": [shape]},
            heights="heights" in kind,
            order=">" if "big" in kind else "<",
        )
    labels = burnt(world, path)
    wanted = np.where(scenes.classes() == 1, 0, NONE)
    wanted[50:60, 40:50] = NONE
    assert np.array_equal(labels, wanted)


def test_of_polygons_on_each_other_the_later_one_counts(world: World, tmp_path: Path) -> None:
    shapes = [([in_degrees(*FOREST)], {"kind": "forest"}), ([in_degrees(*HOLE)], {"kind": "pond"})]
    labels = burnt(world, polygons.write_geojson(tmp_path / "a.json", shapes), field="kind")
    assert (labels[50:60, 40:50] == 1).all() and (labels == 1).sum() == 100


def test_classes_choose_and_name_values_of_a_column(tmp_path: Path) -> None:
    shapes = [([in_degrees(*FOREST)], {"code": code, "note": "x"}) for code in ("F", "W", "S")]
    path = polygons.write_geojson(tmp_path / "a.geojson", shapes)
    assert read_labels([path], "F=forest,W=water", "code", "").classes == ("forest", "water")
    with pytest.raises(SourceError, match="--label-field is missing: .* code, note"):
        read_labels([path], "", "", "")
    with pytest.raises(SourceError, match="--label-field area: .* has code, note"):
        read_labels([path], "", "area", "")
    with pytest.raises(SourceError, match="--classes: G is no value in .* F, S, W"):
        read_labels([path], "F,G", "code", "")


def test_polygons_without_a_class_are_not_labelled(tmp_path: Path) -> None:
    shapes = [([in_degrees(*FOREST)], {"use": use}) for use in ("forest", None)]
    path = polygons.write_geojson(tmp_path / "a.geojson", shapes)
    assert read_labels([path], "", "use", "").classes == ("forest",)
    many = [([in_degrees(*HOLE)], {"use": f"{number}"}) for number in range(255)]
    polygons.write_geojson(path, many)
    with pytest.raises(SourceError, match="has 255 classes: name 1 to 254 with --classes"):
        read_labels([path], "", "use", "")


def test_a_geopackage_of_several_layers_needs_a_choice(world: World, tmp_path: Path) -> None:
    shape = ([polygons.rectangle(*FOREST)], "forest")
    path = polygons.write_geopackage(tmp_path / "a.gpkg", {"roads": [], "use": [shape]})
    with pytest.raises(SourceError, match="--layer is missing: .* has roads, use"):
        read_labels([path], "", "", "")
    assert (burnt(world, path, layer="use") == 0).any()


def test_polygons_beside_the_scene_refuse_it(world: World, tmp_path: Path) -> None:
    shapes = [([polygons.rectangle(20, 50, 21, 51)], {"landuse": "forest"})]
    path = polygons.write_geojson(tmp_path / "a.geojson", shapes)
    assert burnt(world, path) == "fake: item a: no polygon of --labels lies in the scene"


def test_damaged_label_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.gpkg").write_bytes(b"SQLite format 3\0" + bytes(100))
    (tmp_path / "b.tif").write_bytes(b"<VRTDataset/>")
    (tmp_path / "c.tif").write_bytes(scenes.cog(np.ones((8, 8), np.float32)))
    (tmp_path / "d.shp").write_bytes(b"")
    shape = ([polygons.rectangle(*FOREST)], "forest")
    cut = polygons.write_geopackage(tmp_path / "e.gpkg", {"use": [shape]})
    with closing(sqlite3.connect(cut)) as database:
        database.execute("UPDATE use SET geom = substr(geom, 1, 70)")
        database.commit()
    polygons.write_geopackage(tmp_path / "f.gpkg", {})
    bare = polygons.write_geopackage(tmp_path / "h.gpkg", {"use": [shape]})
    with closing(sqlite3.connect(bare)) as database:
        database.execute("DROP TABLE gpkg_spatial_ref_sys")
        database.commit()
    for name, message in {
        "a.gpkg": "is no GeoPackage",
        "b.tif": "cannot be opened",
        "c.tif": "1 band of float32, wanted 1 of integers",
        "d.shp": "ends in .shp: give rasters",
        "e.gpkg": "a geometry of use cannot be read",
        "f.gpkg": "has no layer",
        "g.tif": "no such file",
        "h.gpkg": "is no GeoPackage .no such table",
    }.items():
        with pytest.raises(SourceError, match=message):
            read_labels([tmp_path / name], "", "", "")


@pytest.mark.parametrize("classes", ["1=water", "3=a,3=b", "x=y", "-1=z"])
def test_classes_that_are_not_in_the_raster_are_refused(tmp_path: Path, classes: str) -> None:
    with pytest.raises(SourceError, match="^--classes"):
        read_labels([raster(tmp_path)], classes, "", "")
