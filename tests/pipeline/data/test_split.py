"""Which chip goes where: shares, stability, blocks, and nothing that leaks."""

from collections import Counter
from typing import Any

import pytest

from pipeline.data.chip_table import Row
from pipeline.data.dataset import SPLITS
from pipeline.data.split import assign, block
from pipeline.errors import DataError
from pipeline.params import Preprocess

CLASSES = ("a", "b")


def params(**changes: Any) -> Preprocess:
    settings: dict[str, Any] = {
        "split": "random",
        "test_fraction": 0.2,
        "validation_fraction": 0.1,
        "block_size": 1000.0,
        "seed": 42,
    }
    return Preprocess(**(settings | changes))


def rows(each: int, classes: tuple[str, ...] = CLASSES) -> list[Row]:
    """Chips on a grid of 500 m, so that a block of 1000 m holds four."""
    return [
        Row(
            row=0,
            path=f"{name}/{index}.png",
            label=name,
            sha256=f"{name}{index}",
            crs="EPSG:32633",
            centre=(250.0 + 500 * (index % 20), 250.0 + 500 * (index // 20) + 100_000 * c),
        )
        for c, name in enumerate(classes)
        for index in range(each)
    ]


def test_a_random_split_holds_out_the_same_share_of_every_class() -> None:
    found = Counter((row.label, row.split) for row in assign(rows(100), CLASSES, params()))
    for name in CLASSES:
        assert [found[name, split] for split in SPLITS] == [70, 10, 20]


def test_one_seed_gives_one_split_and_another_seed_another() -> None:
    assert assign(rows(50), CLASSES, params()) == assign(rows(50), CLASSES, params())
    assert assign(rows(50), CLASSES, params()) != assign(rows(50), CLASSES, params(seed=1))


def test_added_chips_leave_most_others_where_they_were() -> None:
    before = {r.path: r.split for r in assign(rows(100), CLASSES, params())}
    after = {r.path: r.split for r in assign(rows(110), CLASSES, params())}
    moved = sum(before[path] != after[path] for path in before)
    assert moved <= 0.05 * len(before)


@pytest.mark.parametrize("split", ["random", "spatial"])
def test_copies_of_an_image_never_stand_in_two_splits(split: str) -> None:
    chips = rows(100)
    copies = [row._replace(path=f"copy-{row.path}", centre=(9e5, 9e5)) for row in chips[::3]]
    splits_of: dict[str, set[str]] = {}
    for row in assign(chips + copies, CLASSES, params(split=split)):
        splits_of.setdefault(row.sha256, set()).add(row.split)
    assert all(len(found) == 1 for found in splits_of.values())
    assert len(splits_of) == 200


def test_no_two_splits_share_a_block() -> None:
    splits_of: dict[str, set[str]] = {}
    assigned = assign(rows(200), CLASSES, params(split="spatial"))
    for row in assigned:
        splits_of.setdefault(block(row, 1000.0), set()).add(row.split)
    assert all(len(found) == 1 for found in splits_of.values())
    shares = Counter(row.split for row in assigned)
    assert shares["test"] == pytest.approx(0.2 * 400, abs=8)


def test_a_spatial_split_needs_positions() -> None:
    chips = [row._replace(centre=None) for row in rows(10)]
    with pytest.raises(DataError, match="has no position.*or set it to random"):
        assign(chips, CLASSES, params(split="spatial"))


def feedback(index: int, name: str = "a", **fields: Any) -> Row:
    path = f"{name}/feedback-{index:016x}-20260501120000.npy"
    return Row(row=0, path=path, label=name, sha256=f"feedback {index}")._replace(**fields)


def test_a_spatial_split_trains_on_feedback_and_leaves_the_others_where_they_were() -> None:
    chips = rows(100)
    before = assign(chips, CLASSES, params(split="spatial"))
    brought = [feedback(index, "ab"[index % 2]) for index in range(60)]
    brought.append(feedback(0, path="a/feedback-00000000000000ff.npy", sha256="without a time"))
    after = assign(chips + brought, CLASSES, params(split="spatial"))
    assert after[:200] == before
    assert [(row.path, row.split) for row in after[200:]] == [(r.path, "train") for r in brought]


def test_a_spatial_split_never_trains_on_feedback_that_is_a_held_out_image() -> None:
    chips = rows(100)
    copies = [feedback(i, row.label, sha256=row.sha256) for i, row in enumerate(chips)]
    assigned = assign(chips + copies, CLASSES, params(split="spatial"))
    held_out = {row.sha256 for row in assigned if row.split != "train"}
    kept = [row for row in assigned if "feedback-" in row.path]
    assert held_out and len(kept) == 200 - len(held_out)
    assert not held_out & {row.sha256 for row in kept}


@pytest.mark.parametrize("name", ["feedback.npy", "feedback-1.npy", "my-feedback-0000.npy"])
def test_a_name_that_only_looks_like_feedback_needs_a_position(name: str) -> None:
    with pytest.raises(DataError, match=f"{name} has no position"):
        assign([*rows(100), feedback(0, path=f"a/{name}")], CLASSES, params(split="spatial"))


def test_a_predefined_split_is_taken_from_the_folders() -> None:
    chips = [
        row._replace(path=f"{split}/{row.path}", sha256=f"{split}{row.sha256}")
        for split in SPLITS
        for row in rows(3)
    ]
    for row in assign(chips, CLASSES, params(split="predefined")):
        assert row.path.startswith(row.split)


def test_a_predefined_split_never_trains_on_a_test_image() -> None:
    chips = [row._replace(path=f"{split}/{row.path}") for split in SPLITS for row in rows(3)]
    with pytest.raises(DataError, match="none in train and validation"):
        assign(chips, CLASSES, params(split="predefined"))


def test_a_predefined_split_needs_its_folders() -> None:
    with pytest.raises(DataError, match="is in no split"):
        assign(rows(10), CLASSES, params(split="predefined"))


@pytest.mark.parametrize("each", [1, 2])
def test_a_class_with_too_few_images_is_named(each: int) -> None:
    chips = rows(20, ("a",)) + rows(each, ("b",))
    with pytest.raises(DataError, match=rf"class b \({each} chips\).*three different ones"):
        assign(chips, CLASSES, params())


def test_three_images_of_a_class_are_enough() -> None:
    chips = rows(20, ("a",)) + rows(3, ("b",))
    found = Counter((row.label, row.split) for row in assign(chips, CLASSES, params()))
    assert all(found["b", split] == 1 for split in SPLITS)
