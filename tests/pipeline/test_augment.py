"""Augmentation: only views that land cover really has, and all of them."""

import pytest
import torch

from pipeline.augment import augment


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
