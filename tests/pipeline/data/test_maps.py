"""Scenes and their label maps: cut into chips that lose nothing, or refused with the cure."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine, from_origin

from contracts.bundle import NODATA
from pipeline.data import maps
from tests.make.label_maps import BANDS, CORNER, SIZE, dataset, make_scene, write_raster


def chips_of(folder: Path, **changes: Any) -> tuple[Any, Any, list[Any]]:
    strips = list(maps.cut(folder, "images/a.tif", dataset(**changes)))
    return (
        np.concatenate([strip.chips for strip in strips]),
        np.concatenate([strip.labels for strip in strips]),
        [row for strip in strips for row in strip.rows],
    )


def test_chips_side_by_side_are_the_scene_again(tmp_path: Path) -> None:
    labels = make_scene(tmp_path)
    chips, found, rows = chips_of(tmp_path)
    assert chips.shape == (12, 3, SIZE, SIZE) and len(rows) == 12
    with rasterio.open(tmp_path / "images/a.tif") as scene:
        pixels = scene.read()
    whole = chips.reshape(3, 4, 3, SIZE, SIZE).transpose(2, 0, 3, 1, 4).reshape(3, 48, 64)
    assert (whole[:, :40, :50] == pixels).all()
    mosaic = found.reshape(3, 4, SIZE, SIZE).transpose(0, 2, 1, 3).reshape(48, 64)
    assert (mosaic[:40, :50] == labels).all()
    assert (mosaic[40:] == NODATA).all() and (mosaic[:, 50:] == NODATA).all()


def test_a_chip_knows_where_its_centre_is(tmp_path: Path) -> None:
    make_scene(tmp_path)
    first, *_, last = chips_of(tmp_path)[2]
    assert (first.crs, first.centre) == ("EPSG:32633", (CORNER[0] + 80, CORNER[1] - 80))
    assert last.centre == (CORNER[0] + 10 * (48 + 8), CORNER[1] - 10 * (32 + 8))


def test_a_scene_without_a_place_is_a_place_of_its_own(tmp_path: Path) -> None:
    make_scene(tmp_path, crs=None, transform=Affine.identity())
    rows = chips_of(tmp_path)[2]
    assert (rows[0].crs, rows[0].centre) == ("images/a.tif", (80.0, -80.0))


def test_pixels_without_data_have_no_label(tmp_path: Path) -> None:
    make_scene(tmp_path)
    with rasterio.open(tmp_path / "images/a.tif", "r+") as scene:
        pixels = scene.read()
        pixels[:, 3, 4] = 0
        pixels[0, 5, 6] = 0  # one band only: that can be dark water
        pixels[:, :16, 16:32] = 0
        scene.write(pixels)
    _, labels, rows = chips_of(tmp_path)
    assert len(rows) == 11, "a chip without data is left out"
    assert labels[0, 3, 4] == NODATA and labels[0, 5, 6] != NODATA


def test_corrected_labels_are_other_data(tmp_path: Path) -> None:
    make_scene(tmp_path)
    before = [row.sha256 for row in chips_of(tmp_path)[2]]
    with rasterio.open(tmp_path / "labels/a.tif", "r+") as raster:
        labels = raster.read(1)
        labels[0, 0] = 1 - labels[0, 0]
        raster.write(labels, 1)
    after = [row.sha256 for row in chips_of(tmp_path)[2]]
    assert after[0] != before[0] and after[1:] == before[1:]


def test_only_images_are_scenes_and_a_split_stands_above() -> None:
    names = ["images/a.tif", "items/a.json", "labels/a.tif", "train/images/b.tif"]
    assert maps.scenes(names) == ["images/a.tif", "train/images/b.tif"]
    assert maps.labels_of("train/images/b.tif") == "train/labels/b.tif"
    assert maps.labels_of("images/a.tif") == "labels/a.tif"


PIXELS = np.ones((3, 40, 50), np.uint16)
IMAGES: dict[str, tuple[Any, dict[str, Any], str]] = {
    "bands": (PIXELS[:2], {}, "it has 2 bands, wanted 3"),
    "order": (PIXELS, {"names": ("B04", "B03", "B02")}, "its bands are B04, B03, B02, wanted B02"),
    "dtype": (PIXELS.astype(np.uint8), {}, "values are uint8, wanted uint16"),
    "degrees": (PIXELS, {"crs": "EPSG:4326"}, "its grid is in degrees .*gdalwarp -t_srs"),
    "20 m": (PIXELS, {"transform": from_origin(*CORNER, 20, 20)}, "a pixel is 20 m, wanted 10 m"),
    "rotated": (
        PIXELS,
        {"transform": from_origin(*CORNER, 10, 10) @ Affine.rotation(30)},
        "it is rotated: warp it",
    ),
    "elsewhere": (
        PIXELS,
        {"transform": from_origin(CORNER[0] + 5, CORNER[1], 10, 10)},
        "its labels lie on another grid",
    ),
    "zone": (PIXELS, {"crs": "EPSG:32632"}, "its labels lie on another grid"),
    "size": (PIXELS[:, :39], {}, "its labels have 50 x 40 pixels, the image has 50 x 39"),
}


@pytest.mark.parametrize("case", IMAGES)
def test_an_image_that_does_not_fit_is_refused(case: str, tmp_path: Path) -> None:
    make_scene(tmp_path)
    pixels, changes, reason = IMAGES[case]
    write_raster(tmp_path / "images/a.tif", pixels, **changes)
    found = maps.scene_fault(tmp_path, "images/a.tif", dataset())
    assert found is not None and re.search(reason, found), found


LABELS: dict[str, tuple[Any, str]] = {
    "value": (np.full((1, 40, 50), 7, np.uint8), "label 7 has no class; there are 2, from 0 on"),
    "none": (np.full((1, 40, 50), 255, np.uint8), "no pixel has a label"),
    "two bands": (np.zeros((2, 40, 50), np.uint8), "its labels are 2 band of uint8"),
    "dtype": (np.zeros((1, 40, 50), np.int16), "its labels are 1 band of int16, wanted 1 of uint8"),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_that_do_not_fit_are_refused(case: str, tmp_path: Path) -> None:
    make_scene(tmp_path)
    pixels, reason = LABELS[case]
    write_raster(tmp_path / "labels/a.tif", pixels)
    assert (maps.scene_fault(tmp_path, "images/a.tif", dataset()) or "").startswith(reason)


def test_a_good_scene_has_no_fault_and_names_of_its_bands_count(tmp_path: Path) -> None:
    make_scene(tmp_path)
    assert maps.scene_fault(tmp_path, "images/a.tif", dataset()) is None
    write_raster(tmp_path / "images/a.tif", PIXELS, names=BANDS)
    assert maps.scene_fault(tmp_path, "images/a.tif", dataset()) is None


def test_a_scene_that_is_missing_its_labels_or_cannot_be_read_says_so(tmp_path: Path) -> None:
    make_scene(tmp_path)
    (tmp_path / "labels/a.tif").unlink()
    found = maps.scene_fault(tmp_path, "images/a.tif", dataset())
    assert found == "it has no labels: labels/a.tif is missing"
    (tmp_path / "images/a.tif").write_bytes(b"no TIFF")
    assert (maps.scene_fault(tmp_path, "images/a.tif", dataset()) or "").startswith("cannot be")
