"""The spatial split of label maps: blocks of ground, a strip between them, all dates alike."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from contracts.bundle import NODATA
from pipeline.data.blocks import assign
from pipeline.data.chip_table import Row
from pipeline.data.places import place
from pipeline.errors import DataError
from pipeline.params import Preprocess
from tests.make.label_maps import SIZE, dataset

ACROSS = 8  # chips of 160 m, in each direction


def params(**changes: Any) -> Preprocess:
    settings: dict[str, Any] = {
        "split": "auto",
        "test_fraction": 0.25,
        "validation_fraction": 0.15,
        "block_size": 160.0,
        "buffer": 0.0,
        "seed": 1,
    }
    return Preprocess(**(settings | changes))


def rows(scene: str = "a", shift: float = 0.0) -> list[Row]:
    """Chips side by side, `shift` metres east of the grid of blocks."""
    return [
        Row(
            row=line * ACROSS + column,
            path=f"images/{scene}.tif",
            label="",
            sha256=f"{scene} {line} {column}",
            crs="EPSG:32633",
            centre=(160.0 * column + 80 + shift, 160.0 * line + 80),
        )
        for line in range(ACROSS)
        for column in range(ACROSS)
    ]


def labels(known: float = 1.0) -> npt.NDArray[np.uint8]:
    """A chessboard of two classes; a share of the pixels has no label."""
    board = np.indices((SIZE, SIZE)).sum(axis=0) % 2
    found = np.broadcast_to(board, (ACROSS**2, SIZE, SIZE)).astype(np.uint8)
    return np.where(np.random.default_rng(0).random(found.shape) < known, found, np.uint8(NODATA))


def ranks(chips: list[Row], **changes: Any) -> npt.NDArray[np.int64]:
    return np.stack([r for _, r in assign(chips, labels(), dataset(), params(**changes))])


def shares(found: npt.NDArray[np.int64]) -> list[float]:
    return [float((found == rank).mean()) for rank in (-1, 0, 1, 2)]


def test_whole_blocks_go_to_one_split_in_the_shares_that_were_asked_for() -> None:
    found = ranks(rows())
    assert all(len(np.unique(chip)) == 1 for chip in found), "a chip is a block here"
    assert shares(found) == pytest.approx([0, 0.60, 0.15, 0.25], abs=0.02)


def test_a_chip_across_blocks_stands_in_several_splits_pixel_by_pixel() -> None:
    found = ranks(rows(shift=80.0))
    assert sum(len(np.unique(chip)) > 1 for chip in found) > 10
    left, right = found[..., : SIZE // 2], found[..., SIZE // 2 :]
    assert all(len(np.unique(half)) == 1 for chip in (left, right) for half in chip)


def test_every_date_of_a_place_is_in_the_same_split() -> None:
    dates = [*rows("may"), *rows("june")]
    two = np.concatenate([labels(), labels()])
    chips = [row._replace(row=index) for index, row in enumerate(dates)]
    found = np.stack([r for _, r in assign(chips, two, dataset(), params())])
    assert (found[: ACROSS**2] == found[ACROSS**2 :]).all()


def test_what_is_near_a_held_out_block_is_in_no_split() -> None:
    plain, found = ranks(rows()), ranks(rows(), buffer=30.0)
    assert ((found == plain) | (found == -1)).all(), "a buffer moves nothing to another split"
    assert ((plain == 2) == (found == 2)).all(), "the furthest held-out blocks stay whole"

    def whole(of: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        tiles = of.reshape(ACROSS, ACROSS, SIZE, SIZE)[::-1]  # north up
        return tiles.transpose(0, 2, 1, 3).reshape(ACROSS * SIZE, -1)

    trained, tested = whole(found) == 0, whole(plain) == 2
    for line, column in zip(*np.nonzero(tested), strict=True):
        near = trained[max(0, line - 2) : line + 3, max(0, column - 2) : column + 3]
        assert not near.any()
    assert trained.any()


def test_blocks_are_weighed_by_their_labelled_pixels() -> None:
    known = labels()
    known[:32] = NODATA
    found = np.stack([r for _, r in assign(rows(), known, dataset(), params())])
    assert shares(found[32:]) == pytest.approx([0, 0.60, 0.15, 0.25], abs=0.04)


def test_a_random_split_takes_whole_chips() -> None:
    found = ranks(rows(), split="random")
    assert all(len(np.unique(chip)) == 1 for chip in found)
    assert shares(found) == pytest.approx([0, 0.60, 0.15, 0.25], abs=0.02)


def test_a_split_of_ones_own_is_read_from_the_folders() -> None:
    chips = [
        row._replace(path=f"{('train', 'validation', 'test')[row.row % 3]}/images/a.tif")
        for row in rows()
    ]
    assert [int(chip[0, 0]) for chip in ranks(chips, split="predefined")[:3]] == [0, 1, 2]
    with pytest.raises(DataError, match="data/images/a.tif is in no split.*set it to spatial"):
        ranks(rows(), split="predefined")


def test_a_class_that_is_missing_somewhere_is_named() -> None:
    known = labels()
    known[known == 1] = 0
    known[0, 0, 0] = 1
    with pytest.raises(DataError, match=r"class high \(1 pixels\) has none in .*block_size"):
        list(assign(rows(), known, dataset(), params()))


def test_a_buffer_that_is_wider_than_a_block_is_refused() -> None:
    with pytest.raises(DataError, match="preprocess.buffer is 240 m, more than a block of 160 m"):
        ranks(rows(), buffer=240.0)


def test_the_blocks_of_a_chip_are_named_by_grid_and_size() -> None:
    chip = rows()[ACROSS + 1]
    names = [name for name, _ in place(chip, dataset(), 80).names()]
    assert names == [f"EPSG:32633 80 m {x} {y}" for y in (2, 3) for x in (2, 3)]
    inside = [mask.mean() for _, mask in place(chip, dataset(), 80).names()]
    assert inside == [0.25] * 4
