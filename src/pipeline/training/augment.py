"""Random views of training chips, as tensors on the device of the data.

Land cover looks the same from every side: seen from above a chip may be mirrored, turned by
quarters and moved. Light differs from day to day: the whole chip may be brighter or darker.
"""

from typing import NamedTuple

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
    """Scale chips (B, bands, H, W) to (B, bands, size, size): what shrinks is averaged."""
    if size == chips.shape[2]:
        return chips
    return F.interpolate(chips, size=(size, size), mode="bilinear", antialias=True)


def resize_labels(labels: Tensor, size: int, before: int) -> Tensor:
    """Scale label maps (B, H, W) to (B, size, size) by taking the nearest pixel, and boxes alike.

    Args:
        before: edge of the chips that the labels are of, pixels.
    """
    if labels.dim() == 1 or size == before:
        return labels
    if labels.is_floating_point():
        edges = labels[..., 1:5] * (size / before)
        return torch.cat((labels[..., :1], edges, labels[..., 5:]), dim=2)
    line = ((torch.arange(size, device=labels.device) + 0.5) * (labels.shape[1] / size)).long()
    return labels[:, line[:, None], line[None]]


def zoomed(size: int, most: float, stride: int, generator: torch.Generator | None = None) -> int:
    """Edge of the chips of a step, pixels: `size` +- a share of `most`, a multiple of `stride`.

    Args:
        generator: what draws; torch's own without.
    """
    if not most:
        return size
    factor = 1 + most * (2 * torch.rand((), generator=generator).item() - 1)
    return max(stride, round(size * factor / stride) * stride)


def augment(
    chips: Tensor,
    labels: Tensor,
    max_shift: int,
    brightness: float,
    colour: float = 0,
    mirror: bool = True,
) -> tuple[Tensor, Tensor]:
    """Mirror, turn, move and brighten each chip at random, and a label map alike.

    Args:
        chips: (B, bands, H, W), H = W, float.
        labels: (B,), which stay as they are, maps (B, H, W), or boxes (B, K, 5), which may have
            masks (B, K, 5 + E), see `pipeline.data.masks`.
        max_shift: largest shift, pixels; what enters at the edge is the mirrored inside.
        brightness: largest relative gain; one for the whole chip, so that colours stay.
        colour: largest relative gain of each band: another place has another light and haze.
        mirror: mirror and turn; without it north stays up, as labels that lie a little to one side
            of what they name, and shadows, are told by.
    """
    size = chips.shape[2]
    chance = 0.5 if mirror else 0.0
    rows = _moves(len(chips), max_shift, chance)
    columns = _moves(len(chips), max_shift, chance)
    is_transposed = torch.rand(len(chips), 1, 1) < chance
    origin = _origin(_lines(size, rows), _lines(size, columns), is_transposed).to(chips.device)
    chips = _view(chips, origin)
    if labels.is_floating_point():
        labels = _move_boxes(labels, size, rows, columns, is_transposed)
    elif labels.dim() > 1:
        labels = labels.flatten()[origin.flatten()].view(labels.shape)
    if brightness:
        gain = torch.empty(len(chips), 1, 1, 1).uniform_(1 - brightness, 1 + brightness)
        chips = chips * gain.to(chips.device)
    if colour:
        gain = torch.empty(*chips.shape[:2], 1, 1).uniform_(1 - colour, 1 + colour)
        chips = chips * gain.to(chips.device)
    return chips, labels


class _Moves(NamedTuple):
    """What happens to the lines of each chip."""

    is_flipped: Tensor
    """(B, 1)."""
    shift: Tensor
    """(B, 1), pixels."""


def noisy(chips: Tensor, deviation: Tensor, share: float) -> Tensor:
    """Add noise of `share` standard deviations of each band, (1, bands, 1, 1), to each value."""
    return chips + share * deviation * torch.randn_like(chips)


def _moves(batch: int, most: int, chance: float) -> _Moves:
    return _Moves(torch.rand(batch, 1) < chance, torch.randint(-most, most + 1, (batch, 1)))


def _origin(rows: Tensor, columns: Tensor, is_transposed: Tensor) -> Tensor:
    """Which pixel of a batch comes where, (B, H, W): each chip flipped, transposed and shifted."""
    batch, size = rows.shape
    origin = rows.unsqueeze(2) * size + columns.unsqueeze(1)  # (B, H, W): pixel that comes there
    origin = torch.where(is_transposed, origin.transpose(1, 2), origin)
    return origin + size * size * torch.arange(batch).view(-1, 1, 1)


def _view(chips: Tensor, origin: Tensor) -> Tensor:
    """Gather the pixels of chips (B, bands, H, W): one index, one pass over the pixels."""
    batch, bands, size, _ = chips.shape
    pixels = chips.permute(0, 2, 3, 1).reshape(-1, bands)  # no copy: channels-last in memory
    moved = pixels.index_select(0, origin.flatten())
    return moved.view(batch, size, size, bands).permute(0, 3, 1, 2)


def _lines(size: int, moves: _Moves) -> Tensor:
    """Which line of a chip comes where, (B, size): in order or backwards, shifted, reflected."""
    line = torch.arange(size)
    moved = (torch.where(moves.is_flipped, line.flip(0), line) + moves.shift).abs()
    return torch.where(moved >= size, 2 * (size - 1) - moved, moved)


def _move_boxes(
    boxes: Tensor, size: int, rows: _Moves, columns: _Moves, is_transposed: Tensor
) -> Tensor:
    """Move boxes (B, K, 5), and masks, as their chips are moved; one whose centre leaves the chip
    is none."""
    name, edges, lines = boxes[..., :1], boxes[..., 1:5].cpu(), boxes[..., 5:]
    x, y = _edges(edges[..., 0::2], size, columns), _edges(edges[..., 1::2], size, rows)
    if lines.shape[2]:
        lines = _move_masks(lines.cpu(), (y, x), size, (rows, columns), is_transposed)
    x, y = torch.where(is_transposed, y, x), torch.where(is_transposed, x, y)  # (B, K, 2)
    middle = torch.stack((x.mean(dim=2), y.mean(dim=2)), dim=2)
    inside = ((middle >= 0) & (middle < size)).all(dim=2, keepdim=True).to(boxes.device)
    moved = torch.stack((x[..., 0], y[..., 0], x[..., 1], y[..., 1]), dim=2).clamp(0, size)
    parts = (torch.where(inside, name, -1.0), moved.to(boxes.device), lines.to(boxes.device))
    return torch.cat(parts, dim=2)


def _move_masks(
    lines: Tensor,
    edges: tuple[Tensor, Tensor],
    size: int,
    moves: tuple[_Moves, _Moves],
    is_transposed: Tensor,
) -> Tensor:
    """Move masks (B, K, E) of boxes whose edges (B, K, 2) were flipped and shifted: along the rows,
    along the columns. What leaves the chip is cut off with the box."""
    from pipeline.tasks.prototypes import pack, unpack  # of a room that may be deleted

    cells, cut = unpack(lines), lines.shape[2]
    place = (torch.arange(cut) + 0.5) / cut
    for axis, (moved, move) in enumerate(zip(edges, moves, strict=True), 2):
        low, extent = moved[..., :1], (moved[..., 1:] - moved[..., :1]).clamp(min=1e-6)
        inside = moved.clamp(0, size)
        at = inside[..., :1] + place * (inside[..., 1:] - inside[..., :1])
        index = ((at - low) / extent * cut).long().clamp(0, cut - 1)  # (B, K, E)
        index = torch.where(move.is_flipped[..., None], cut - 1 - index, index)
        wanted = index[..., None] if axis == 2 else index[:, :, None]
        cells = cells.gather(axis, wanted.expand_as(cells))
    return pack(torch.where(is_transposed[..., None], cells.transpose(2, 3), cells))


def _edges(edges: Tensor, size: int, moves: _Moves) -> Tensor:
    """Where the lower and upper edges (B, K, 2) of boxes come to lie."""
    moved = edges - moves.shift[..., None]
    return torch.where(moves.is_flipped[..., None], size - moved.flip(2), moved)
