"""Detection: objects as boxes, by a network without anchors and without suppression (`centres`).

In the shapes below N is a number of chips, B that of a batch, K is dataset.MOST_OBJECTS. The graph
answers, the surest first, `boxes` (N, K, 4) float32, left, top, right, bottom in pixels, `scores`
(N, K) float32, 0..1, and `labels` (N, K) int64, indices of classes. True boxes are (N, K, 5)
float32: class, left, top, right, bottom; the class is -1 where there is none.
"""

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from contracts.bundle import Detection, GoldenObjects, Manifest, pack
from pipeline import markdown as md
from pipeline.data.dataset import Dataset, Kind
from pipeline.data.prepared import Prepared, Split
from pipeline.errors import DataError
from pipeline.params import Evaluate, Gate
from pipeline.tasks import centres, matching, objects
from pipeline.tasks.comparison import Comparison
from pipeline.tasks.matching import SIZES, Found, Scores
from pipeline.tasks.task import Check, Evaluation, Metric, Output, at_least, class_section

# torch and matplotlib take seconds to import: each is imported where it is used.
if TYPE_CHECKING:
    from torch import Tensor, nn

LABELS: Kind = "boxes"
STEP = centres.STEP
OUTPUTS: tuple[str, ...] = ("boxes", "scores", "labels")
PARITY = 1e-3  # of a score, and of a box in sizes of the chip
QUALITY = "f1"
METRICS: tuple[Metric, ...] = (
    Metric("ap50", "AP50", "{:.4f}"),
    Metric("f1", "F1", "{:.4f}"),
    Metric("recall", "recall", "{:.2%}"),
    Metric("precision", "precision", "{:.2%}"),
    Metric("calibration_error", "calibration error", "{:.4f}"),
)
CLASS_COLUMNS = (
    ("AP50", "ap50", ".3f"),
    ("recall", "recall", ".1%"),
    ("precision", "precision", ".1%"),
    ("F1", "f1", ".3f"),
    ("objects", "support", ","),
)
PICTURES: tuple[tuple[str, str], ...] = (
    ("misses", "Worst misses"),
    ("precision-recall", "Precision and recall"),
    ("curves", "Training curves"),
    ("reliability", "Calibration"),
)
SAMPLES = 512  # chips that validation looks at, at most
ENOUGH = 10  # objects of a size, for its recall to count
GOLDEN = 2

head, loss, score = centres.head, centres.loss, centres.score


# The network: the rest of it is in `centres`


def class_weights(labels: npt.NDArray[Any], classes: int, power: float) -> "Tensor | None":
    """Weights that favour rare classes, of mean 1 over the objects; None without any."""
    import torch

    if not power:
        return None
    named = labels[..., 0].astype(np.int64)
    counts = np.bincount(named[named >= 0], minlength=classes)
    frequency = np.maximum(counts, 1) / max(1, counts.sum())
    weights = frequency**-power
    return torch.tensor(weights / (weights * frequency).sum(), dtype=torch.float32)


def quality(logits: "Tensor", targets: "Tensor") -> float:
    """F1 at the best of some thresholds."""
    return float(score(logits, targets).mean())


def samples(logits: "Tensor", targets: "Tensor", of: int) -> "tuple[Tensor, Tensor]":
    """Every chip, or each nth: (n, classes + 4, h, w) and (n, K, 5)."""
    step = max(1, math.ceil(of / SAMPLES))
    return logits[::step], targets[::step]


def temperature(logits: npt.NDArray[np.float32], targets: npt.NDArray[np.int64]) -> float:
    """1: the bundle has a threshold instead, which needs no calibrated score."""
    return 1.0


def answer(logits: "Tensor", numbers: "Tensor", nodata: int | None) -> "tuple[Tensor, ...]":
    """Logits (B, classes + 4, h, w) -> boxes, scores and labels of the K surest objects."""
    return locate(logits, numbers, nodata)[:3]


def locate(logits: "Tensor", numbers: "Tensor", nodata: int | None) -> "tuple[Tensor, ...]":
    """As `answer`, and the place of each among the cells (`centres.find`)."""
    import torch
    from torch.nn import functional as F

    if nodata is not None:
        empty = (numbers == float(nodata)).all(dim=1, keepdim=True).to(torch.float32)
        # Far below any logit: no object has its centre where there are no data.
        logits = logits - 100 * F.avg_pool2d(empty, STEP).floor()
    boxes, scores, labels, place = centres.find(logits)
    high, wide = numbers.shape[2:]
    x, y = boxes[..., 0::2].clamp(0, wide), boxes[..., 1::2].clamp(0, high)
    return torch.stack((x[..., 0], y[..., 0], x[..., 1], y[..., 1]), dim=2), scores, labels, place


# The bundle


def difference(ours: Output, theirs: Output) -> float:
    """Largest difference of a score; and of a box that is listed, in sizes of the chip.

    Two of almost the same score may change places, so a box is compared with the nearest one.
    """
    worst = float(np.abs(ours["scores"] - theirs["scores"]).max())
    size = max(1.0, float(ours["boxes"].max(initial=0)))
    for one, scores, other in zip(ours["boxes"], ours["scores"], theirs["boxes"], strict=True):
        listed = one[scores >= objects.LEAST + PARITY]
        if len(listed):
            apart = np.abs(listed[:, None] - other[None]).max(axis=2).min(axis=1)
            worst = max(worst, float(apart.max()) / size)
    return worst


def signals(output: Output) -> dict[str, npt.NDArray[np.float32]]:
    """Return the score of the surest box of each chip, (N,)."""
    return {"confidence": output["scores"][:, 0]}


def predicted_classes(output: Output) -> npt.NDArray[np.int64]:
    """Index of the class of the surest box of each chip."""
    classes: npt.NDArray[np.int64] = output["labels"][:, 0]
    return classes


def manifest(
    fields: dict[str, Any], output: Output, chips: Split, prepared: Prepared, net: "nn.Module"
) -> Detection:
    """Add the threshold with the best F1 on the validation split, and golden chips."""
    overlap = objects.by_boxes(output, chips)
    found = objects.scores_by_chip(output, chips, fields["classes"], overlap)
    threshold = matching.best_threshold(found)
    golden = tuple(
        GoldenObjects(**golden_fields(output, chips, chip, threshold))
        for chip in choose_golden(output)
    )
    return Detection(
        task="detection", threshold=threshold, golden=golden, **(fields | of_any_size(fields, net))
    )


def of_any_size(fields: dict[str, Any], net: "nn.Module") -> dict[str, Any]:
    """The input of a manifest, whose edges are multiples of the network's stride."""
    multiple = int(getattr(net, "stride", STEP))
    return {"input": fields["input"].model_copy(update={"multiple": multiple})}


def choose_golden(output: Output) -> list[int]:
    """Choose the chips with the highest sum of scores: with many objects, and sure of them."""
    return [int(chip) for chip in np.argsort(-output["scores"].sum(axis=1), kind="stable")[:GOLDEN]]


def golden_fields(output: Output, chips: Split, chip: int, threshold: float) -> dict[str, Any]:
    """The fields of `GoldenObjects` for a chip."""
    listed = output["scores"][chip] >= threshold
    return {
        "chip": pack(chips.chips[chip]),
        "boxes": tuple(tuple(box) for box in output["boxes"][chip][listed].tolist()),
        "scores": tuple(output["scores"][chip][listed].tolist()),
        "labels": tuple(output["labels"][chip][listed].tolist()),
    }


# Measures


def predictions(
    output: Output, test: Split, dataset: Dataset, params: Evaluate
) -> dict[str, dict[str, Found]]:
    """Say of each chip and class which scores are right, and how many objects there are."""
    return objects.scores_by_chip(output, test, dataset.classes, objects.by_boxes(output, test))


def parse_predictions(text: str, origin: str) -> dict[str, dict[str, Found]]:
    """Read reports/predictions.csv back.

    Raises:
        DataError: it is not such a table; `origin` says where it came from.
    """
    found: dict[str, dict[str, Found]] = {}
    try:
        for record in csv.DictReader(io.StringIO(text)):
            of_chip = found.setdefault(record["chip"], {})
            if record["class"]:
                right, wrong = (
                    tuple(float(score) for score in record[name].split())
                    for name in ("right", "wrong")
                )
                of_chip[record["class"]] = Found(int(record["objects"]), right, wrong)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{origin} is not a table of boxes by chip ({type(error).__name__}: {error}): "
            f"make it again with `dvc repro evaluate`"
        ) from None
    return found


def compare(
    champion: Mapping[str, Any], challenger: Mapping[str, Any], samples: int
) -> Comparison | None:
    """Compare the AP50 on the chips that both were tested on: a paired bootstrap of chips."""
    shared = sorted(champion.keys() & challenger.keys())
    if not shared:
        return None
    old, new = ({chip: of[chip] for chip in shared} for of in (champion, challenger))
    names = sorted({name for of in (old, new) for chip in of.values() for name in chip})
    times = matching.resample(len(shared), samples)

    def ap50(of: Scores, times: npt.NDArray[np.int64] | None = None) -> npt.NDArray[Any]:
        return matching.mean_average_precision(of, names, times) if names else np.zeros(1)

    gain = [_f1_of(new[chip]) - _f1_of(old[chip]) for chip in shared]
    return Comparison(
        chips=len(shared),
        champion=float(ap50(old)[0]),
        challenger=float(ap50(new)[0]),
        difference=matching.percentiles(ap50(new, times) - ap50(old, times)),
        fixed=sum(difference > 0 for difference in gain),
        broken=sum(difference < 0 for difference in gain),
        measure="AP50",
    )


def _f1_of(chip: Mapping[str, Found]) -> float:
    """Mean F1 of a chip over thresholds: which of two models is better there."""
    return sum(matching.count({"": chip}, step).f1 for step in matching.STEPS)


def evaluate(
    output: Output, test: Split, dataset: Dataset, params: Evaluate, manifest: Manifest
) -> Evaluation:
    """Measure AP50 with an interval by images, and F1 at the threshold of the bundle."""
    assert isinstance(manifest, Detection)
    overlap, draw = objects.by_boxes(output, test), objects.draw_boxes(output, test)
    return objects.measure(output, test, dataset, params, manifest.threshold, overlap, draw)


# The gate and the report


def floors(metrics: dict[str, Any], classes: dict[str, Any], floors: Gate) -> list[Check]:
    """AP50, and the recall of the weakest size."""
    size, recall = _weakest(classes) or ("all", metrics["recall"])
    return [
        at_least("AP50", metrics["ap50"], floors.min_ap50),
        at_least(f"recall of {size} objects (the lowest)", recall, floors.min_size_recall),
    ]


def _weakest(classes: dict[str, Any]) -> tuple[str, float] | None:
    """Size with the lowest recall, of those with ENOUGH objects; None if none has."""
    found = _by_size(classes)
    recalls = [(hits / of, size) for size, (hits, of) in found.items() if of >= ENOUGH]
    return min(recalls)[::-1] if recalls else None


def _by_size(classes: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Found and all objects of each size, of all classes."""
    hits, objects = Counter[str](), Counter[str]()
    for score in classes.values():
        for size, (found, of) in score.get("sizes", {}).items():
            hits[size] += found
            objects[size] += of
    return {size: (hits[size], objects[size]) for size, _ in SIZES}


def headline(metrics: dict[str, Any]) -> str:
    """State the AP50 with its interval, and F1."""
    return (
        f"AP50 **{metrics['ap50']:.3f}** (95 % interval by images {metrics['ap50_low']:.3f} to "
        f"{metrics['ap50_high']:.3f}), F1 {metrics['f1']:.3f} at the threshold "
        f"{metrics['threshold']:g}, on {metrics['test_objects']} objects in "
        f"{metrics['test_chips']} test chips of {metrics['test_groups']} groups."
    )


def sections(
    classes: dict[str, Any],
    before: dict[str, Any],
    columns: Sequence[tuple[str, str, str]] = CLASS_COLUMNS,
) -> list[str]:
    """A table of the classes, the weakest first, and one of the sizes."""
    sizes = md.table(["size, pixels", "recall", "change", "objects"], _size_rows(classes, before))
    return [class_section(classes, before, columns), f"## Recall by size\n\n{sizes}"]


def _size_rows(now: dict[str, Any], before: dict[str, Any]) -> list[list[str]]:
    rows, was = [], _by_size(before)
    for (size, limit), (found, of) in zip(SIZES, _by_size(now).values(), strict=True):
        old_found, old_of = was[size]
        below = f"{size}, under {limit:g}" if np.isfinite(limit) else size
        change = f"{found / of - old_found / old_of:+.1%}" if of and old_of else "-"
        rows.append([below, f"{found / of:.1%}" if of else "-", change, str(of)])
    return rows
