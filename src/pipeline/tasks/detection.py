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
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from contracts.bundle import Detection, GoldenObjects, Manifest, pack
from pipeline import markdown as md
from pipeline.data.dataset import Dataset
from pipeline.data.prepared import Prepared, Split
from pipeline.errors import DataError
from pipeline.params import Evaluate, Gate
from pipeline.tasks import centres, matching
from pipeline.tasks.calibration import draw_reliability, calibration_error, reliability
from pipeline.tasks.comparison import Comparison
from pipeline.tasks.matching import SIZES, Found, Scores
from pipeline.tasks.task import Check, Evaluation, Metric, Output, Table, at_least, class_section

# torch and matplotlib take seconds to import: each is imported where it is used.
if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor, nn

LABELS: Literal["folders", "maps", "boxes"] = "boxes"
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
LEAST = 0.01  # score of a box that is listed
SAMPLES = 512  # chips that validation looks at, at most
ENOUGH = 10  # objects of a size, for its recall to count
GOLDEN = 2
SHOWN, ACROSS = 12, 4  # chips of the picture, and how many in a row
NOTHING = "(nothing)"
COLUMNS = ("chip", "class", "objects", "right", "wrong")

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
    import torch
    from torch.nn import functional as F

    if nodata is not None:
        empty = (numbers == float(nodata)).all(dim=1, keepdim=True).to(torch.float32)
        # Far below any logit: no object has its centre where there are no data.
        logits = logits - 100 * F.avg_pool2d(empty, STEP).floor()
    boxes, scores, labels = centres.find(logits)
    high, wide = numbers.shape[2:]
    x, y = boxes[..., 0::2].clamp(0, wide), boxes[..., 1::2].clamp(0, high)
    return torch.stack((x[..., 0], y[..., 0], x[..., 1], y[..., 1]), dim=2), scores, labels


# The bundle


def difference(ours: Output, theirs: Output) -> float:
    """Largest difference of a score; and of a box that is listed, in sizes of the chip.

    Two of almost the same score may change places, so a box is compared with the nearest one.
    """
    worst = float(np.abs(ours["scores"] - theirs["scores"]).max())
    size = max(1.0, float(ours["boxes"].max(initial=0)))
    for one, scores, other in zip(ours["boxes"], ours["scores"], theirs["boxes"], strict=True):
        listed = one[scores >= LEAST + PARITY]
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
    found = _scores(output, chips, fields["classes"])
    threshold = matching.best_threshold(found)
    golden = tuple(_golden(output, chips, chip, threshold) for chip in choose_golden(output))
    taken = fields["input"].model_copy(update={"multiple": int(getattr(net, "stride", STEP))})
    return Detection(
        task="detection", threshold=threshold, golden=golden, **(fields | {"input": taken})
    )


def choose_golden(output: Output) -> list[int]:
    """Choose the chips with the highest sum of scores: with many objects, and sure of them."""
    return [int(chip) for chip in np.argsort(-output["scores"].sum(axis=1), kind="stable")[:GOLDEN]]


def _golden(output: Output, chips: Split, chip: int, threshold: float) -> GoldenObjects:
    listed = output["scores"][chip] >= threshold
    return GoldenObjects(
        chip=pack(chips.chips[chip]),
        boxes=tuple(tuple(box) for box in output["boxes"][chip][listed].tolist()),
        scores=tuple(output["scores"][chip][listed].tolist()),
        labels=tuple(output["labels"][chip][listed].tolist()),
    )


# Measures


def predictions(
    output: Output, test: Split, dataset: Dataset, params: Evaluate
) -> dict[str, dict[str, Found]]:
    """Say of each chip and class which scores are right, and how many objects there are."""
    return _scores(output, test, dataset.classes)


def _scores(output: Output, split: Split, names: tuple[str, ...]) -> dict[str, dict[str, Found]]:
    found = {}
    for chip, row in enumerate(split.rows):
        of_chip = {}
        for index, name in enumerate(names):
            boxes, scores, taken, true = _of_class(output, split, chip, index)
            if len(true) or len(scores):
                right = tuple(scores[taken >= 0].tolist())
                of_chip[name] = Found(len(true), right, tuple(scores[taken < 0].tolist()))
        found[row.sha256[:16]] = of_chip
    return found


def _of_class(
    output: Output, split: Split, chip: int, index: int
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.int64], npt.NDArray[Any]]:
    """Boxes of a class in a chip, their scores, the object that each has taken, and the objects."""
    listed = (output["scores"][chip] >= LEAST) & (output["labels"][chip] == index)
    boxes, scores = output["boxes"][chip][listed], output["scores"][chip][listed]
    labels = split.labels[chip]
    true = np.asarray(labels[labels[:, 0] == index][:, 1:])
    return boxes, scores, matching.match(boxes, true), true


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


def _rows(found: Scores) -> Iterator[tuple[str, ...]]:
    for chip in sorted(found):
        if not found[chip]:
            yield chip, "", "0", "", ""
        for name, item in sorted(found[chip].items()):
            right, wrong = (
                " ".join(f"{score:.4f}" for score in of) for of in (item.right, item.wrong)
            )
            yield chip, name, str(item.objects), right, wrong


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
    names, threshold = dataset.classes, manifest.threshold
    found = _scores(output, test, names)
    times = matching.resample(len(test.rows), params.bootstrap_samples)
    low, high = matching.percentiles(matching.mean_average_precision(found, names, times))
    counts = matching.count(found, threshold)
    classes = {name: _class_scores(output, test, found, names, name, threshold) for name in names}
    listed = [item for of in found.values() for item in of.values()]
    sure = np.array([score for item in listed for score in (*item.right, *item.wrong)])
    right = np.array([r for i in listed for r in [True] * len(i.right) + [False] * len(i.wrong)])
    bins = reliability(sure, right.astype(bool), params.calibration_bins) if len(sure) else []
    error = calibration_error(bins)
    return Evaluation(
        metrics={
            "ap50": float(matching.mean_average_precision(found, names)[0]),
            "ap50_low": low,
            "ap50_high": high,
            "f1": counts.f1,
            "recall": counts.recall,
            "precision": counts.precision,
            "threshold": threshold,
            "calibration_error": error,
            "test_objects": counts.right + counts.missed,
            "test_chips": len(test.rows),
            "test_groups": len({row.label for row in test.rows}),
        },
        classes=classes,
        tables={
            "confusion": Table(("actual", "predicted"), _pairs(output, test, names, threshold)),
            "classes": Table(
                ("class", "ap50", "recall", "precision", "f1", "support"),
                [(name, *list(of.values())[:5]) for name, of in classes.items()],
            ),
            "reliability": Table(("confidence", "accuracy", "share"), bins),
        },
        figures={
            "misses": _draw_misses(dataset, test, output, threshold),
            "precision-recall": _draw_precision(found, names, threshold),
            "reliability": draw_reliability(bins, error, "boxes"),
        },
        predictions=Table(COLUMNS, _rows(found)),
    )


def _class_scores(
    output: Output,
    test: Split,
    found: Scores,
    names: tuple[str, ...],
    name: str,
    threshold: float,
) -> dict[str, Any]:
    """Scores of a class, and by size how many objects are found of how many."""
    sizes = {size: [0, 0] for size, _ in SIZES}
    for chip in range(len(test.rows)):
        _, scores, taken, true = _of_class(output, test, chip, names.index(name))
        hit = set(taken[(taken >= 0) & (scores >= threshold)].tolist())
        for number, size in enumerate(matching.size_of(true)):
            sizes[size][0] += number in hit
            sizes[size][1] += 1
    counts = matching.count(found, threshold, name)
    return {
        "ap50": float(np.nan_to_num(matching.average_precision(found, name)[0])),
        "recall": counts.recall,
        "precision": counts.precision,
        "f1": counts.f1,
        "support": counts.right + counts.missed,
        "sizes": sizes,
    }


def _pairs(
    output: Output, test: Split, names: tuple[str, ...], threshold: float
) -> Iterator[tuple[str, str]]:
    """True and found class of each object and box; an object may be taken by a box of any class."""
    for chip in range(len(test.rows)):
        sure = output["scores"][chip] >= threshold
        labels = test.labels[chip]
        true = labels[labels[:, 0] >= 0]
        taken = matching.match(output["boxes"][chip][sure], true[:, 1:])
        for index, number in zip(output["labels"][chip][sure], taken, strict=True):
            yield (names[int(true[number, 0])] if number >= 0 else NOTHING), names[int(index)]
        for number in sorted(set(range(len(true))) - set(taken.tolist())):
            yield names[int(true[number, 0])], NOTHING


# Pictures


def _draw_misses(dataset: Dataset, test: Split, output: Output, threshold: float) -> "Figure":
    """Draw the chips with most mistakes: objects found, objects missed, and false boxes."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle

    from pipeline.tasks import plots

    wrong = {}
    for chip in range(len(test.rows)):
        drawn = []  # box, colour
        for index in range(len(dataset.classes)):
            boxes, scores, taken, true = _of_class(output, test, chip, index)
            sure = scores >= threshold
            hit = set(taken[sure].tolist())
            missed = [box for number, box in enumerate(true) if number not in hit]
            drawn += [(box, "#009e73") for box in boxes[sure & (taken >= 0)]]
            drawn += [(box, "#e69f00") for box in boxes[sure & (taken < 0)]]
            drawn += [(box, "#d81b60") for box in missed]
        wrong[chip] = drawn
    mistakes = {chip: sum(colour != "#009e73" for _, colour in d) for chip, d in wrong.items()}
    worst = sorted(wrong, key=lambda chip: -mistakes[chip])[:SHOWN]
    figure = plots.figure(2.2 * ACROSS, 2.4 * math.ceil(len(worst) / ACROSS) + 0.5)
    grid = figure.subplots(math.ceil(len(worst) / ACROSS), ACROSS, squeeze=False)
    for axes, chip in zip(grid.flat, worst, strict=False):
        axes.imshow(plots.true_colour(test.chips[chip], dataset.bands), interpolation="nearest")
        for (left, top, right, bottom), colour in wrong[chip]:
            corner, size = (left - 0.5, top - 0.5), (right - left, bottom - top)
            axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=colour, linewidth=1.2))
        title = plots.plain([f"{test.rows[chip].label}, mistakes: {mistakes[chip]}"])[0]
        axes.set_title(title, fontsize=7)
    for axes in grid.flat:
        axes.axis("off")
    kinds = (("#009e73", "found"), ("#d81b60", "missed"), ("#e69f00", "false"))
    lines = [Line2D([], [], color=colour, label=label) for colour, label in kinds]
    figure.legend(handles=lines, loc="outside lower center", ncols=3, fontsize=8)
    return figure


def _draw_precision(found: Scores, names: tuple[str, ...], threshold: float) -> "Figure":
    """Draw precision over recall at all thresholds, and where the bundle's lies."""
    from pipeline.tasks import plots

    figure = plots.figure(4.6, 4.2)
    axes = figure.subplots()
    steps = np.arange(1, 100) / 100
    for name, label in zip(names, plots.plain(names), strict=True):
        counts = [matching.count(found, float(step), name) for step in steps]
        curve = [(count.recall, count.precision) for count in counts if count.right + count.wrong]
        chosen = matching.count(found, threshold, name)
        drawn = axes.plot(*zip(*curve, strict=True), linewidth=1.2, label=label) if curve else []
        for line in drawn:
            axes.scatter([chosen.recall], [chosen.precision], color=line.get_color(), s=30)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    axes.set_title(f"The point is the threshold, {threshold:g}", fontsize=9)
    axes.grid(alpha=0.25)
    axes.legend(loc="lower left", fontsize=8)
    return figure


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


def sections(classes: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """A table of the classes, the weakest first, and one of the sizes."""
    sizes = md.table(["size, pixels", "recall", "change", "objects"], _size_rows(classes, before))
    return [class_section(classes, before, CLASS_COLUMNS), f"## Recall by size\n\n{sizes}"]


def _size_rows(now: dict[str, Any], before: dict[str, Any]) -> list[list[str]]:
    rows, was = [], _by_size(before)
    for (size, limit), (found, of) in zip(SIZES, _by_size(now).values(), strict=True):
        old_found, old_of = was[size]
        below = f"{size}, under {limit:g}" if np.isfinite(limit) else size
        change = f"{found / of - old_found / old_of:+.1%}" if of and old_of else "-"
        rows.append([below, f"{found / of:.1%}" if of else "-", change, str(of)])
    return rows
