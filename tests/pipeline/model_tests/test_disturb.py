"""Disturbances: physical values change, nodata stays, and answers come back to their ground."""

import numpy as np
import pytest

from contracts.bundle import NODATA
from pipeline.data import masks
from pipeline.data.chip_table import Row
from pipeline.data.prepared import Split
from pipeline.model_tests.disturb import Move, gain, noise
from tests.make.datasets import SIZE, dataset

MOVES = [
    Move(is_flipped=True),
    Move(is_flipped=True, quarters=2),
    Move(quarters=1),
    Move(quarters=2),
    Move(quarters=3),
    Move(down=2, right=-3),
    Move(down=-1),
]


def ground(seed: int = 0) -> np.ndarray:
    """Two chips of noise with a bright rectangle, and a pixel without data."""
    chips = np.random.default_rng(seed).integers(100, 200, (2, 2, SIZE, SIZE)).astype(np.uint16)
    chips[:, :, 4:8, 5:11] = 900
    chips[:, :, 9, 9] = 0
    return chips


def test_a_gain_is_of_the_physical_value_and_leaves_what_has_no_data() -> None:
    chips = ground()
    brighter = gain(dataset(offset=-50), 1.1)(chips, 0)
    expected = np.rint((chips.astype(float) - 50) * 1.1 + 50).clip(1, 1000)
    expected[:, :, 9, 9] = 0
    assert brighter.dtype == np.uint16 and np.array_equal(brighter, expected)
    assert gain(dataset(), 5)(chips, 0).max() == 1000, "a sensor saturates"
    darkest = gain(dataset(), 1e-6)(chips, 0)
    assert ((darkest == 0) == (chips == 0)).all(), "no pixel loses its data"


def test_noise_has_its_strength_and_is_the_same_each_time() -> None:
    chips = np.full((3, 2, 64, 64), 500, np.uint16)
    rule = noise(dataset(), 0.2)
    changed = rule(chips, 0).astype(float) - 500
    assert changed.std() == pytest.approx(20, rel=0.03) and abs(changed.mean()) < 0.5
    assert np.array_equal(rule(chips, 0)[1:], rule(chips[1:], 1)), "whatever the batches are"
    assert not np.array_equal(rule(chips, 0)[0], rule(chips, 0)[1])
    one = noise(dataset(), 0.2, band=1)(chips, 0)
    assert (one[:, 0] == 500).all() and (one[:, 1] != 500).any()


@pytest.mark.parametrize("move", MOVES, ids=str)
def test_maps_of_moved_chips_come_back_to_their_pixels(move: Move) -> None:
    data, chips = dataset("maps"), ground()
    moved = move.rule(data)(chips, 0)
    assert moved.shape == chips.shape and not np.array_equal(moved, chips)
    back = move.back({"labels": (moved[:, 0] > 800).astype(np.uint8)}, data)["labels"]
    known = back != NODATA
    assert np.array_equal(back[known], (chips[:, 0] > 800)[known])
    lost = abs(move.down) * SIZE + abs(move.right) * SIZE - abs(move.down * move.right)
    assert (~known).sum() == 2 * lost
    clean = {"labels": (chips[:, 0] > 800).astype(np.uint8)}
    split = Split(chips, clean["labels"], [])
    seen, same = move.seen(clean, split, data)
    assert np.array_equal(seen["labels"] != NODATA, known) and same is split


@pytest.mark.parametrize("move", MOVES, ids=str)
def test_boxes_of_moved_chips_come_back_to_their_objects(move: Move) -> None:
    data, chips = dataset("boxes"), ground()
    moved = move.rule(data)(chips, 0)
    lines, columns = np.nonzero(moved[0, 0] > 800)
    box = [columns.min(), lines.min(), columns.max() + 1, lines.max() + 1]
    boxes = np.array([[box]] * 2, np.float32)
    assert move.back({"boxes": boxes}, data)["boxes"][0, 0].tolist() == [5, 4, 11, 8]


@pytest.mark.parametrize("move", MOVES)
def test_masks_of_moved_chips_come_back_with_their_boxes(move: Move) -> None:
    data = dataset("masks")
    chips = np.ones((1, 1, data.size, data.size), np.uint16)
    chips[0, 0, 4:8, 5:11], chips[0, 0, 4:6, 8:11] = 1000, 1  # an angle
    moved = move.rule(data)(chips, 0)[0, 0] > 800
    lines, columns = np.nonzero(moved)
    box = np.array([columns.min(), lines.min(), columns.max() + 1, lines.max() + 1], np.float32)
    output = {"boxes": box[None, None], "masks": masks.sample(moved, box)[None, None]}
    back = move.back(output, data)
    drawn = masks.draw(back["masks"][0, 0], back["boxes"][0, 0], data.size)
    assert np.array_equal(drawn, chips[0, 0] == 1000)


def test_a_mask_that_leaves_the_chip_is_cut_with_its_box() -> None:
    data, move = dataset("masks"), Move(down=-5)  # lines 0 to 5 leave
    drawn = np.zeros((data.size, data.size), bool)
    drawn[4:8, 5:11], drawn[4:6, 8:11] = True, False
    box = np.array([5, 4, 11, 8], np.float32)
    labels = np.full((1, 3, masks.WIDTH), -1, np.float32)
    labels[0, 0] = (0, *box, *masks.pack(masks.sample(drawn, box)))
    output = {
        "boxes": labels[:, :, 1:5],
        "scores": np.array([[0.9, 0, 0]], np.float32),
        "masks": masks.unpack(labels[..., 5:]),
    }
    rows = [Row(0, "a", "a", "0" * 64)]
    seen, split = move.seen(output, Split(ground()[:1], labels, rows), data)
    assert split.labels[0, 0, :5].tolist() == [0, 5, 5, 11, 8]
    drawn[:5] = False
    for cells in (seen["masks"][0, 0], masks.unpack(split.labels[0, 0, 5:])):
        assert np.array_equal(masks.draw(cells, split.labels[0, 0, 1:5], data.size), drawn)


def test_an_object_that_leaves_the_chip_is_asked_of_no_one() -> None:
    data, move = dataset("boxes"), Move(down=-5)  # lines 0 to 5 leave; the centre of one is 6
    labels = np.full((1, 3, 5), -1, np.float32)
    labels[0, 0], labels[0, 1] = (0, 5, 4, 11, 8), (1, 0, 0, 4, 4)
    boxes = labels[:, :, 1:].copy()
    output = {"boxes": boxes, "scores": np.array([[0.9, 0.8, 0]], np.float32)}
    rows = [Row(0, "a", "a", "0" * 64)]
    seen, split = move.seen(output, Split(ground()[:1], labels, rows), data)
    assert split.labels[0, 0].tolist() == [0, 5, 5, 11, 8], "cut off where the chip ends"
    assert split.labels[0, 1, 0] == -1
    assert seen["scores"].tolist() == [[pytest.approx(0.9), 0, 0]]


def test_a_class_of_a_chip_does_not_move() -> None:
    data, chips = dataset(), ground()
    output = {"probabilities": np.eye(2, dtype=np.float32)}
    move = Move(down=1)
    assert move.back(output, data)["probabilities"] is output["probabilities"]
    split = Split(chips, np.array([0, 1]), [])
    assert move.seen(output, split, data) == (output, split)
    moved = move.rule(data)(chips, 0)
    assert np.array_equal(moved[:, :, 1:], chips[:, :, :-1]), "and what enters is the mirrored edge"
    assert np.array_equal(moved[:, :, 0], chips[:, :, 1])
