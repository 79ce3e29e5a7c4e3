"""Images with boxes become chips with boxes, and bad ones say why they are none."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.data import boxes
from pipeline.data.dataset import MOST_OBJECTS, Dataset
from pipeline.errors import DataError
from pipeline.sources.coco import Coco
from tests.make.harbours import image, make_coco


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    make_coco(tmp_path / "source")
    return Coco(tmp_path / "source").dataset()


def put(folder: Path, size: int, *found: Any, name: str = "a", **changes: Any) -> str:
    """Write an image of `size` pixels with these boxes; returns its name."""
    for kind in ("images", "boxes"):
        (folder / kind).mkdir(exist_ok=True)
    Image.fromarray(image([], size)).save(folder / "images" / f"{name}.png")
    objects = [{"class": "ship", "box": box} for box in found]
    document = {"group": "port", "objects": objects} | changes
    (folder / "boxes" / f"{name}.json").write_text(json.dumps(document), "utf-8")
    return f"images/{name}.png"


def test_an_image_of_the_size_of_a_chip_is_one(dataset: Dataset, tmp_path: Path) -> None:
    name = put(tmp_path, 32, [1, 2, 9, 12])
    found = boxes.cut(tmp_path, name, dataset)
    assert found.chips.shape == (1, 3, 32, 32) and found.rows[0].label == "port"
    assert found.labels[0, 0].tolist() == [0, 1, 2, 9, 12]
    assert (found.labels[0, 1:] == -1).all()


def test_a_larger_image_is_cut_and_a_box_is_in_the_chip_of_its_centre(
    dataset: Dataset, tmp_path: Path
) -> None:
    name = put(tmp_path, 50, [28, 2, 48, 12], [33, 33, 50, 50], [0, 0, 5, 5])
    found = boxes.cut(tmp_path, name, dataset)
    assert found.chips.shape == (4, 3, 32, 32) and len({row.sha256 for row in found.rows}) == 4
    assert (found.chips[3][:, 18:] == 0).all() and (found.chips[3][:, :, 18:] == 0).all()
    lists = [chip[chip[:, 0] >= 0, 1:].tolist() for chip in found.labels]
    assert lists == [[[0, 0, 5, 5]], [[0, 2, 16, 12]], [], [[1, 1, 18, 18]]]


@pytest.mark.parametrize(
    ("found", "changes", "reason"),
    [
        ([[1, 1, 40, 9]], {}, "object 0: .* is outside of 32 x 32 pixels"),
        ([[9, 9, 9, 12]], {}, "has no area"),
        ([], {"objects": [{"class": "car", "box": [1, 1, 2, 2]}]}, "object 0 is car, of no class"),
        ([], {"group": ""}, "group: "),
        ([], {"objects": None}, "objects: wanted a list"),
        ([[1, 1, 3, 3]] * (MOST_OBJECTS + 1), {}, "more than 100 objects"),
    ],
)
def test_a_file_of_boxes_that_cannot_be_used_says_why(
    dataset: Dataset, tmp_path: Path, found: Any, changes: Any, reason: str
) -> None:
    name = put(tmp_path, 32, *found, **changes)
    with pytest.raises(DataError, match=reason):
        boxes.read(tmp_path, name, dataset)


def test_an_image_without_a_file_of_boxes_or_of_other_bands_is_refused(
    dataset: Dataset, tmp_path: Path
) -> None:
    name = put(tmp_path, 32)
    (tmp_path / "boxes" / "a.json").unlink()
    with pytest.raises(DataError, match="it has no boxes: boxes/a.json is missing"):
        boxes.read(tmp_path, name, dataset)
    name = put(tmp_path, 32, name="b")
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / "images" / "b.png")
    with pytest.raises(DataError, match="the image has 1 band, wanted 3"):
        boxes.read(tmp_path, name, dataset)
