"""Masks as labels: packed, sampled, drawn and cut without a loss where boxes are small."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from contracts.masks import encode_rle
from pipeline.data import boxes, masks
from pipeline.data.dataset import Dataset
from pipeline.errors import DataError
from pipeline.sources.coco import Coco
from tests.make.harbours import image, make_coco

CELLS = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).random((masks.EDGE, masks.EDGE)) < 0.5
)


@given(CELLS)
def test_lines_are_exact(cells: Any) -> None:
    lines = masks.pack(cells)
    assert lines.dtype == np.float32 and lines.shape == (masks.EDGE,)
    assert np.array_equal(masks.unpack(lines), cells)


@given(arrays.arrays(bool, (32, 32)), st.data())
def test_a_box_of_so_many_pixels_or_fewer_keeps_each(pixels: Any, data: Any) -> None:
    low, extent = st.integers(0, 8), st.integers(1, masks.EDGE)
    left, top, wide, high = (data.draw(of) for of in (low, low, extent, extent))
    box = np.array([left, top, left + wide, top + high], np.float32)
    found = masks.draw(masks.sample(pixels, box), box, 32)
    outside = np.ones_like(pixels)
    outside[top : top + high, left : left + wide] = False
    assert np.array_equal(found, pixels & ~outside)


def test_a_part_of_a_box_has_that_part_of_its_mask() -> None:
    cells = np.zeros((1, 4, 4), np.uint8)
    cells[0, :2, 2:] = 255
    before, half = np.array([[0.0, 0, 8, 8]]), np.array([[4.0, 0, 8, 4]])
    assert (masks.recut(cells, before, half) == 255).all()
    assert not masks.recut(cells, before, half - [[4, 0, 4, 0]]).any()
    assert np.array_equal(masks.recut(cells, before, before), cells)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    make_coco(tmp_path / "source", masks=True)
    return Coco(tmp_path / "source", masks=True).dataset()


def put(folder: Path, pixels: Any, box: list[float], **changes: Any) -> str:
    """Write an image whose object has these pixels; returns its name."""
    for kind in ("images", "boxes"):
        (folder / kind).mkdir(exist_ok=True)
    Image.fromarray(image([], len(pixels))).save(folder / "images" / "a.png")
    mask = {"size": pixels.shape, "counts": encode_rle(pixels, 0, 0, pixels.shape)}
    item = {"class": "ship", "box": box, "mask": mask} | changes
    document = {"group": "port", "objects": [item]}
    (folder / "boxes" / "a.json").write_text(json.dumps(document), "utf-8")
    return "images/a.png"


def test_a_mask_is_cut_with_its_box_at_the_edge_of_the_chip(
    dataset: Dataset, tmp_path: Path
) -> None:
    pixels = np.zeros((50, 50), bool)
    pixels[2:12, 28:38] = True
    pixels[2:6, 32:36] = False
    found = boxes.cut(tmp_path, put(tmp_path, pixels, [28, 2, 48, 12]), dataset)
    assert found.labels.shape == (4, 100, masks.WIDTH)
    label = found.labels[1, 0]
    assert label[:5].tolist() == [0, 0, 2, 16, 12], "of the second chip, from column 32 on"
    drawn = masks.draw(masks.unpack(label[5:]), label[1:5], 32)
    assert np.array_equal(drawn[:, :16], pixels[:32, 32:48])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mask": None}, "object 0 has no mask"),
        ({"mask": {"size": [40, 32], "counts": [1280]}}, "its mask is of 32 x 40 pixels, not 32"),
        ({"mask": {"size": [32, 32], "counts": [9, 9]}}, "the counts add up to 18, wanted 1024"),
        ({"mask": {"size": [32, 32]}}, "objects.0.mask.counts"),
    ],
)
def test_a_file_without_masks_or_with_others_says_why(
    dataset: Dataset, tmp_path: Path, changes: Any, reason: str
) -> None:
    name = put(tmp_path, np.ones((32, 32), bool), [1, 1, 9, 9], **changes)
    with pytest.raises(DataError, match=reason):
        boxes.read(tmp_path, name, dataset)


def test_boxes_alone_need_no_mask_and_are_written_without(dataset: Dataset, tmp_path: Path) -> None:
    name = put(tmp_path, np.ones((32, 32), bool), [1, 1, 9, 9])
    alone = dataset.model_copy(update={"labels": "boxes"})
    assert boxes.cut(tmp_path, name, alone).labels.shape == (1, 100, 5)
    item = boxes.Object.model_validate({"class": "ship", "box": (1, 2, 3, 4)})
    assert item.model_dump_json(by_alias=True) == '{"class":"ship","box":[1.0,2.0,3.0,4.0]}'
