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
    logits = combine(prototypes, grown, parts)  # (B, K, AROUND^2, E, E)
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


def combine(maps: "Tensor", boxes: "Tensor", parts: "Tensor") -> "Tensor":
    """Sums of maps (B, P, h, w) at E x E places of boxes (B, K, 4) in pixels: (B, K, n, E, E).

    Bilinear, by gathering: ONNX Runtime's GridSample takes four times as long for the same.

    Args:
        parts: how much of each map each sum has, (B, K, n, P).
    """
    import torch

    _, count, high, wide = maps.shape
    place = (torch.arange(EDGE, device=maps.device) + 0.5) / EDGE
    x = boxes[..., 0:1] + (boxes[..., 2:3] - boxes[..., 0:1]) * place  # (B, K, E) pixels
    y = boxes[..., 1:2] + (boxes[..., 3:4] - boxes[..., 1:2]) * place
    pixels = maps.flatten(2).transpose(1, 2).flatten(0, 1)  # (B h w, P)
    chip = torch.arange(maps.shape[0], device=maps.device).view(-1, 1, 1, 1) * (high * wide)
    total = torch.zeros((), device=maps.device)
    for row, down in _neighbours(y, high):
        for column, across in _neighbours(x, wide):
            index = chip + row[..., None] * wide + column[:, :, None]  # (B, K, E, E)
            found = pixels.index_select(0, index.flatten()).view(*boxes.shape[:2], -1, count)
            near = (down[..., None] * across[:, :, None]).flatten(2).unsqueeze(3)
            total = total + near * (found @ parts.transpose(2, 3))  # (B, K, E E, n)
    sums: "Tensor" = total.transpose(2, 3).unflatten(3, (EDGE, EDGE))
    return sums


def _neighbours(at: "Tensor", cells: int) -> "list[tuple[Tensor, Tensor]]":
    """The two cells of a line that are nearest to each of some pixels, and their shares."""
    place = (at / STEP - 0.5).clamp(0, cells - 1)
    first = place.floor()
    share = place - first
    return [(first.long(), 1 - share), ((first + 1).clamp(max=cells - 1).long(), share)]


def masks(logits: "Tensor", boxes: "Tensor", place: "Tensor") -> "Tensor":
    """Masks (B, K, E, E) uint8 of boxes (B, K, 4); 255 is surely inside.

    Args:
        place: of each box among the cells of all classes, as `centres.find` has it, (B, K).
    """
    import torch
    from torch.nn import functional as F

    found, coefficients, prototypes = split(logits)
    cells = torch.arange(logits.shape[2] * logits.shape[3], device=logits.device)
    cells = cells.expand(logits.shape[0], found.shape[1] - 4, -1).flatten(1)
    cell = F.pad(cells, (0, place.shape[1])).gather(1, place)  # as `find` pads; ONNX has no %
    parts = _gather(coefficients, cell).unsqueeze(2)  # (B, K, 1, P)
    likely = torch.sigmoid(combine(prototypes, boxes, parts)[:, :, 0])
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
