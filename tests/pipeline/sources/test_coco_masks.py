"""Masks of COCO's annotations: polygons and runs, and what an image is refused for."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.masks import decode_rle
from pipeline.errors import DataError
from pipeline.sources import File, RefusedFile, coco_masks
from pipeline.sources.coco import Coco
from tests.make.harbours import image, make_coco, write_document

SIZE, BOX = (6, 8), (2.0, 1.0, 6.0, 5.0)
COMPRESSED = "=42MO11200;"  # by pycocotools 2.0.11
COUNTS = [13, 4, 2, 1, 1, 2, 2, 4, 2, 4, 13]


def pixels(segmentation: Any, box: Any = BOX, size: Any = SIZE) -> np.ndarray:
    found = coco_masks.read(segmentation, box, size)
    return decode_rle(found.counts, size, 0, size[1])


def test_runs_are_read_as_they_are_and_compressed() -> None:
    plain = pixels({"size": SIZE, "counts": COUNTS})
    assert plain.sum() == 15 and not plain[2, 3]
    assert np.array_equal(pixels({"size": SIZE, "counts": COMPRESSED}), plain)
    assert coco_masks.decompress("TW^2X6X60lYd3") == [80100, 200, 200, 200, 119300]


def test_a_pixel_is_of_a_polygon_if_its_centre_is() -> None:
    found = pixels([[2.2, 1.0, 6.2, 1.0, 6.2, 5.0]], (2.2, 1, 6.2, 5))
    assert found[1].tolist() == [False] * 3 + [True] * 3 + [False] * 2
    assert found.sum(axis=1).tolist() == [0, 3, 2, 1, 0, 0]


def test_parts_are_one_mask_and_thin_ones_are_what_they_touch() -> None:
    found = pixels([[2, 1, 3, 1, 3, 5, 2, 5], [5, 1, 6, 1, 6, 5, 5, 5]])
    assert np.flatnonzero(found.any(axis=0)).tolist() == [2, 5] and found.sum() == 8
    thin = pixels([[2.6, 1.0, 2.9, 1.0, 2.9, 5.0, 2.6, 5.0]], (2.6, 1, 2.9, 5))
    assert np.flatnonzero(thin.any(axis=0)).tolist() == [2]


def test_what_lies_beyond_the_image_is_cut_off() -> None:
    found = pixels([[-4, 1, 4, 1, 4, 9, -4, 9]], (0, 1, 4, 6))
    assert found[1:, :4].all() and found.sum() == 20


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        (None, "it has no mask"),
        ([], "it has no mask"),
        ([[2, 1, 6, 5]], "a polygon of 2 points, wanted 3"),
        ([[2, 1, 6, 5, 3]], "neither RLE nor polygons"),
        ([[2, 1, 6, 5, 3, "a"]], "neither RLE nor polygons"),
        ([2, 1, 6, 5, 3, 3], "neither RLE nor polygons"),
        (5, "neither RLE nor polygons"),
        ([[2, 1, 6, 5, 3, float("nan")]], "wanted 3 finite ones"),
        ([[20, 1, 26, 1, 26, 5]], "has no pixel in its box and the 8 x 6 pixels"),
        ([[0, 0, 8, 0, 8, 6, 0, 6]], "reaches beyond its box"),
        ({"size": [6, 8], "counts": [13, 4]}, "the counts add up to 17, wanted 48"),
        ({"size": [8, 6], "counts": COUNTS}, "is of 6 x 8 pixels, the image has 8 x 6"),
        ({"size": [6, 8], "counts": [0, 48]}, "reaches beyond its box"),
        ({"size": [6, 8], "counts": [48]}, "has no pixel"),
        ({"size": [6, 8], "counts": "=42M~"}, "the letter '~'"),
        ({"size": [6, 8], "counts": "=42MO112P"}, "is cut off"),
        ({"size": [6, 8], "counts": None}, "its RLE: counts"),
        ({"counts": COUNTS}, "its RLE: size"),
    ],
)
def test_a_mask_that_cannot_be_used_says_why(segmentation: Any, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        coco_masks.read(segmentation, BOX, SIZE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_coco(tmp_path, masks=True)
    return tmp_path


def test_the_masks_of_a_folder_are_what_is_bright(folder: Path) -> None:
    source = Coco(folder, masks=True)
    assert source.dataset().labels == "masks"
    files = {file.path: file for file in source.files() if isinstance(file, File)}
    (item,) = json.loads(files["boxes/porta_001.json"].content)["objects"]
    assert item["mask"]["size"] == [32, 32]
    found = decode_rle(item["mask"]["counts"], (32, 32), 0, 32)
    box = tuple(int(edge) for edge in item["box"])
    assert np.array_equal(found, image([box], 32, 2, corner=False)[..., 0] == 220)  # type: ignore


def test_an_image_with_an_object_without_a_mask_is_refused_with_its_number(folder: Path) -> None:
    document = json.loads((folder / "annotations.json").read_text("utf-8"))
    del document["annotations"][0]["segmentation"]
    document["annotations"][1]["segmentation"] = [[1, 2, 3, 4]]
    write_document(folder, document)
    refused = {
        file.path: file.reason
        for file in Coco(folder, masks=True).files()
        if isinstance(file, RefusedFile)
    }
    assert refused == {
        f"images/porta_00{number}.png": f"annotation {99 + number}: {reason}"
        for number, reason in (
            (1, "it has no mask (segmentation), which --masks needs"),
            (2, "a polygon of 2 points, wanted 3 finite ones or more"),
        )
    }


def test_boxes_are_taken_without_a_look_at_the_masks(folder: Path, tmp_path: Path) -> None:
    document = json.loads((folder / "annotations.json").read_text("utf-8"))
    plain = list(Coco(folder).files())
    for annotation in document["annotations"]:
        annotation["segmentation"] = "nonsense"
    write_document(folder, document)
    assert list(Coco(folder).files()) == plain and Coco(folder).dataset().labels == "boxes"
