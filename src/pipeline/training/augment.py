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


def size_in(epoch: int, epochs: int, size: int, stride: int = 1) -> int:
    """Edge of a training chip, pixels, in the epoch 1..epochs; the last one is at full size.

    It is a multiple of `stride`, which the network needs.
    """
    share = next(share for until, share in SIZES if epoch <= until * epochs)
    return max(stride, round(size * share / stride) * stride)


def resize(chips: Tensor, size: int) -> Tensor:
    """Shrink chips (B, bands, H, W) to (B, bands, size, size) by averaging."""
    if size == chips.shape[2]:
        return chips
    return F.interpolate(chips, size=(size, size), mode="bilinear", antialias=True)


def resize_labels(labels: Tensor, size: int) -> Tensor:
    """Shrink label maps (B, H, W) to (B, size, size) by taking the nearest pixel; others stay."""
    if labels.dim() == 1 or size == labels.shape[1]:
        return labels
    line = ((torch.arange(size, device=labels.device) + 0.5) * (labels.shape[1] / size)).long()
    return labels[:, line[:, None], line[None]]


def augment(
    chips: Tensor, labels: Tensor, max_shift: int, brightness: float
) -> tuple[Tensor, Tensor]:
    """Mirror, turn, move and brighten each chip at random, and a label map alike.

    Args:
        chips: (B, bands, H, W), H = W, float.
        labels: (B,), which stay as they are, or (B, H, W).
        max_shift: largest shift, pixels; what enters at the edge is the mirrored inside.
        brightness: largest relative gain; one for the whole chip, so that colours stay.
    """
    origin = _origin(len(chips), chips.shape[2], max_shift).to(chips.device)
    chips = _view(chips, origin)
    if labels.dim() > 1:
        labels = labels.flatten()[origin.flatten()].view(labels.shape)
    if brightness:
        gain = torch.empty(len(chips), 1, 1, 1).uniform_(1 - brightness, 1 + brightness)
        chips = chips * gain.to(chips.device)
    return chips, labels


def _origin(batch: int, size: int, most: int) -> Tensor:
    """Which pixel of a batch comes where, (B, H, W): each chip flipped, transposed and shifted."""
    rows, columns = _lines(batch, size, most), _lines(batch, size, most)
    origin = rows.unsqueeze(2) * size + columns.unsqueeze(1)  # (B, H, W): pixel that comes there
    is_transposed = torch.rand(batch, 1, 1) < 0.5
    origin = torch.where(is_transposed, origin.transpose(1, 2), origin)
    return origin + size * size * torch.arange(batch).view(-1, 1, 1)


def _view(chips: Tensor, origin: Tensor) -> Tensor:
    """Gather the pixels of chips (B, bands, H, W): one index, one pass over the pixels."""
    batch, bands, size, _ = chips.shape
    pixels = chips.permute(0, 2, 3, 1).reshape(-1, bands)  # no copy: channels-last in memory
    moved = pixels.index_select(0, origin.flatten())
    return moved.view(batch, size, size, bands).permute(0, 3, 1, 2)


def _lines(batch: int, size: int, most: int) -> Tensor:
    """Which line of a chip comes where, (B, size): in order or backwards, shifted, reflected."""
    line = torch.arange(size)
    is_flipped = torch.rand(batch, 1) < 0.5
    shift = torch.randint(-most, most + 1, (batch, 1))
    moved = (torch.where(is_flipped, line.flip(0), line) + shift).abs()
    return torch.where(moved >= size, 2 * (size - 1) - moved, moved)
