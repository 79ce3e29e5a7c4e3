"""Augmentation: only views that land cover really has, and all of them."""

import numpy as np
import pytest
import torch

from pipeline.data import masks
from pipeline.training.augment import augment as augment_both
from pipeline.training.augment import noisy, resize, resize_labels, size_in, zoomed


def augment(chips: torch.Tensor, max_shift: int, brightness: float) -> torch.Tensor:
    """Views of chips with a class each."""
    labels = torch.arange(len(chips))
    views, same = augment_both(chips, labels, max_shift, brightness)
    assert torch.equal(same, labels)
    return views


def turned(chip: torch.Tensor) -> set[tuple[float, ...]]:
    """The eight symmetries of a chip (1, H, W)."""
    return {
        tuple(view.rot90(turns, (1, 2)).flatten().tolist())
        for view in (chip, chip.flip(2))
        for turns in range(4)
    }


def test_all_eight_symmetries_appear_and_nothing_else() -> None:
    torch.manual_seed(0)
    chip = torch.arange(9.0).view(1, 3, 3)
    seen = {
        tuple(view.flatten().tolist())
        for view in augment(chip.expand(400, 1, 3, 3).clone(), max_shift=0, brightness=0)
    }
    assert seen == turned(chip)


def test_without_mirrors_north_stays_up_and_labels_keep_their_side() -> None:
    torch.manual_seed(0)
    chips = torch.rand(50, 2, 9, 9)
    maps = torch.randint(0, 4, (50, 9, 9))
    views, labels = augment_both(chips, maps, 0, 0, mirror=False)
    assert torch.equal(views, chips) and torch.equal(labels, maps)
    moved = augment_both(chips, maps, 3, 0, mirror=False)[0]
    assert not torch.equal(moved, chips), "a shift is no mirror"


def test_noise_is_a_share_of_the_deviation_of_each_band() -> None:
    torch.manual_seed(0)
    deviation = torch.tensor([10.0, 200.0]).view(1, 2, 1, 1)
    added = noisy(torch.full((20, 2, 32, 32), 1000.0), deviation, 0.5) - 1000
    assert added.std(dim=(0, 2, 3)).tolist() == pytest.approx([5, 100], rel=0.03)
    assert added.mean(dim=(0, 2, 3)).abs().tolist() == pytest.approx([0, 0], abs=3)


def test_a_shift_moves_by_at_most_the_limit_and_mirrors_the_edge() -> None:
    torch.manual_seed(0)
    chips = torch.zeros(500, 1, 33, 33)
    chips[:, :, 16, 16] = 1
    places = augment(chips, max_shift=4, brightness=0).flatten(1).argmax(dim=1)
    rows, columns = places // 33 - 16, places % 33 - 16
    assert [rows.min(), rows.max(), columns.min(), columns.max()] == [-4, 4, -4, 4]
    flat = torch.full((50, 2, 16, 16), 7.0)
    assert torch.equal(augment(flat, max_shift=5, brightness=0), flat)


def test_brightness_is_one_gain_for_the_whole_chip() -> None:
    torch.manual_seed(0)
    chips = torch.rand(300, 3, 8, 8) + 1
    total = chips.sum(dim=(1, 2, 3))
    gains = augment(chips, max_shift=0, brightness=0.2).sum(dim=(1, 2, 3)) / total
    assert 0.8 <= gains.min() < 0.85 and 1.15 < gains.max() <= 1.2
    ratio = augment(chips, 0, 0.2)[:, 0].sum((1, 2)) / chips[:, 0].sum((1, 2))
    other = augment(chips, 0, 0.0)[:, 0].sum((1, 2)) / chips[:, 0].sum((1, 2))
    assert ratio.std() > 0.05 and other.tolist() == pytest.approx([1.0] * 300, abs=1e-4)


def test_one_seed_gives_one_view() -> None:
    chips = torch.rand(16, 3, 16, 16)
    torch.manual_seed(5)
    first = augment(chips, 3, 0.1)
    torch.manual_seed(5)
    assert torch.equal(first, augment(chips, 3, 0.1))


def test_chips_grow_to_their_full_size_and_stay_there() -> None:
    sizes = [size_in(epoch, 10, 64) for epoch in range(1, 11)]
    assert sizes == [32, 32, 32, 32, 32, 48, 48, 64, 64, 64]
    assert size_in(1, 1, 64) == size_in(2, 2, 64) == size_in(3, 3, 64) == 64


def test_shrinking_averages() -> None:
    chips = torch.rand(4, 3, 64, 64)
    small = resize(chips, 32)
    assert small.shape == (4, 3, 32, 32)
    assert small.mean().item() == pytest.approx(chips.mean().item(), abs=1e-3)
    assert small.std() < 0.75 * chips.std()
    assert resize(chips, 64) is chips


def test_each_band_has_a_gain_of_its_own() -> None:
    torch.manual_seed(0)
    views = augment_both(torch.ones(50, 3, 8, 8), torch.zeros(50).long(), 0, 0, colour=0.2)[0]
    gains = views[:, :, 0, 0]
    assert torch.equal(views, gains[..., None, None].expand_as(views))
    assert gains.min() >= 0.8 and gains.max() <= 1.2 and gains.std(dim=1).min() > 0


def test_a_step_is_zoomed_to_a_multiple_of_the_stride() -> None:
    torch.manual_seed(0)
    assert zoomed(64, 0, 16) == 64
    edges = {zoomed(128, 0.25, 16) for _ in range(100)}
    assert edges == {96, 112, 128, 144, 160}
    assert zoomed(8, 0.5, 16) == 16
    labels = torch.arange(8).expand(1, 8, 8)
    assert resize_labels(labels, 16, 8)[0, 0].tolist() == [n // 2 for n in range(16)]


def test_a_label_map_moves_with_its_chip() -> None:
    torch.manual_seed(0)
    chips = torch.arange(64.0).view(1, 1, 8, 8).expand(50, 1, 8, 8)
    views, labels = augment_both(chips, chips[:, 0].long(), max_shift=3, brightness=0)
    assert torch.equal(views[:, 0].long(), labels)
    assert len({tuple(label.flatten().tolist()) for label in labels}) > 10


def test_a_label_map_shrinks_to_the_pixels_in_the_middle() -> None:
    labels = torch.arange(8).expand(1, 8, 8)
    assert resize_labels(labels, 4, 8)[0, 0].tolist() == [1, 3, 5, 7]
    assert torch.equal(resize_labels(labels, 8, 8), labels)


def test_boxes_move_with_their_chips() -> None:
    torch.manual_seed(0)
    chips = torch.zeros(200, 1, 16, 16)
    chips[:, :, 4:7, 5:10] = 1  # left 5, top 4, right 10, bottom 7
    boxes = torch.full((200, 3, 5), -1.0)
    boxes[:, 0] = torch.tensor([2.0, 5, 4, 10, 7])
    views, moved = augment_both(chips, boxes, max_shift=3, brightness=0)
    assert torch.equal(moved[:, 1:, 0], boxes[:, 1:, 0]) and (moved[:, 0, 0] == 2).all()
    for view, (left, top, right, bottom) in zip(views[:, 0], moved[:, 0, 1:].int(), strict=True):
        expected = torch.zeros(16, 16)
        expected[top:bottom, left:right] = 1
        assert torch.equal(view, expected)
    assert len({tuple(box.tolist()) for box in moved[:, 0]}) > 50


def test_masks_move_with_their_chips_and_are_cut_with_their_boxes() -> None:
    torch.manual_seed(0)
    drawn = np.zeros((16, 16), bool)
    drawn[1:7, 5:10], drawn[1:3, 7:10] = True, False  # an angle, a pixel from the upper edge
    chips = torch.from_numpy(drawn).float().expand(200, 1, 16, 16)
    box = np.array([5.0, 1, 10, 7])
    label = torch.tensor([2.0, *box, *masks.pack(masks.sample(drawn, box))])
    labels = torch.full((200, 2, masks.WIDTH), -1.0)
    labels[:, 0] = label
    views, moved = augment_both(chips, labels, max_shift=3, brightness=0)
    assert (moved[:, 1, 0] == -1).all()
    cut = 0
    for view, found in zip(views[:, 0].bool().numpy(), moved[:, 0].numpy(), strict=True):
        left, top, right, bottom = found[1:5].astype(int)
        expected = np.zeros_like(view)
        expected[top:bottom, left:right] = view[top:bottom, left:right]
        assert np.array_equal(masks.draw(masks.unpack(found[5:]), found[1:5], 16), expected)
        cut += (right - left) * (bottom - top) < 30
    assert 0 < cut < 100, "some have lost a part"


def test_a_box_that_leaves_its_chip_is_none() -> None:
    torch.manual_seed(0)
    boxes = torch.full((50, 1, 5), 0.0)
    boxes[:, 0, 1:] = torch.tensor([0.0, 0, 2, 2])
    _, moved = augment_both(torch.zeros(50, 1, 16, 16), boxes, max_shift=4, brightness=0)
    gone = moved[:, 0, 0] == -1
    assert gone.any() and not gone.all()
    assert ((moved[..., 1:] >= 0) & (moved[..., 1:] <= 16)).all()


def test_boxes_shrink_with_their_chips() -> None:
    boxes = torch.tensor([[[1.0, 4, 8, 12, 16], [-1.0, 0, 0, 0, 0]]])
    assert resize_labels(boxes, 32, 64)[0, 0].tolist() == [1, 2, 4, 6, 8]
    assert torch.equal(resize_labels(boxes, 64, 64), boxes)


def test_chips_keep_to_the_stride_of_the_network() -> None:
    assert [size_in(epoch, 10, 24, stride=8) for epoch in (1, 6, 10)] == [16, 16, 24]
