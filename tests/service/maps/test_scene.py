"""What a scene must be: bands by name, the model's grid, a file that can be read."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio.shutil
from rasterio.transform import Affine, from_origin

from service.errors import ServiceError
from service.maps.make import Options, make_map
from tests.make import maps

ORDER = ("B08", "B04", "B03", "B02")
Write = Callable[[Path], object]


def refused(bundle: Path, scene: Path, options: Options = Options(1)) -> str:
    """The sentence with which a scene is refused; nothing of it is left."""
    target = scene.with_name("map.tif")
    before = sorted(path.name for path in scene.parent.iterdir())
    with pytest.raises(ServiceError) as caught:
        make_map(scene, target, bundle, options)
    assert sorted(path.name for path in scene.parent.iterdir()) == before
    assert "\n" not in caught.value.detail and str(scene.parent) not in caught.value.detail
    return caught.value.detail


def test_bands_are_found_by_name_in_any_order(bundle: Path, tmp_path: Path) -> None:
    pixels = maps.ground(80, 90)
    maps.write_scene(tmp_path / "one.tif", pixels)
    other = np.concatenate((pixels[::-1], np.full_like(pixels[:1], 7)))
    maps.write_scene(tmp_path / "other.tif", other, (*ORDER, "SCL"))
    for name in ("one", "other"):
        make_map(tmp_path / f"{name}.tif", tmp_path / f"map-{name}.tif", bundle, Options(1))
    one, two = (maps.read(tmp_path / f"map-{name}.tif") for name in ("one", "other"))
    assert np.array_equal(one, two)


def test_bands_without_names_are_refused_until_someone_names_them(
    bundle: Path, tmp_path: Path
) -> None:
    pixels = maps.ground(80, 90)
    two_dates = np.concatenate((pixels[::-1], pixels[::-1] // 2))
    scene = maps.write_scene(tmp_path / "scene.tif", two_dates, ())
    assert "has the model's order, --bands B02,B03,B04,B08,-,-,-,-" in refused(bundle, scene)
    assert "names 4 bands, the scene has 8" in refused(bundle, scene, Options(1, bands=ORDER))
    twice = Options(1, bands=(*ORDER, *ORDER))
    assert "has band B02 2 times" in refused(bundle, scene, twice)
    named = Options(1, bands=(*ORDER, "-", "-", "-", "-"))
    make_map(scene, tmp_path / "map.tif", bundle, named)
    make_map(maps.write_scene(tmp_path / "a.tif", pixels), tmp_path / "m.tif", bundle, Options(1))
    assert np.array_equal(maps.read(tmp_path / "map.tif"), maps.read(tmp_path / "m.tif"))


def scene_with(pixels: Any = None, **settings: Any) -> Write:
    """Write a scene that differs from a good one."""
    return lambda path: maps.write_scene(
        path, maps.ground(80, 90) if pixels is None else pixels, **settings
    )


def truncated(path: Path) -> None:
    """Cut a cloud-optimized scene off, whose header comes first, in its last third."""
    plain = maps.write_scene(path.with_suffix(".plain"), maps.ground(200, 200))
    rasterio.shutil.copy(plain, path, driver="COG", blocksize=128, overviews="NONE")
    plain.unlink()
    os.truncate(path, path.stat().st_size * 2 // 3)


def without_header(path: Path) -> None:
    """Cut a scene off in its header."""
    maps.write_scene(path, maps.ground(80, 90))
    os.truncate(path, 6)


def lying_header(path: Path) -> None:
    """Name 60,000 x 60,000 pixels where there are 80 x 90."""
    maps.write_scene(path, maps.ground(80, 90), tiled=False, compress=None)
    content = bytearray(path.read_bytes())
    for tag in (256, 257, 278):  # width, length, rows a strip
        at = content.rindex(tag.to_bytes(2, "little") + b"\x03\x00\x01\x00\x00\x00")
        content[at + 8 : at + 12] = (60_000).to_bytes(4, "little")
    path.write_bytes(content)


def virtual(path: Path) -> None:
    """A file that names other files, under the name of a GeoTIFF."""
    path.write_text(
        '<VRTDataset rasterXSize="9" rasterYSize="9"><VRTRasterBand band="1" dataType="UInt16">'
        "<SimpleSource><SourceFilename>/etc/hostname</SourceFilename></SimpleSource>"
        "</VRTRasterBand></VRTDataset>",
        encoding="ascii",
    )


SQUARE = np.zeros((4, 80, 90), np.uint16) + 500
BAD: dict[str, tuple[Write, str]] = {
    "no CRS": (scene_with(crs=None), r"has no CRS.*--crs EPSG:32633"),
    "no place": (scene_with(transform=Affine.identity()), r"no geotransform.*edit-info"),
    "degrees": (
        scene_with(crs="EPSG:4326", transform=from_origin(15, 46, 1e-4, 1e-4)),
        r"EPSG:4326 in degrees.*gdalwarp",
    ),
    "20 m": (
        scene_with(transform=from_origin(500_000, 5_100_000, 20, 20)),
        r"pixels of 20 x 20 m, the model wants 10 m.*-tr 10 10",
    ),
    "Mercator, 46 degrees north": (
        scene_with(crs="EPSG:3857", transform=from_origin(1_669_792, 5_780_350, 10, 10)),
        r"10 x 10 m in the CRS EPSG:3857 of the scene are 6\.9 x 6\.9 m on the ground.*gdalwarp",
    ),
    "beside its CRS": (
        scene_with(transform=from_origin(5e8, 5e8, 10, 10)),
        r"middle at 5e\+08, \S+, where its CRS EPSG:32633 has no place.*edit-info",
    ),
    "feet": (scene_with(crs="EPSG:2263"), r"pixels of 3\.048\S* x 3\.048\S* m"),
    "rotated": (
        scene_with(transform=from_origin(500_000, 5_100_000, 10, 10) @ Affine.rotation(5)),
        r"rotated or flipped.*gdalwarp",
    ),
    "upside down": (
        scene_with(transform=Affine(10, 0, 500_000, 0, 10, 5_000_000)),
        r"rotated or flipped",
    ),
    "8 bits": (scene_with((SQUARE // 4).astype(np.uint8)), r"dtype uint8.*stretched colours"),
    "floats": (
        scene_with((SQUARE / 1e4).astype(np.float32)),
        r"dtype float32.*gdal_translate -ot uint16 -scale 0 1 0 10000",
    ),
    "a band missing": (
        scene_with(SQUARE[:3], names=("B02", "B03", "B04")),
        r"has bands B02, B03, B04, the model needs B08 too",
    ),
    "all nodata": (scene_with(SQUARE * 0), r"no pixel of scene\.tif has data: every band is 0"),
    "1 x 1": (scene_with(SQUARE[:, :1, :1], tiled=False), r"is 1 x 1 pixels.*at least 17"),
    "cut off": (truncated, r"cannot be read at rows \d+ to \d+ of 200.*cut off or damaged"),
    "no header": (without_header, r"is no GeoTIFF that can be read"),
    "a lying header": (
        lying_header,
        r"cannot be read at rows 0 to \d+ of 60000.*cut off or damaged",
    ),
    "a file of files": (virtual, r"is no GeoTIFF that can be read"),
    "huge blocks": (
        scene_with(maps.ground(5000, 40), tiled=False, blockysize=5000),
        r"blocks of 40 x 5000 pixels.*4096 lines",
    ),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_scene_that_cannot_be_mapped_is_refused_in_a_sentence(
    case: str, bundle: Path, tmp_path: Path
) -> None:
    write, sentence = BAD[case]
    write(tmp_path / "scene.tif")
    assert re.search(sentence, refused(bundle, tmp_path / "scene.tif"))


@pytest.mark.parametrize(
    ("crs", "x", "y"),
    [
        ("EPSG:3857", 1_669_792, 1_118_890),  # Mercator at 10 degrees north
        ("EPSG:3035", 2_700_000, 1_600_000),  # all of Europe, at its edge
        ("EPSG:32632", 1_000_000, 5_100_000),  # the zone beside it
    ],
)
def test_projections_that_keep_the_size_of_a_pixel_are_taken(
    crs: str, x: float, y: float, bundle: Path, tmp_path: Path
) -> None:
    scene = tmp_path / "scene.tif"
    maps.write_scene(scene, maps.ground(80, 90), crs=crs, transform=from_origin(x, y, 10, 10))
    make_map(scene, tmp_path / "map.tif", bundle, Options(1))


def test_a_scene_40000_wide_is_mapped(bundle: Path, tmp_path: Path) -> None:
    pixels = np.tile(maps.ground(40, 400), (1, 1, 100))
    scene = maps.write_scene(tmp_path / "scene.tif", pixels)
    make_map(scene, tmp_path / "map.tif", bundle, Options(1, 256))
    found = maps.read(tmp_path / "map.tif")
    assert found.shape == (2, 40, 40_000) and found[0].max() < 3


def test_the_nodata_of_the_scene_becomes_that_of_the_model(bundle: Path, tmp_path: Path) -> None:
    pixels = maps.ground(80, 90)
    pixels[:, :30, :50] = 65535
    scene = maps.write_scene(tmp_path / "scene.tif", pixels, nodata=65535)
    made = make_map(scene, tmp_path / "map.tif", bundle, Options(1))
    assert np.array_equal(maps.read(tmp_path / "map.tif")[0] == 255, (pixels == 65535).all(axis=0))
    assert made.item["properties"]["map:nodata"] == round(30 * 50 / (80 * 90), 4)


def test_a_good_scene_after_a_bad_one_is_mapped(bundle: Path, scene: Path, tmp_path: Path) -> None:
    truncated(tmp_path / "scene.tif")
    refused(bundle, tmp_path / "scene.tif")
    make_map(scene, tmp_path / "map.tif", bundle, Options(1))
    assert (tmp_path / "map.tif").exists()


OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "a tile of 3": ({"tile": 3}, r"--tile 3: take 64 to 4096"),
    "workers below 0": ({"workers": -1}, r"--workers -1: take 1"),
    "no such item": ({"item": Path("no.json")}, r"--item no\.json: no such file"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_a_wrong_option_is_refused_in_a_sentence(case: str, bundle: Path, tmp_path: Path) -> None:
    fields, sentence = OPTIONS[case]
    maps.write_scene(tmp_path / "scene.tif", maps.ground(80, 90))
    options = Options(1)._replace(**fields)
    assert re.search(sentence, refused(bundle, tmp_path / "scene.tif", options))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("map.png", "name it NAME.tif"),
        ("no/map.tif", "its folder does not exist"),
        ("scene.tif", "is the scene itself"),
        ("scene.tiff", "its item would replace the scene's"),
    ],
)
def test_a_target_that_would_do_harm_is_refused(
    name: str, sentence: str, bundle: Path, tmp_path: Path
) -> None:
    scene = maps.write_scene(tmp_path / "scene.tif", maps.ground(80, 90))
    with pytest.raises(ServiceError, match=sentence):
        make_map(scene, tmp_path / name, bundle, Options(1))


def test_a_scene_that_is_missing_is_named(bundle: Path, tmp_path: Path) -> None:
    assert "scene no.tif: no such file" in refused(bundle, tmp_path / "no.tif")
