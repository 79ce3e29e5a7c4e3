"""Augmentation: only views that land cover really has, and all of them."""

import pytest
import torch

from pipeline.training.augment import augment as augment_both
from pipeline.training.augment import resize, resize_labels, size_in


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


def test_a_label_map_moves_with_its_chip() -> None:
    torch.manual_seed(0)
    chips = torch.arange(64.0).view(1, 1, 8, 8).expand(50, 1, 8, 8)
    views, labels = augment_both(chips, chips[:, 0].long(), max_shift=3, brightness=0)
    assert torch.equal(views[:, 0].long(), labels)
    assert len({tuple(label.flatten().tolist()) for label in labels}) > 10


def test_a_label_map_shrinks_to_the_pixels_in_the_middle() -> None:
    labels = torch.arange(8).expand(1, 8, 8)
    assert resize_labels(labels, 4)[0, 0].tolist() == [1, 3, 5, 7]
    assert torch.equal(resize_labels(labels, 8), labels)


def test_chips_keep_to_the_stride_of_the_network() -> None:
    assert [size_in(epoch, 10, 24, stride=8) for epoch in (1, 6, 10)] == [16, 16, 24]
