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
    chips = _view(chips, max_shift)
    if brightness:
        gain = torch.empty(len(chips), 1, 1, 1).uniform_(1 - brightness, 1 + brightness)
        chips = chips * gain.to(chips.device)
    return chips


def _view(chips: Tensor, most: int) -> Tensor:
    """Flip, transpose and shift each chip: one index, one pass over the pixels."""
    batch, bands, size, _ = chips.shape
    rows, columns = _lines(batch, size, most), _lines(batch, size, most)
    origin = rows.unsqueeze(2) * size + columns.unsqueeze(1)  # (B, H, W): pixel that comes there
    is_transposed = torch.rand(batch, 1, 1) < 0.5
    origin = torch.where(is_transposed, origin.transpose(1, 2), origin)
    origin += size * size * torch.arange(batch).view(-1, 1, 1)
    pixels = chips.permute(0, 2, 3, 1).reshape(-1, bands)  # no copy: channels-last in memory
    moved = pixels.index_select(0, origin.flatten().to(chips.device))
    return moved.view(batch, size, size, bands).permute(0, 3, 1, 2)


def _lines(batch: int, size: int, most: int) -> Tensor:
    """Which line of a chip comes where, (B, size): in order or backwards, shifted, reflected."""
    line = torch.arange(size)
    is_flipped = torch.rand(batch, 1) < 0.5
    shift = torch.randint(-most, most + 1, (batch, 1))
    moved = (torch.where(is_flipped, line.flip(0), line) + shift).abs()
    return torch.where(moved >= size, 2 * (size - 1) - moved, moved)
