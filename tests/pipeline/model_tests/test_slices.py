"""Slices: which chips belong to which part, and what is said where there are none."""

from typing import Any

import numpy as np
import pytest

from pipeline.data.chip_table import Row
from pipeline.data.dataset import Kind
from pipeline.data.prepared import Split
from pipeline.errors import ParameterError
from pipeline.model_tests.definition import Season, Slice
from pipeline.model_tests.slices import NotApplicable, masks
from tests.make.datasets import dataset


def split(kind: Kind = "folders", dates: bool = True, placed: bool = True) -> Split:
    """Four chips: classes 0 1 0 1, ever brighter, of two places, of January, July and August."""
    chips = (
        np.full((4, 2, 16, 16), 100, np.uint16)
        * np.arange(1, 5, dtype=np.uint16)[:, None, None, None]
    )
    labels: np.ndarray = np.array([0, 1, 0, 1])
    if kind == "maps":
        labels = np.full((4, 16, 16), 255, np.uint8)
        labels[[0, 2], 0], labels[[1, 2], 1] = 0, 1
    if kind == "boxes":
        labels = np.full((4, 3, 5), -1, np.float32)
        labels[0, 0], labels[1, 0], labels[1, 1] = (
            (0, 0, 0, 5, 5),
            (1, 0, 0, 12, 12),
            (0, 1, 1, 3, 3),
        )
    names = ("T33_20250105.tif", "T33_2025-07-01.tif", "T33_20250702.tif", "T33_2024-08-31.tif")
    rows = [
        Row(
            row=number,
            path=f"images/{name if dates else 'a.tif'}",
            label="ab"[number % 2],
            sha256=str(number) * 64,
            crs="EPSG:32633",
            centre=(5000.0 + 8000 * (number > 1), 100.0) if placed else None,
        )
        for number, name in enumerate(names)
    ]
    return Split(chips, labels, rows)


def found(test: Slice | Season, kind: Kind = "folders", **how: bool) -> dict[str, str]:
    of = masks("mine", test, split(kind, **how), dataset(kind))
    return {name: "".join("01"[int(is_in)] for is_in in mask) for name, mask in of.items()}


def by(rule: Any, **more: Any) -> Slice:
    return Slice(kind="slice", by=rule, max_drop=0.1, **more)


def test_a_class_is_what_a_chip_shows() -> None:
    assert found(by("class")) == {"a": "1010", "b": "0101"}
    assert found(by("class"), "maps") == {"a": "1010", "b": "0110"}
    assert found(by("class"), "boxes") == {"a": "1100", "b": "0100"}


def test_groups_are_scenes_of_maps_and_groups_of_boxes() -> None:
    assert found(by("group"), "boxes") == {"a": "1010", "b": "0101"}
    assert list(found(by("group"), "maps").values()) == ["0001", "0100", "1000", "0010"]
    with pytest.raises(NotApplicable, match="images of folders have no group: slice by place"):
        found(by("group"))


def test_places_are_squares_of_ground() -> None:
    squares = found(by("place"))
    assert squares == {"EPSG:32633 0 0": "1100", "EPSG:32633 10000 0": "0011"}
    assert len(found(by("place", edge=50_000.0))) == 1
    with pytest.raises(NotApplicable, match="without a position"):
        found(by("place"), placed=False)


def test_brightness_is_cut_into_equal_parts() -> None:
    halves = found(by("brightness", parts=2))
    assert halves == {
        "part 1 of 2, darkest first": "1100",
        "part 2 of 2, darkest first": "0011",
    }


def test_a_size_is_that_of_the_largest_object() -> None:
    assert found(by("size"), "boxes") == {"nothing": "0011", "small": "0100", "tiny": "1000"}
    with pytest.raises(NotApplicable, match="only objects in boxes have a size"):
        found(by("size"), "maps")


def test_months_and_seasons_come_from_the_names_of_the_images() -> None:
    months = found(Season(kind="season", max_drop=0.1))
    assert months == {"month 01": "1000", "month 07": "0110", "month 08": "0001"}
    seasons = found(Season(kind="season", by="season", max_drop=0.1))
    assert seasons == {"December to February": "1000", "June to August": "0111"}
    with pytest.raises(NotApplicable, match="not every image has a date in its name"):
        found(Season(kind="season", max_drop=0.1), dates=False)


def test_a_slice_without_a_chip_is_a_mistake() -> None:
    assert found(by("class", only=["b"])) == {"b": "0101"}
    with pytest.raises(ParameterError) as error:
        found(by("class", only=["b", "c"]))
    assert str(error.value) == (
        "tests.yaml: tests.mine.only: 'c' has no test chip, or is no class: use some of a, b"
    )
