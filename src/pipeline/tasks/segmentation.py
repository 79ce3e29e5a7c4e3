"""Segmentation: one class a pixel, the argmax of a softmax.

In the shapes below N is a number of chips, B that of a batch. The graph answers `labels` (N, H, W)
uint8, indices of classes, and `confidence` (N, H, W) uint8, the probability of that class in
percent; both are 255 where the image has no data. True labels are 255 where no one has said.
"""

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from contracts.bundle import NODATA, Area, GoldenMap, Manifest, Segmentation, pack
from pipeline.data.dataset import Dataset, Kind
from pipeline.data.places import place
from pipeline.data.prepared import Prepared, Split
from pipeline.errors import DataError
from pipeline.params import Evaluate, Gate
from pipeline.tasks import calibration, confusion, overlap
from pipeline.tasks.calibration import calibration_error, draw_reliability, reliability
from pipeline.tasks.comparison import Comparison
from pipeline.tasks.task import (
    Check,
    Evaluation,
    Metric,
    Output,
    Table,
    at_least,
    at_most,
    class_section,
)

# torch and matplotlib take seconds to import: each is imported where it is used.
if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor, nn

Labels = npt.NDArray[np.uint8]
Blocks = dict[str, dict[tuple[str, str], int]]
"""Block of ground -> (true class, predicted class) -> pixels."""

LABELS: Kind = "maps"
STEP = 1
OUTPUTS: tuple[str, ...] = ("labels", "confidence")
PARITY = 1e-3  # of the pixels: two runtimes round near a tie in two ways
QUALITY = "mean_iou"
METRICS: tuple[Metric, ...] = (
    Metric("mean_iou", "mean IoU", "{:.4f}"),
    Metric("accuracy", "accuracy of pixels", "{:.2%}"),
    Metric("calibration_error", "calibration error", "{:.4f}"),
)
CLASS_COLUMNS = (
    ("IoU", "iou", ".3f"),
    ("recall", "recall", ".1%"),
    ("precision", "precision", ".1%"),
    ("pixels", "support", ","),
)
PICTURES: tuple[tuple[str, str], ...] = (
    ("maps", "Maps and their mistakes"),
    ("confusion", "Confusion matrix"),
    ("curves", "Training curves"),
    ("reliability", "Calibration"),
)
PERCENT = 100  # of `confidence`
SAMPLES = 2**22  # pixels that validation looks at, at most
GOLDEN = 2
SHOWN = 6  # chips of the picture
COLUMNS = ("block", "actual", "predicted", "pixels")
# Of a class that has no colour of its own: Okabe and Ito (2008), told apart by the colour-blind,
# and then lighter and darker ones of them.
PALETTE = ("#009e73", "#e69f00", "#56b4e9", "#d55e00", "#cc79a7", "#f0e442", "#0072b2", "#999999")

temperature = calibration.temperature


# The network


def head(features: int, classes: int, dropout: float) -> "nn.Module":
    """One linear layer for each pixel: (B, features, H, W) -> logits (B, classes, H, W)."""
    from torch import nn

    return nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(features, classes, 1))


def class_weights(labels: npt.NDArray[Any], classes: int, power: float) -> "Tensor | None":
    """Weights that favour rare classes, of mean 1 over the labelled pixels; None without any."""
    import torch

    if not power:
        return None
    counts = np.bincount(labels[labels != NODATA], minlength=classes)
    frequency = np.maximum(counts, 1) / max(1, counts.sum())
    weights = frequency**-power
    return torch.tensor(weights / (weights * frequency).sum(), dtype=torch.float32)


def loss(
    logits: "Tensor",
    targets: "Tensor",
    smoothing: float = 0.0,
    weights: "Tensor | None" = None,
) -> "Tensor":
    """Mean cross-entropy of the pixels with a label; 0 where there is none."""
    from torch.nn import functional as F

    total = F.cross_entropy(
        logits, targets, weights, ignore_index=NODATA, reduction="sum", label_smoothing=smoothing
    )
    known = targets != NODATA
    share = known.sum() if weights is None else weights[targets[known]].sum()
    return total / share.clamp(min=1e-6)


def score(logits: "Tensor", targets: "Tensor") -> "Tensor":
    """Share of the labelled pixels of each chip whose most likely class is the true one, (B,)."""
    known = (targets != NODATA).reshape(len(targets), -1)
    correct = (logits.argmax(dim=1) == targets).reshape(len(targets), -1)
    return (correct & known).sum(dim=1) / known.sum(dim=1).clamp(min=1)


def quality(logits: "Tensor", targets: "Tensor") -> float:
    """Mean IoU: most pixels are of few classes, and accuracy would forget the others."""
    classes = logits.shape[1]
    pairs = targets.flatten() * classes + logits.argmax(dim=1).flatten()
    table = pairs.bincount(minlength=classes**2).reshape(classes, classes)
    return overlap.mean_iou(table.cpu().numpy())


def samples(logits: "Tensor", targets: "Tensor", of: int) -> "tuple[Tensor, Tensor]":
    """Labelled pixels, every one or each nth: logits (n, classes, 1, 1), targets (n, 1, 1)."""
    step = max(1, math.ceil(of * targets[0].numel() / SAMPLES))
    known = (targets != NODATA).flatten().nonzero().flatten()[::step]
    classes = logits.shape[1]
    flat = logits.permute(0, 2, 3, 1).reshape(-1, classes)[known]
    return flat, targets.flatten()[known]


def answer(logits: "Tensor", numbers: "Tensor", nodata: int | None) -> "tuple[Tensor, ...]":
    """Logits (B, classes, H, W) -> labels and confidence, (B, H, W) uint8 each."""
    import torch

    highest = logits.amax(dim=1, keepdim=True)
    probability = 1 / torch.exp(logits - highest).sum(dim=1)  # of the most likely class
    labels = logits.argmax(dim=1).to(torch.uint8)
    confidence = torch.round(probability * PERCENT).to(torch.uint8)
    if nodata is None:
        return labels, confidence
    empty = (numbers == float(nodata)).all(dim=1)
    nothing = torch.full((), NODATA, dtype=torch.uint8)
    return torch.where(empty, nothing, labels), torch.where(empty, nothing, confidence)


# The bundle


def difference(ours: Output, theirs: Output) -> float:
    """Share of the pixels that get another class."""
    return float((ours["labels"] != theirs["labels"]).mean())


def signals(output: Output) -> dict[str, npt.NDArray[np.float32]]:
    """Return the mean confidence of the pixels of each chip, (N,); 0 of one without data."""
    confidence = output["confidence"].reshape(len(output["confidence"]), -1)
    known = confidence != NODATA
    total = np.where(known, confidence, 0).sum(axis=1, dtype=np.float64)
    mean: npt.NDArray[np.float32] = (total / np.maximum(known.sum(axis=1), 1) / PERCENT).astype(
        np.float32
    )
    return {"confidence": mean}


def predicted_classes(output: Output) -> npt.NDArray[np.int64]:
    """Index of the largest class of each chip with data."""
    largest = [
        np.bincount(chip[chip != NODATA]).argmax()
        for chip in output["labels"]
        if (chip != NODATA).any()
    ]
    return np.array(largest, np.int64)


def manifest(
    fields: dict[str, Any], output: Output, chips: Split, prepared: Prepared, net: "nn.Module"
) -> Segmentation:
    """Add what tiles need, colours, the area, and golden chips with their maps."""
    from pipeline.tasks.tiling import measure

    dataset = prepared.dataset
    tiling = measure(net, len(dataset.bands))
    golden = tuple(
        GoldenMap(chip=pack(chips.chips[chip]), labels=pack(output["labels"][chip]))
        for chip in choose_golden(output)
    )
    return Segmentation(
        task="segmentation",
        colours=colours(dataset),
        stride=tiling.stride,
        margin=tiling.margin,
        exact=tiling.exact,
        area=_area(prepared),
        golden=golden,
        **fields,
    )


def choose_golden(output: Output) -> list[int]:
    """Choose the chips with most classes, of those the ones with the highest confidence."""
    variety = np.array([len(np.unique(chip[chip != NODATA])) for chip in output["labels"]])
    confidence = signals(output)["confidence"]
    return [int(chip) for chip in np.lexsort((-confidence, -variety))[:GOLDEN]]


def colours(dataset: Dataset) -> tuple[str, ...]:
    """Of each class on a map: its own, or one of the palette, fading with each round."""
    if len(dataset.colours) == len(dataset.classes):
        return dataset.colours

    def fade(colour: str, rounds: int) -> str:
        values = bytes.fromhex(colour.removeprefix("#"))
        return "#" + bytes(round(value * 0.7**rounds) for value in values).hex()

    size = len(PALETTE)
    return tuple(fade(PALETTE[i % size], i // size) for i in range(len(dataset.classes)))


def _area(prepared: Prepared) -> Area | None:
    """The box around the chips of the training; None where they have no CRS."""
    from rasterio.errors import RasterioError
    from rasterio.warp import transform

    dataset = prepared.dataset
    half = dataset.size / 2 * (dataset.resolution or 0)
    corners: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in prepared.split("train").rows:
        if row.centre is not None and row.crs != row.path:
            east, north = row.centre
            corners[row.crs] += [
                (east + x, north + y) for x in (-half, half) for y in (-half, half)
            ]
    longitudes: list[float] = []
    latitudes: list[float] = []
    try:
        for crs, places in corners.items():
            x, y = transform(crs, "EPSG:4326", *zip(*places, strict=True))
            longitudes, latitudes = longitudes + x, latitudes + y
    except RasterioError:
        return None
    if not longitudes:
        return None
    west, east = min(longitudes), max(longitudes)
    if east - west > 180:  # across the date line
        west = min(x for x in longitudes if x > 0)
        east = max(x for x in longitudes if x <= 0)
    first, last = dataset.dates or ("", "")
    return Area(
        west=west,
        south=min(latitudes),
        east=east,
        north=max(latitudes),
        first=first,
        last=last,
    )


# Measures


def predictions(output: Output, test: Split, dataset: Dataset, params: Evaluate) -> Blocks:
    """Count which class is taken for which, in each block of the test split."""
    found: Blocks = defaultdict(lambda: defaultdict(int))
    names = dataset.classes
    for labels, predicted, row in zip(test.labels, output["labels"], test.rows, strict=True):
        known = (labels != NODATA) & (predicted != NODATA)
        for block, inside in place(row, dataset, params.block_size).names():
            chosen = known & inside
            table = confusion.count(labels[chosen], predicted[chosen], names)
            for true, best in zip(*np.nonzero(table), strict=True):
                found[block][names[true], names[best]] += int(table[true, best])
    return {block: dict(pairs) for block, pairs in found.items()}


def parse_predictions(text: str, origin: str) -> Blocks:
    """Read reports/predictions.csv: the confusion matrix of each block.

    Raises:
        DataError: it is not such a table; `origin` says where it came from.
    """
    found: Blocks = defaultdict(dict)
    try:
        for record in csv.DictReader(io.StringIO(text)):
            found[record["block"]][record["actual"], record["predicted"]] = int(record["pixels"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{origin} is not a table of confusions by block ({type(error).__name__}: {error}): "
            f"make it again with `dvc repro evaluate`"
        ) from None
    return dict(found)


def compare(
    champion: Mapping[str, Any], challenger: Mapping[str, Any], samples: int
) -> Comparison | None:
    """Compare the mean IoU on the blocks that both were tested on: a paired bootstrap of blocks.

    Pixels of a block look alike, so a bootstrap of pixels would take noise for a difference.
    """
    shared = sorted(champion.keys() & challenger.keys())
    if not shared:
        return None
    pairs = [pair for of in (champion, challenger) for block in shared for pair in of[block]]
    names = sorted({name for pair in pairs for name in pair})
    old, new = (overlap.matrices([of[b] for b in shared], names) for of in (champion, challenger))
    gain = overlap.accuracy(new) - overlap.accuracy(old)
    return Comparison(
        chips=len(shared),
        champion=overlap.mean_iou(old.sum(axis=0)),
        challenger=overlap.mean_iou(new.sum(axis=0)),
        difference=overlap.difference(old, new, samples),
        fixed=int((gain > 0).sum()),
        broken=int((gain < 0).sum()),
        measure="mean IoU",
        unit="test blocks",
    )


def evaluate(
    output: Output, test: Split, dataset: Dataset, params: Evaluate, manifest: Manifest
) -> Evaluation:
    """Measure by pixels, with intervals by blocks, and draw what is wrong where."""
    names = dataset.classes
    blocks = predictions(output, test, dataset, params)
    matrices = overlap.matrices(list(blocks.values()), names)
    table = matrices.sum(axis=0)
    low, high = overlap.interval(matrices, params.bootstrap_samples)
    known = (test.labels != NODATA) & (output["labels"] != NODATA)
    correct = (test.labels == output["labels"])[known]
    confidence = output["confidence"][known].astype(np.float64) / PERCENT
    bins = reliability(confidence, correct, params.calibration_bins)
    error = calibration_error(bins)
    scores = {name: overlap.scores(table, index) for index, name in enumerate(names)}
    return Evaluation(
        metrics={
            "mean_iou": overlap.mean_iou(table),
            "mean_iou_low": low,
            "mean_iou_high": high,
            "accuracy": float(table.trace() / max(1, table.sum())),
            "calibration_error": error,
            "test_pixels": int(table.sum()),
            "test_blocks": len(blocks),
            "test_chips": len(test.rows),
        },
        classes={name: score._asdict() for name, score in scores.items()},
        tables={
            "confusion": Table(COLUMNS[1:], _pairs(names, table)),
            "classes": Table(
                ("class", *overlap.ClassScore._fields), [(n, *s) for n, s in scores.items()]
            ),
            "reliability": Table(("confidence", "accuracy", "share"), bins),
        },
        figures={
            "confusion": confusion.draw(names, table, "pixels"),
            "reliability": draw_reliability(bins, error, "pixels"),
            "maps": _draw_maps(dataset, test, output),
        },
        predictions=Table(
            COLUMNS,
            ((b, *pair, n) for b in sorted(blocks) for pair, n in sorted(blocks[b].items())),
        ),
    )


def _pairs(names: tuple[str, ...], table: confusion.Matrix) -> Iterator[tuple[str, str, int]]:
    for true, best in zip(*np.nonzero(table), strict=True):
        yield names[true], names[best], int(table[true, best])


# Pictures


def _draw_maps(dataset: Dataset, test: Split, output: Output) -> "Figure":
    """Draw the test chips with most mistakes: image, labels, map, and where they differ."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    from pipeline.tasks import plots

    known = (test.labels != NODATA) & (output["labels"] != NODATA)
    wrong = known & (test.labels != output["labels"])
    worst = np.argsort(-wrong.sum(axis=(1, 2)), kind="stable")[:SHOWN]
    drawn = plots.figure(8.6, 2.1 * len(worst) + 0.9)
    palette = ListedColormap(list(colours(dataset)))
    most = len(dataset.classes) - 0.5
    titles = ("image", "labels", "map", "mistakes")
    grid = drawn.subplots(len(worst), len(titles), squeeze=False)
    for line, chip in zip(grid, worst, strict=True):
        line[0].imshow(plots.true_colour(test.chips[chip], dataset.bands))
        for axes, of_pixels in zip(line[1:3], (test.labels, output["labels"]), strict=True):
            shown = np.ma.masked_equal(of_pixels[chip], NODATA)
            axes.imshow(shown, palette, vmin=-0.5, vmax=most, interpolation="nearest")
        line[3].imshow(wrong[chip], "Reds", vmin=0, vmax=1, interpolation="nearest")
        share = wrong[chip].sum() / max(1, known[chip].sum())
        for axes, title in zip(line, (*titles[:3], f"mistakes, {share:.0%}"), strict=True):
            axes.set_title(title, fontsize=7)
            axes.axis("off")
    names = plots.plain(dataset.classes)
    patches = [Patch(color=c, label=n) for c, n in zip(colours(dataset), names, strict=True)]
    drawn.legend(handles=patches[:20], loc="outside lower center", ncols=5, fontsize=7)
    return drawn


# The gate and the report


def floors(metrics: dict[str, Any], classes: dict[str, Any], floors: Gate) -> list[Check]:
    """Mean IoU, the lowest IoU of a class, and the calibration error."""
    worst, of_worst = min(classes.items(), key=lambda item: item[1]["iou"])
    return [
        at_least("mean IoU", metrics["mean_iou"], floors.min_mean_iou),
        at_least(f"IoU of {worst} (the lowest)", of_worst["iou"], floors.min_iou),
        at_most("calibration error", metrics["calibration_error"], floors.max_calibration_error),
    ]


def headline(metrics: dict[str, Any]) -> str:
    """State the mean IoU with its interval."""
    return (
        f"Mean IoU **{metrics['mean_iou']:.3f}** (95 % interval by blocks "
        f"{metrics['mean_iou_low']:.3f} to {metrics['mean_iou_high']:.3f}), "
        f"{metrics['accuracy']:.2%} of {metrics['test_pixels']:,} test pixels right, in "
        f"{metrics['test_blocks']} blocks of ground."
    )


def sections(classes: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """A table of the classes, the weakest first."""
    return [class_section(classes, before, CLASS_COLUMNS)]
