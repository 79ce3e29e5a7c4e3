"""Random views of training chips, as tensors on the device of the data.

Land cover looks the same from every side: seen from above a chip may be mirrored, turned by
quarters and moved. Light differs from day to day: the whole chip may be brighter or darker.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

# Until which share of the epochs chips are shrunk to which share of their size. Coarse shapes are
# learned first, at a quarter of the cost; docs/benchmarks.md has what it gains.
SIZES = ((0.5, 0.5), (0.7, 0.75), (1.0, 1.0))


def size_in(epoch: int, epochs: int, size: int) -> int:
    """Edge of a training chip, pixels, in the epoch 1..epochs; the last one is at full size."""
    return round(size * next(share for until, share in SIZES if epoch <= until * epochs))


def resize(chips: Tensor, size: int) -> Tensor:
    """Shrink chips (B, bands, H, W) to (B, bands, size, size) by averaging."""
    if size == chips.shape[2]:
        return chips
    return F.interpolate(chips, size=(size, size), mode="bilinear", antialias=True)


def augment(chips: Tensor, max_shift: int, brightness: float) -> Tensor:
    """Mirror, turn, move and brighten each chip at random.

    Args:
        chips: (B, bands, H, W), H = W, float.
        max_shift: largest shift, pixels; what enters at the edge is the mirrored inside.
        brightness: largest relative gain; one for the whole chip, so that colours stay.
    """
    chips = _turn(chips)
    if max_shift:
        chips = _shift(chips, max_shift)
    if brightness:
        gain = torch.empty(len(chips), 1, 1, 1).uniform_(1 - brightness, 1 + brightness)
        chips = chips * gain.to(chips.device)
    return chips


def _turn(chips: Tensor) -> Tensor:
    """One of the eight symmetries of the square for each chip: transpose, flip, flip."""
    transpose, upside, sideways = torch.rand(3, len(chips), 1, 1, 1).to(chips.device) < 0.5
    chips = torch.where(transpose, chips.transpose(2, 3), chips)
    chips = torch.where(upside, chips.flip(2), chips)
    return torch.where(sideways, chips.flip(3), chips)


def _shift(chips: Tensor, most: int) -> Tensor:
    """Move each chip by up to `most` pixels along both axes."""
    size = chips.shape[2]
    padded = F.pad(chips, (most,) * 4, mode="reflect")
    top, left = torch.randint(0, 2 * most + 1, (2, len(chips))).to(chips.device)  # (B,) each
    line = torch.arange(size, device=chips.device)
    batch = torch.arange(len(chips), device=chips.device).view(-1, 1, 1)
    rows = (top.view(-1, 1) + line).unsqueeze(2)  # (B, H, 1)
    columns = (left.view(-1, 1) + line).unsqueeze(1)  # (B, 1, W)
    return padded.permute(0, 2, 3, 1)[batch, rows, columns].permute(0, 3, 1, 2)  # (B, bands, H, W)
