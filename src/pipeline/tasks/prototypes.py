"""Masks as sums of prototypes: the head, the loss and the sampling beside those of `centres`.

The network draws PROTOTYPES maps of each chip, and says of each cell with how much of each one the
mask of an object whose centre lies there is made (Bolya et al. 2019, YOLACT, arXiv 1904.02689). The
maps are sampled at EDGE x EDGE places of a box, so that the size of an answer does not depend on
that of the image.

In the shapes below B is the number of chips of a batch, K that of objects, P is PROTOTYPES, E is
EDGE. Logits are (B, classes + 4 + 2 P, h, w): those of `centres`, coefficients, and prototypes.
Targets are (B, K, 5 + E): those of `centres`, and the lines of the masks (`pipeline.data.masks`).
"""

from typing import TYPE_CHECKING

from pipeline.data.masks import EDGE
from pipeline.tasks import centres
from pipeline.tasks.centres import STEP

# torch takes seconds to import: it is imported where it is used.
if TYPE_CHECKING:
    from torch import Tensor, nn

PROTOTYPES = 8  # few: boxes divide the objects already, and each costs 2 channels and K samples
BEFORE = 0.1  # deviation of the weights before training; near 0 both factors would wait
GROWN = 1.3  # of a box in the loss: boxes that are found are too large at times
AROUND = 3  # cells, squared, around a centre that learn its mask: peaks are a cell off at times
WEIGHT = 1.0  # of the masks in the loss
AT_ONCE = 32  # chips in the loss, for the memory's sake


def head(features: int, classes: int, dropout: float) -> "nn.Module":
    """As `centres.head`, with coefficients and prototypes: (B, classes + 4 + 2 P, h, w)."""
    from torch import nn

    made = centres.head(features, classes, dropout, 2 * PROTOTYPES)
    last = made[-1]
    assert isinstance(last, nn.Conv2d)
    nn.init.normal_(last.weight.data[classes + 4 :], std=BEFORE)
    return made


def split(logits: "Tensor") -> tuple["Tensor", "Tensor", "Tensor"]:
    """Logits -> those of `centres`, coefficients (B, P, h, w) and prototypes (B, P, h, w)."""
    found, coefficients, prototypes = logits.split(
        [logits.shape[1] - 2 * PROTOTYPES, PROTOTYPES, PROTOTYPES], dim=1
    )
    return found, coefficients, prototypes


def loss(
    logits: "Tensor",
    targets: "Tensor",
    smoothing: float = 0.0,
    weights: "Tensor | None" = None,
) -> "Tensor":
    """That of `centres`, and of the masks: cross-entropy, and 1 - the overlap by Dice.

    Each object counts the same, as its mask has E x E places whatever its size is (Milletari et al.
    2016, V-Net, arXiv 1606.04797, for Dice).
    """
    found, coefficients, prototypes = split(logits)
    objects = (targets[..., 0] >= 0).sum().clamp(min=1)
    parts = (part.split(AT_ONCE) for part in (coefficients, prototypes, targets))
    apart = sum(_apart(*part) for part in zip(*parts, strict=True)) / objects
    return centres.loss(found, targets[..., :5], smoothing, weights) + WEIGHT * apart


def _apart(coefficients: "Tensor", prototypes: "Tensor", targets: "Tensor") -> "Tensor":
    """Sum over the objects of how far their masks are off."""
    import torch
    from torch.nn import functional as F

    present = targets[..., 0] >= 0
    most = int(present.any(dim=0).sum()) and int(present.any(dim=0).nonzero().max()) + 1
    if not most:
        return (coefficients.sum() + prototypes.sum()) * 0  # a gradient of nothing
    present, boxes = present[:, :most], targets[:, :most, 1:5]
    middle, half = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]) / 2
    grown = torch.cat((middle - GROWN * half, middle + GROWN * half), dim=2)
    high, wide = prototypes.shape[2:]
    near = torch.arange(AROUND, device=boxes.device) - AROUND // 2
    row = ((middle[..., 1] / STEP).long()[..., None] + near).clamp(0, high - 1)  # (B, K, AROUND)
    column = ((middle[..., 0] / STEP).long()[..., None] + near).clamp(0, wide - 1)
    cells = (row[..., None] * wide + column[..., None, :]).flatten(2)  # (B, K, AROUND^2)
    parts = _gather(coefficients, cells.flatten(1)).unflatten(1, cells.shape[1:])
    logits = torch.einsum("bknp,bkpij->bknij", parts, sample(prototypes, grown))
    wanted = _grown(unpack(targets[:, :most, 5:])).unsqueeze(2).expand_as(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean((2, 3, 4))
    likely = torch.sigmoid(logits)
    both, either = (likely * wanted).sum((3, 4)), (likely + wanted).sum((3, 4))
    dice = (1 - (2 * both + 1) / (either + 1)).mean(dim=2)
    return ((entropy + dice) * present).sum()


def _grown(masks: "Tensor") -> "Tensor":
    """Masks of boxes (B, K, E, E) as those of boxes GROWN times as large; outside is nothing."""
    import torch
    from torch.nn import functional as F

    line = GROWN * ((torch.arange(EDGE, device=masks.device) + 0.5) * (2 / EDGE) - 1)
    grid = torch.stack((line.expand(EDGE, EDGE), line[:, None].expand(EDGE, EDGE)), dim=2)
    flat = masks.flatten(0, 1).unsqueeze(1)
    found = F.grid_sample(flat, grid.expand(len(flat), -1, -1, -1), align_corners=False)
    return found.view(masks.shape)


def sample(maps: "Tensor", boxes: "Tensor") -> "Tensor":
    """Maps (B, P, h, w) at E x E places of boxes (B, K, 4) in pixels: (B, K, P, E, E)."""
    import torch
    from torch.nn import functional as F

    high, wide = maps.shape[2:]
    place = (torch.arange(EDGE, device=maps.device) + 0.5) / EDGE
    x = boxes[..., 0:1] + (boxes[..., 2:3] - boxes[..., 0:1]) * place  # (B, K, E) pixels
    y = boxes[..., 1:2] + (boxes[..., 3:4] - boxes[..., 1:2]) * place
    x, y = x * (2 / (STEP * wide)) - 1, y * (2 / (STEP * high)) - 1  # -1 to 1: edges of the maps
    x, y = x[:, :, None].expand(-1, -1, EDGE, -1), y[..., None].expand(-1, -1, -1, EDGE)
    grid = torch.stack((x, y), dim=4).flatten(1, 2)  # (B, K E, E, 2)
    found = F.grid_sample(maps, grid, padding_mode="border", align_corners=False)
    places: "Tensor" = found.unflatten(2, (-1, EDGE)).transpose(1, 2)
    return places


def masks(logits: "Tensor", boxes: "Tensor", place: "Tensor") -> "Tensor":
    """Masks (B, K, E, E) uint8 of boxes (B, K, 4); 255 is surely inside.

    Args:
        place: of each box among the cells of all classes, as `centres.find` has it, (B, K).
    """
    import torch

    _, coefficients, prototypes = split(logits)
    cell = place % (logits.shape[2] * logits.shape[3])
    parts = _gather(coefficients, cell)[..., None, None]  # (B, K, P, 1, 1)
    likely = torch.sigmoid((parts * sample(prototypes, boxes)).sum(dim=2))
    return torch.round(255 * likely).to(torch.uint8)


def _gather(maps: "Tensor", cells: "Tensor") -> "Tensor":
    """Values of maps (B, P, h, w) in cells (B, n): (B, n, P)."""
    index = cells[:, None].expand(-1, maps.shape[1], -1)
    return maps.flatten(2).gather(2, index).transpose(1, 2)


def unpack(lines: "Tensor") -> "Tensor":
    """Lines of masks (..., E) -> masks (..., E, E), 0 or 1."""
    import torch

    bits = torch.arange(EDGE, device=lines.device)
    return (lines.clamp(min=0).long()[..., None] >> bits & 1).to(torch.float32)


def pack(cells: "Tensor") -> "Tensor":
    """Masks (..., E, E) -> their lines (..., E)."""
    import torch

    bits = torch.arange(EDGE, device=cells.device)
    return (cells.long() << bits).sum(dim=-1).to(torch.float32)
