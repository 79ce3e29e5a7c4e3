"""What a network needs to map a scene tile by tile: measured, and not asked of its author.

A map that is made of tiles equals the map of the whole scene, bit for bit, if every pixel of a tile
sees what it would see in the whole: the origin of a tile lies on the grid of the network's strides,
and the tile has a margin as wide as one pixel reaches.
"""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

MOST_STRIDE = 64
FIELD = (128, 512)  # edges of the images to measure on, pixels; the larger where it is needed


class Tiling(NamedTuple):
    """What tiles of a scene need."""

    stride: int
    """Pixels: origin and edges of a tile are multiples of it."""
    margin: int
    """Pixels around a tile, a multiple of `stride`."""
    exact: bool
    """False where a pixel reaches everywhere, as by global pooling or attention."""


def measure(network: nn.Module, bands: int) -> Tiling:
    """Find stride and margin of a network: (B, bands, H, W) -> (B, classes, H, W)."""
    stride = int(getattr(network, "stride", 1))
    if not 1 <= stride <= MOST_STRIDE:
        raise ValueError(f"stride {stride} of the network: use 1 to {MOST_STRIDE}")
    open_network = _open(network)
    for field in FIELD:
        reach = _reach(open_network, bands, field // stride * stride, stride)
        if reach < field // 2 - stride:
            return Tiling(stride, -(-reach // stride) * stride, exact=True)
    return Tiling(stride, FIELD[0] // stride * stride, exact=False)


def _open(network: nn.Module) -> nn.Module:
    """A copy in which no weight of zero and no negative value before a ReLU closes a path."""
    twin = copy.deepcopy(network).double().eval()
    for module in twin.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            fan = max(1, parameter[0].numel()) if parameter.dim() > 1 else 1
            parameter.fill_(0.0 if name.endswith("bias") else 1 / fan)
    return twin


@torch.no_grad()
def _reach(network: nn.Module, bands: int, field: int, stride: int) -> int:
    """How far one pixel reaches, pixels, wherever it lies within a step of `stride`."""
    image = torch.zeros(1, bands, field, field, dtype=torch.float64)
    before: Tensor = network(image)
    furthest = 0
    for at in range(field // 2, field // 2 + stride):
        image.zero_()[:, :, at, at] = 1
        changed = (network(image) != before).any(dim=1)[0]
        lines = changed.any(dim=1).nonzero().flatten()
        columns = changed.any(dim=0).nonzero().flatten()
        ends = torch.cat((lines, columns)) - at
        furthest = max(furthest, int(ends.abs().max()) if len(ends) else 0)
    return furthest
