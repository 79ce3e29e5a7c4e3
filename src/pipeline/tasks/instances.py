"""Instances: objects in boxes, as `detection` finds them, with a mask each (`prototypes`).

An answer is right if its mask overlaps the object's by half: average precision, F1, recall by size
and the pictures go by masks, and the average precision of the boxes stands beside.

In the shapes below N is a number of chips, B that of a batch, K is dataset.MOST_OBJECTS, E is
masks.EDGE. The graph answers as that of `detection`, and `masks` (N, K, E, E) uint8: cells of the
boxes, 255 is surely inside. True objects are (N, K, 5 + E), see `pipeline.data.masks`.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from contracts.bundle import GoldenMasks, Instances, Manifest, pack
from contracts.masks import paste
from pipeline.data import masks
from pipeline.data.dataset import Dataset, Kind
from pipeline.data.prepared import Prepared, Split
from pipeline.params import Evaluate, Gate
from pipeline.tasks import detection, matching, objects, prototypes
from pipeline.tasks.comparison import Comparison
from pipeline.tasks.matching import Found
from pipeline.tasks.objects import Bools, Draw, Overlap
from pipeline.tasks.task import Check, Evaluation, Metric, Output, Table, at_least

# torch and matplotlib take seconds to import: each is imported where it is used.
if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor, nn

LABELS: Kind = "masks"
OUTPUTS = (*detection.OUTPUTS, "masks")
MASK_METRIC = Metric("mask_ap50", "mask AP50", "{:.4f}")
METRICS = (MASK_METRIC, detection.METRICS[0]._replace(title="box AP50"), *detection.METRICS[1:])
CLASS_COLUMNS = (
    ("mask AP50", "mask_ap50", ".3f"),
    ("box AP50", "ap50", ".3f"),
    *detection.CLASS_COLUMNS[1:],
)

# As for boxes:
STEP, PARITY, QUALITY, PICTURES = (
    detection.STEP,
    detection.PARITY,
    detection.QUALITY,
    detection.PICTURES,
)
class_weights, samples, temperature = (
    detection.class_weights,
    detection.samples,
    detection.temperature,
)
signals, predicted_classes = detection.signals, detection.predicted_classes
parse_predictions = detection.parse_predictions

head, loss = prototypes.head, prototypes.loss


# The network: the rest of it is in `prototypes`


def score(logits: "Tensor", targets: "Tensor") -> "Tensor":
    """F1 of the boxes of the batch, for each chip (B,) alike; see `centres.score`."""
    found, _, _ = prototypes.split(logits)
    return detection.score(found, targets[..., :5])


def quality(logits: "Tensor", targets: "Tensor") -> float:
    """F1 of the boxes at the best of some thresholds."""
    return float(score(logits, targets).mean())


def answer(logits: "Tensor", numbers: "Tensor", nodata: int | None) -> "tuple[Tensor, ...]":
    """Logits -> boxes, scores, labels and masks of the K surest objects."""
    found, _, _ = prototypes.split(logits)
    boxes, scores, labels, place = detection.locate(found, numbers, nodata)
    return boxes, scores, labels, prototypes.masks(logits, boxes, place)


# The bundle


def difference(ours: Output, theirs: Output) -> float:
    """As of boxes; and of the mask of a box that is listed, in the mean of its cells, 0..1."""
    worst = detection.difference(ours, theirs)
    for chip, scores in enumerate(ours["scores"]):
        listed = scores >= objects.LEAST + PARITY
        if listed.any():
            boxes = ours["boxes"][chip][listed, None] - theirs["boxes"][chip][None]
            near = np.abs(boxes).max(axis=2).argmin(axis=1)
            cells = ours["masks"][chip][listed].astype(float) - theirs["masks"][chip][near]
            worst = max(worst, float(np.abs(cells).mean(axis=(1, 2)).max()) / 255)
    return worst


def manifest(
    fields: dict[str, Any], output: Output, chips: Split, prepared: Prepared, net: "nn.Module"
) -> Instances:
    """Add the threshold with the best F1 of masks on the validation split, and golden chips."""
    found = objects.scores_by_chip(output, chips, fields["classes"], by_masks(output, chips))
    threshold = matching.best_threshold(found)
    golden = []
    for chip in detection.choose_golden(output):
        cells = output["masks"][chip][output["scores"][chip] >= threshold]
        of_boxes = detection.golden_fields(output, chips, chip, threshold)
        golden.append(GoldenMasks(**of_boxes, masks=pack(cells)))
    fields = fields | detection.of_any_size(fields, net)
    return Instances(task="instances", threshold=threshold, golden=tuple(golden), **fields)


# Measures


def by_masks(output: Output, split: Split) -> Overlap:
    """Compare answers with objects by the pixels of the chip that they cover."""
    known: dict[int, tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], matching.Floats]] = {}

    def overlap(chip: int, listed: Bools, true: Bools) -> matching.Floats:
        if chip not in known:
            known[chip] = _overlaps(output, split, chip)
        found, there, iou = known[chip]
        rows = np.searchsorted(found, np.flatnonzero(listed))
        return iou[rows[:, None], np.searchsorted(there, np.flatnonzero(true))]

    return overlap


def _overlaps(
    output: Output, split: Split, chip: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], matching.Floats]:
    """Numbers of the answers and of the objects of a chip, and the IoU of their masks."""
    found = np.flatnonzero(output["scores"][chip] >= objects.LEAST)
    there = np.flatnonzero(split.labels[chip][:, 0] >= 0)
    ours = _stack([_found_pixels(output, split, chip, n) for n in found.tolist()], split)
    theirs = _stack([_true_pixels(split, chip, n) for n in there.tolist()], split)
    both = ours @ theirs.T
    either = ours.sum(axis=1)[:, None] + theirs.sum(axis=1)[None] - both
    return found, there, both / np.maximum(either, 1)


def _stack(pixels: list[Bools], split: Split) -> npt.NDArray[np.float32]:
    size = split.chips.shape[-1]
    return np.reshape(pixels, (-1, size * size)).astype(np.float32)


def _found_pixels(output: Output, split: Split, chip: int, number: int) -> Bools:
    """The pixels of a chip that an answer covers, as the service answers them."""
    size = split.chips.shape[-1]
    whole = np.zeros((size, size), bool)
    box = output["boxes"][chip][number].tolist()
    pixels, top, left = paste(output["masks"][chip][number], box, whole.shape)
    whole[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return whole


def _true_pixels(split: Split, chip: int, number: int) -> Bools:
    label = split.labels[chip][number]
    return masks.draw(masks.unpack(label[5:]), label[1:5], split.chips.shape[-1])


def predictions(
    output: Output, test: Split, dataset: Dataset, params: Evaluate
) -> dict[str, dict[str, Found]]:
    """Say of each chip and class which scores are right, and how many objects there are."""
    return objects.scores_by_chip(output, test, dataset.classes, by_masks(output, test))


def compare(
    champion: Mapping[str, Any], challenger: Mapping[str, Any], samples: int
) -> Comparison | None:
    """Compare the mask AP50 on the chips that both were tested on."""
    found = detection.compare(champion, challenger, samples)
    return found and found._replace(measure="mask AP50")


def evaluate(
    output: Output, test: Split, dataset: Dataset, params: Evaluate, manifest: Manifest
) -> Evaluation:
    """Measure by masks as boxes are measured, and the AP50 of the boxes beside."""
    assert isinstance(manifest, Instances)
    names, overlap, draw = dataset.classes, by_masks(output, test), _draw_masks(output, test)
    found = objects.measure(output, test, dataset, params, manifest.threshold, overlap, draw)
    boxes = objects.scores_by_chip(output, test, names, objects.by_boxes(output, test))
    metrics = {key.replace("ap50", "mask_ap50"): value for key, value in found.metrics.items()}
    metrics["ap50"] = float(matching.mean_average_precision(boxes, names)[0])
    classes = {}
    for name, of in found.classes.items():
        ap50 = float(np.nan_to_num(matching.average_precision(boxes, name)[0]))
        classes[name] = {"mask_ap50": of["ap50"], **of, "ap50": ap50}
    columns = ("mask_ap50", "ap50", "recall", "precision", "f1", "support")
    rows = [(name, *(of[column] for column in columns)) for name, of in classes.items()]
    tables = found.tables | {"classes": Table(("class", *columns), rows)}
    return found._replace(metrics=metrics, classes=classes, tables=tables)


def _draw_masks(output: Output, split: Split) -> Draw:
    """Draw the outline of an object."""

    def draw(axes: "Axes", chip: int, is_found: bool, number: int, colour: str) -> None:
        pixels = (
            _found_pixels(output, split, chip, number)
            if is_found
            else _true_pixels(split, chip, number)
        )
        if pixels.any():
            line = np.arange(-1, len(pixels) + 1)  # padded: an outline closes at the edges
            axes.contour(line, line, np.pad(pixels, 1), [0.5], colors=colour, linewidths=1.2)

    return draw


# The gate and the report


def floors(metrics: dict[str, Any], classes: dict[str, Any], floors: Gate) -> list[Check]:
    """AP50 of masks and of boxes, and the recall of the weakest size."""
    box, size = detection.floors(metrics, classes, floors)
    mask = at_least("mask AP50", metrics["mask_ap50"], floors.min_mask_ap50)
    return [mask, box._replace(name="box AP50"), size]


def headline(metrics: dict[str, Any]) -> str:
    """State the AP50 of masks with its interval, that of the boxes, and F1."""
    of_masks = {name: metrics[f"mask_{name}"] for name in ("ap50", "ap50_low", "ap50_high")}
    said = detection.headline(metrics | of_masks)
    return f"Mask {said.removesuffix('.')}. Box AP50 {metrics['ap50']:.3f}."


def sections(classes: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """A table of the classes, the weakest first, and one of the sizes."""
    return detection.sections(classes, before, CLASS_COLUMNS)
