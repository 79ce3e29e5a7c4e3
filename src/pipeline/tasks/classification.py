"""Classification: one class a chip, the argmax of a softmax.

In the shapes below N is a number of chips, B that of a batch. The graph answers `probabilities`,
(N, classes) float, rows sum to 1; `labels` are (N,) int, indices of classes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from contracts.bundle import Classification, Golden, Manifest, pack
from pipeline.data.dataset import Dataset, Kind
from pipeline.data.prepared import Prepared, Split
from pipeline.params import Evaluate, Gate
from pipeline.tasks import calibration, confusion
from pipeline.tasks.calibration import calibration_error, draw_reliability, reliability
from pipeline.tasks.comparison import Comparison, compare_chips
from pipeline.tasks.intervals import interval
from pipeline.tasks.predictions import COLUMNS, Prediction, parse_table, rows
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

# torch, sklearn and matplotlib take seconds to import: each is imported where it is used.
if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor, nn

Labels = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.float32]

LABELS: Kind = "folders"
STEP = 0
OUTPUTS: tuple[str, ...] = ("probabilities",)
PARITY = 1e-4  # of a probability
QUALITY = "accuracy"
METRICS: tuple[Metric, ...] = (
    Metric("accuracy", "accuracy", "{:.2%}"),
    Metric("macro_f1", "macro F1", "{:.4f}"),
    Metric("log_loss", "log loss", "{:.4f}"),
    Metric("calibration_error", "calibration error", "{:.4f}"),
)
CLASS_COLUMNS = (
    ("recall", "recall", ".1%"),
    ("precision", "precision", ".1%"),
    ("F1", "f1", ".3f"),
    ("chips", "support", ""),
)
PICTURES: tuple[tuple[str, str], ...] = (
    ("confusion", "Confusion matrix"),
    ("mistakes", "Worst mistakes"),
    ("curves", "Training curves"),
    ("reliability", "Calibration"),
)
MISTAKES, ACROSS = 18, 6  # mistakes that are shown at most, and how many in a row
GOLDEN = 2

temperature = calibration.temperature
parse_predictions = parse_table


# The network


def head(features: int, classes: int, dropout: float) -> "nn.Module":
    """Mean over the chip, then one linear layer: (B, features, h, w) -> logits (B, classes)."""
    from torch import nn

    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(features, classes)
    )


def class_weights(labels: Labels, classes: int, power: float) -> "Tensor | None":
    """Weights that favour rare classes, of mean 1 over the chips; None without any."""
    import torch

    if not power:
        return None
    frequency = np.bincount(labels, minlength=classes) / len(labels)
    weights = np.maximum(frequency, 1 / len(labels)) ** -power
    return torch.tensor(weights / (weights * frequency).sum(), dtype=torch.float32)


def loss(
    logits: "Tensor",
    targets: "Tensor",
    smoothing: float = 0.0,
    weights: "Tensor | None" = None,
) -> "Tensor":
    """Mean cross-entropy; `smoothing` is the share of a target that goes to all classes."""
    from torch.nn import functional as F

    return F.cross_entropy(logits, targets, weights, label_smoothing=smoothing)


def score(logits: "Tensor", targets: "Tensor") -> "Tensor":
    """1 for each chip (B,) whose most likely class is the true one, else 0."""
    return (logits.argmax(dim=1) == targets).float()


def quality(logits: "Tensor", targets: "Tensor") -> float:
    """Mean of `score`."""
    return float(score(logits, targets).mean())


def samples(logits: "Tensor", targets: "Tensor", of: int) -> "tuple[Tensor, Tensor]":
    """Every chip."""
    return logits, targets


def answer(logits: "Tensor", numbers: "Tensor", nodata: int | None) -> "tuple[Tensor, ...]":
    """Logits (B, classes) -> probabilities (B, classes)."""
    import torch

    return (torch.softmax(logits, dim=1),)


# The bundle


def difference(ours: Output, theirs: Output) -> float:
    """Largest absolute difference of a probability; NaN stays NaN."""
    return float(np.abs(ours["probabilities"] - theirs["probabilities"]).max())


def signals(output: Output) -> dict[str, npt.NDArray[np.float32]]:
    """Return the confidence, which is the probability of the predicted class, (N,)."""
    return {"confidence": output["probabilities"].max(axis=1)}


def predicted_classes(output: Output) -> Labels:
    """Index of the most likely class of each chip, (N,)."""
    best: Labels = output["probabilities"].argmax(axis=1)
    return best


def manifest(
    fields: dict[str, Any], output: Output, chips: Split, prepared: Prepared, net: "nn.Module"
) -> Classification:
    """Add a few golden chips with their probabilities."""
    probabilities = output["probabilities"]
    golden = tuple(
        Golden(chip=pack(chips.chips[chip]), probabilities=tuple(probabilities[chip].tolist()))
        for chip in choose_golden(probabilities, GOLDEN)
    )
    return Classification(task="classification", golden=golden, **fields)


def choose_golden(probabilities: Probabilities, most: int) -> list[int]:
    """Choose chips of different classes with the highest confidence, far from a tie."""
    predicted = probabilities.argmax(axis=1)
    chosen: dict[int, int] = {}  # class -> chip
    for chip in np.argsort(-probabilities.max(axis=1), kind="stable"):
        chosen.setdefault(int(predicted[chip]), int(chip))
        if len(chosen) == most:
            break
    return list(chosen.values())


# Measures


def predictions(
    output: Output, test: Split, dataset: Dataset, params: Evaluate
) -> dict[str, Prediction]:
    """Return the most likely class of each chip with its probability."""
    probabilities: Probabilities = output["probabilities"]
    return {item.chip: item for item in _list_predictions(probabilities, test, dataset)}


def _list_predictions(
    probabilities: Probabilities, test: Split, dataset: Dataset
) -> list[Prediction]:
    best = probabilities.argmax(axis=1)
    return [
        Prediction(row.sha256[:16], row.label, dataset.classes[index], float(of_chip[index]))
        for row, index, of_chip in zip(test.rows, best, probabilities, strict=True)
    ]


def credit(predicted: str, label: str) -> float:
    """1 where the class is the right one, else 0."""
    return float(predicted == label)


def compare(
    champion: Mapping[str, Prediction], challenger: Mapping[str, Prediction], samples: int
) -> Comparison | None:
    """Compare the accuracies on the chips that both were tested on."""
    return compare_chips(champion, challenger, samples, credit)


def evaluate(
    output: Output, test: Split, dataset: Dataset, params: Evaluate, manifest: Manifest
) -> Evaluation:
    """Measure, score every class, and draw what is wrong where."""
    names = dataset.classes
    probabilities: Probabilities = output["probabilities"]
    predicted = probabilities.argmax(axis=1)
    correct = predicted == test.labels
    low, high = interval(correct.astype(np.float64), params.bootstrap_samples)
    confidence = probabilities.max(axis=1).astype(np.float64)
    table = reliability(confidence, correct, params.calibration_bins)
    error = calibration_error(table)
    scores = class_scores(test.labels, predicted, names)
    pairs = [(names[true], names[best]) for true, best in zip(test.labels, predicted, strict=True)]
    return Evaluation(
        metrics={
            "accuracy": float(correct.mean()),
            "accuracy_low": low,
            "accuracy_high": high,
            "macro_f1": macro_f1(test.labels, predicted, len(names)),
            "log_loss": mean_log_loss(test.labels, probabilities),
            "calibration_error": error,
            "test_chips": len(test.labels),
        },
        classes={name: score._asdict() for name, score in scores.items()},
        tables={
            "confusion": Table(("actual", "predicted"), pairs),
            "classes": Table(
                ("class", *ClassScore._fields), [(name, *score) for name, score in scores.items()]
            ),
            "reliability": Table(("confidence", "accuracy", "share"), table),
        },
        figures={
            "confusion": confusion.draw(
                names, confusion.count(test.labels, predicted, names), "chips"
            ),
            "reliability": draw_reliability(table, error, "chips"),
            "mistakes": _draw_mistakes(dataset, test, probabilities),
        },
        predictions=Table(COLUMNS, rows(_list_predictions(probabilities, test, dataset))),
    )


class ClassScore(NamedTuple):
    """Scores of one class."""

    precision: float
    recall: float
    f1: float
    support: int


def class_scores(
    labels: Labels, predicted: Labels, classes: Sequence[str]
) -> dict[str, ClassScore]:
    """Precision, recall, F1 and number of chips of every class."""
    from sklearn.metrics import precision_recall_fscore_support

    columns = precision_recall_fscore_support(
        labels, predicted, labels=range(len(classes)), zero_division=0
    )
    return {
        name: ClassScore(float(p), float(r), float(f), int(s))
        for name, p, r, f, s in zip(classes, *columns, strict=True)
    }


def macro_f1(labels: Labels, predicted: Labels, classes: int) -> float:
    """Mean of the F1 of all classes."""
    from sklearn.metrics import f1_score

    return float(
        f1_score(labels, predicted, labels=range(classes), average="macro", zero_division=0)
    )


def mean_log_loss(labels: Labels, probabilities: Probabilities) -> float:
    """Mean negative log-likelihood, natural logarithm."""
    from sklearn.metrics import log_loss

    exact = probabilities.astype(np.float64)
    exact /= exact.sum(axis=1, keepdims=True)  # float32 softmax sums to 1 within 1e-7 only
    return float(log_loss(labels, exact, labels=range(probabilities.shape[1])))


# Pictures


def _draw_mistakes(dataset: Dataset, test: Split, probabilities: Probabilities) -> "Figure":
    """Draw the wrong predictions with the highest confidence."""
    from pipeline.tasks import plots

    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != test.labels)
    worst = wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")]
    shown = min(len(worst), MISTAKES)
    rows = max(1, math.ceil(shown / ACROSS))
    figure = plots.figure(1.75 * ACROSS, 2.1 * rows + 0.3)
    figure.suptitle(f"The {shown} surest of {len(wrong)} mistakes" if shown else "No mistakes")
    names = plots.plain(dataset.classes)
    for axes, chip in zip(figure.subplots(rows, ACROSS).flat, worst[:shown], strict=False):
        axes.imshow(plots.true_colour(test.chips[chip], dataset.bands))
        true, best = names[test.labels[chip]], names[predicted[chip]]
        axes.set_title(f"{true}\nas {best} {probabilities[chip].max():.0%}", fontsize=7)
    for axes in figure.axes:
        axes.axis("off")
    return figure


# The gate and the report


def floors(metrics: dict[str, Any], classes: dict[str, Any], floors: Gate) -> list[Check]:
    """Accuracy, the lowest recall of a class, and the calibration error."""
    worst, of_worst = min(classes.items(), key=lambda item: item[1]["recall"])
    return [
        at_least("accuracy", metrics["accuracy"], floors.min_accuracy),
        at_least(f"recall of {worst} (the lowest)", of_worst["recall"], floors.min_recall),
        at_most("calibration error", metrics["calibration_error"], floors.max_calibration_error),
    ]


def headline(metrics: dict[str, Any]) -> str:
    """State the accuracy with its interval."""
    return (
        f"Accuracy **{metrics['accuracy']:.2%}** on {metrics['test_chips']} test chips "
        f"(95 % interval {metrics['accuracy_low']:.2%} to {metrics['accuracy_high']:.2%})."
    )


def sections(classes: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """A table of the classes, the weakest first."""
    return [class_section(classes, before, CLASS_COLUMNS)]
