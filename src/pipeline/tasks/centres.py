"""Objects as centres: the head, the loss and the decoding of a network that finds boxes.

Each cell of the feature maps, STEP pixels wide, says of every class how likely the centre of an
object lies in it (Zhou et al. 2019, Objects as Points, arXiv 1904.07850), and how far the four
edges of the object are (Tian et al. 2019, FCOS, arXiv 1904.01355). A cell that is surer than its
eight neighbours is an object: no boxes have to be compared, and all of it is part of the graph.

In the shapes below B is the number of chips of a batch, K is MOST_OBJECTS. Targets are (B, K, 5):
class, left, top, right, bottom in pixels; the class is -1 where there is none.
"""

import math
from typing import TYPE_CHECKING

from pipeline.data.dataset import MOST_OBJECTS
from pipeline.tasks.matching import IOU, STEPS

# torch takes seconds to import: it is imported where it is used.
if TYPE_CHECKING:
    from torch import Tensor, nn

STEP = 2  # pixels: of the smallest objects of interest, ships of 30 m, nothing is left at 4
RARE = 0.01  # score of a cell before training: most cells are no centre (Lin et al. 2017, sec. 4.1)
EDGE = 4.0  # pixels between a centre and an edge, before training
SPREAD = 0.15  # deviation of the bump around a centre, in sizes of the box
NARROWEST = 0.6  # the same at least, cells
BOX_WEIGHT = 2.0  # of the boxes in the loss


def head(features: int, classes: int, dropout: float, more: int = 0) -> "nn.Sequential":
    """Two convolutions: features (B, features, h, w) -> (B, classes + 4 + more, h, w).

    Logits of a centre, and logarithms of the distances to the four edges in EDGE.
    """
    from torch import nn

    last = nn.Conv2d(2 * features, classes + 4 + more, 1)
    assert last.bias is not None
    nn.init.normal_(last.weight, std=0.01)
    nn.init.zeros_(last.bias)
    nn.init.constant_(last.bias[:classes], math.log(RARE / (1 - RARE)))
    return nn.Sequential(
        nn.Conv2d(features, 2 * features, 3, padding=1, bias=False),
        nn.BatchNorm2d(2 * features),
        nn.ReLU(),
        nn.Dropout2d(dropout),
        last,
    )


def loss(
    logits: "Tensor",
    targets: "Tensor",
    smoothing: float = 0.0,
    weights: "Tensor | None" = None,
) -> "Tensor":
    """Focal loss of the centres, and 1 - generalised IoU of the boxes near them.

    As in Zhou et al. 2019, eq. 1, and Rezatofighi et al. 2019 (arXiv 1902.09630). `smoothing` does
    nothing: the bumps around the centres are smooth already.
    """
    import torch
    from torch.nn import functional as F

    classes = logits.shape[1] - 4
    centres = logits[:, :classes]
    wanted, boxes, near = _wanted(targets, classes, *logits.shape[2:])
    certain = wanted == 1
    score = torch.sigmoid(centres)
    missed = -F.logsigmoid(centres) * (1 - score) ** 2 * certain
    if weights is not None:
        missed = missed * weights.view(1, -1, 1, 1)
    false = -F.logsigmoid(-centres) * score**2 * (1 - wanted) ** 4
    total = (missed + false).sum() / certain.sum().clamp(min=1)
    apart = 1 - _generalised_iou(_boxes(logits[:, classes:]), boxes)  # (B, h, w)
    return total + BOX_WEIGHT * (near * apart).sum() / near.sum().clamp(min=1e-6)


def _wanted(
    targets: "Tensor", classes: int, high: int, wide: int
) -> tuple["Tensor", "Tensor", "Tensor"]:
    """Bumps around the centres (B, classes, h, w), boxes (B, 4, h, w), and their weights (B, h, w).

    A bump is 1 at its centre. Where bumps meet, the higher one counts.
    """
    import torch

    present = targets[..., 0] >= 0
    most = int(present.any(dim=0).sum()) and int(present.any(dim=0).nonzero().max()) + 1
    bumps = targets.new_zeros(len(targets), classes, high, wide)
    boxes = targets.new_zeros(len(targets), 4, high, wide)
    near = targets.new_zeros(len(targets), high, wide)
    batch = torch.arange(len(targets), device=targets.device)
    for number in range(most):
        name, box = targets[:, number, 0].long().clamp(min=0), targets[:, number, 1:]
        across = _bump(box[:, 0], box[:, 2], wide)  # (B, w)
        down = _bump(box[:, 1], box[:, 3], high)
        bump = down[:, :, None] * across[:, None] * present[:, number, None, None]
        bumps[batch, name] = torch.maximum(bumps[batch, name], bump)
        boxes = torch.where((bump > near)[:, None], box[:, :, None, None], boxes)
        near = torch.maximum(near, bump)
    return bumps, boxes, near


def _bump(low: "Tensor", high: "Tensor", cells: int) -> "Tensor":
    """A Gaussian over a line of cells, (B, cells), that is 1 in the cell of the middle."""
    import torch

    deviation = (SPREAD * (high - low)).clamp(min=NARROWEST * STEP)
    middle = ((low + high) / 2 / STEP).floor().clamp(0, cells - 1)
    distance = (torch.arange(cells, device=low.device)[None] - middle[:, None]) * STEP
    return torch.exp(-(distance**2) / (2 * deviation[:, None] ** 2))


def _boxes(distances: "Tensor") -> "Tensor":
    """Logarithms of distances (B, 4, h, w) -> left, top, right, bottom, pixels."""
    import torch

    high, wide = distances.shape[2:]
    x = (torch.arange(wide, device=distances.device) + 0.5) * STEP
    y = (torch.arange(high, device=distances.device) + 0.5) * STEP
    x, y = x[None, None, :].expand(1, high, wide), y[None, :, None].expand(1, high, wide)
    left, top, right, bottom = (EDGE * torch.exp(distances.clamp(-4, 6))).unbind(dim=1)
    return torch.stack((x - left, y - top, x + right, y + bottom), dim=1)


def _generalised_iou(one: "Tensor", other: "Tensor") -> "Tensor":
    """Of boxes (B, 4, ...) and others: (B, ...), -1..1."""
    import torch

    def area(low: "Tensor", high: "Tensor") -> "Tensor":
        return (high - low).clamp(min=0).prod(dim=1)

    low, high = torch.maximum(one[:, :2], other[:, :2]), torch.minimum(one[:, 2:], other[:, 2:])
    both = area(low, high)
    either = area(one[:, :2], one[:, 2:]) + area(other[:, :2], other[:, 2:]) - both
    low, high = torch.minimum(one[:, :2], other[:, :2]), torch.maximum(one[:, 2:], other[:, 2:])
    around = area(low, high).clamp(min=1e-6)
    return both / either.clamp(min=1e-6) - (around - either) / around


def score(logits: "Tensor", targets: "Tensor") -> "Tensor":
    """F1 of the batch at the best of the thresholds STEPS, for each chip (B,) alike.

    A mean of chips would praise a network that finds nothing: most chips may be background.
    """
    import torch

    found, scores, labels, _ = (item.detach() for item in find(logits.detach()))
    true, named = targets[..., 1:], targets[..., 0]
    low = torch.maximum(found[:, :, None, :2], true[:, None, :, :2])
    high = torch.minimum(found[:, :, None, 2:], true[:, None, :, 2:])
    both = (high - low).clamp(min=0).prod(dim=3)  # (B, K, K)
    areas = [(box[..., 2:] - box[..., :2]).clamp(min=0).prod(dim=2) for box in (found, true)]
    iou = both / (areas[0][:, :, None] + areas[1][:, None] - both).clamp(min=1e-6)
    fits = (iou >= IOU) & (labels[:, :, None] == named[:, None])
    objects = (named >= 0).sum()
    best = torch.zeros((), device=targets.device)
    for step in STEPS:
        sure = scores >= step
        right = (fits & sure[:, :, None]).any(dim=1).sum()
        of = objects + sure.sum()
        best = torch.maximum(best, (2 * right / of.clamp(min=1)).clamp(max=1) + (of == 0))
    return best.expand(len(targets))


def find(logits: "Tensor") -> tuple["Tensor", "Tensor", "Tensor", "Tensor"]:
    """The K surest cells that are surer than their neighbours: boxes, scores, labels, and their
    place among the cells of all classes, which follow each other."""
    import torch
    from torch.nn import functional as F

    classes = logits.shape[1] - 4
    centres = logits[:, :classes]
    is_peak = centres == F.max_pool2d(centres, 3, 1, 1)
    # Padded by K: a small image has fewer cells than that.
    flat = F.pad((torch.sigmoid(centres) * is_peak).flatten(1), (0, MOST_OBJECTS))
    scores, place = flat.topk(MOST_OBJECTS, dim=1)  # (B, K)
    each = _boxes(logits[:, classes:])[:, :, None].expand(-1, -1, classes, -1, -1)
    each = F.pad(each.flatten(2), (0, MOST_OBJECTS))  # (B, 4, classes * h * w + K)
    boxes = each.gather(2, place[:, None].expand(-1, 4, -1)).transpose(1, 2)
    names = torch.arange(classes, device=logits.device)[None, :, None, None]
    names = F.pad(names.expand_as(centres).flatten(1), (0, MOST_OBJECTS))
    return boxes, scores, names.gather(1, place), place
