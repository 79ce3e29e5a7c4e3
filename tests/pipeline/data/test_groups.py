"""Images with boxes are split by their group: a place is in one split alone."""

from collections import Counter

import numpy as np
import pytest

from pipeline.data.chip_table import Row
from pipeline.data.dataset import MOST_OBJECTS, Dataset
from pipeline.data.groups import assign
from pipeline.errors import DataError
from pipeline.params import Preprocess
from tests.make.label_maps import dataset as label_maps

PARAMS = {
    "split": "auto",
    "test_fraction": 0.2,
    "validation_fraction": 0.1,
    "block_size": 100.0,
    "seed": 0,
}


def dataset(classes: tuple[str, ...] = ("ship",)) -> Dataset:
    return label_maps().model_copy(update={"labels": "boxes", "classes": classes, "colours": ()})


def rows(groups: dict[str, int]) -> list[Row]:
    """So many images of each group, each with an object."""
    names = [name for name, count in groups.items() for _ in range(count)]
    return [Row(n, f"images/{n}.tif", name, f"{n:064x}") for n, name in enumerate(names)]


def labels(count: int) -> np.ndarray:
    found = np.full((count, MOST_OBJECTS, 5), -1, np.float32)
    found[:, 0] = (0, 1, 1, 9, 9)
    return found


def split(groups: dict[str, int], **changes: object) -> list[Row]:
    some = rows(groups)
    return assign(some, labels(len(some)), dataset(), Preprocess.model_validate(PARAMS | changes))


@pytest.mark.parametrize("seed", range(8))
def test_no_group_is_in_two_splits_and_each_split_has_one(seed: int) -> None:
    for groups in ({"a": 9, "b": 9, "c": 9}, {"a": 50, "b": 3, "c": 3, "d": 20, "e": 9}):
        found = split(groups, seed=seed)
        assert len(found) == sum(groups.values())
        splits_of = {name: {row.split for row in found if row.label == name} for name in groups}
        assert all(len(splits) == 1 for splits in splits_of.values())
        assert set.union(*splits_of.values()) == {"train", "validation", "test"}


def test_about_the_wanted_share_is_held_out() -> None:
    counts = Counter(row.split for row in split({f"g{n}": 10 for n in range(30)}))
    assert counts == {"test": 60, "validation": 30, "train": 210}


@pytest.mark.parametrize("rule", ["auto", "random"])
def test_images_of_feedback_only_train(rule: str) -> None:
    for seed in range(5):
        some = rows({"a": 5, "b": 5, "c": 5, "feedback": 9})
        name = f"images/feedback-{'0' * 16}-20260501120000.npy"
        some = [row._replace(path=name) if row.label == "feedback" else row for row in some]
        params = Preprocess.model_validate(PARAMS | {"split": rule, "seed": seed})
        found = assign(some, labels(len(some)), dataset(), params)
        assert {row.split for row in found if row.path == name} == {"train"}
        assert {row.split for row in found} == {"train", "validation", "test"}


def test_two_groups_cannot_be_split() -> None:
    with pytest.raises(DataError, match="are of 2 groups .a, b., and train, validation, test need"):
        split({"a": 30, "b": 30})
    assert {row.split for row in split({"a": 30, "b": 30}, split="random")} == {
        "train",
        "validation",
        "test",
    }


def test_a_copy_in_two_groups_is_held_out_and_not_trained_on() -> None:
    some = [row._replace(sha256="0" * 64) for row in rows({"a": 1, "b": 1, "c": 1})]
    with pytest.raises(DataError, match="class ship .1 objects. has none in train and validation"):
        assign(some, labels(3), dataset(), Preprocess.model_validate(PARAMS))


def test_every_split_needs_every_class() -> None:
    some = rows({"a": 9, "b": 9, "c": 9})
    with pytest.raises(DataError, match="class tank .0 objects. has none in train and validation"):
        assign(some, labels(27), dataset(("ship", "tank")), Preprocess.model_validate(PARAMS))


def test_a_predefined_split_is_that_of_the_folders() -> None:
    folders = ("train", "validation", "test")
    some = [Row(n, f"{name}/images/{n}.tif", "a", f"{n:064x}") for n, name in enumerate(folders)]
    params = Preprocess.model_validate(PARAMS | {"split": "predefined"})
    assert [row.split for row in assign(some, labels(3), dataset(), params)] == list(folders)
    with pytest.raises(DataError, match="data/images/0.tif is in no split"):
        split({"a": 3}, split="predefined")


def test_a_split_by_position_is_for_other_data() -> None:
    with pytest.raises(DataError, match="images with boxes are split by their group"):
        split({"a": 3, "b": 3, "c": 3}, split="spatial")
