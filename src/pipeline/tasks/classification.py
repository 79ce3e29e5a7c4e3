"""Classification: one class a chip, the argmax of a softmax.

In the shapes below N is a number of chips, B that of a batch. `probabilities` are (N, classes)
float, rows sum to 1; `labels` are (N,) int, indices of classes.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline import markdown as md
from pipeline.data.chip_table import Row
from pipeline.data.dataset import Dataset
from pipeline.data.prepared import Split
from pipeline.params import Evaluate, Gate
from pipeline.tasks.intervals import interval
from pipeline.tasks.predictions import Prediction
from pipeline.tasks.task import Check, Evaluation, Metric, Table, at_least, at_most

# torch, scipy, sklearn and matplotlib take seconds to import: each is imported where it is used.
if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor, nn

Labels = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.float32]

METRICS: tuple[Metric, ...] = (
    Metric("accuracy", "accuracy", "{:.2%}"),
    Metric("macro_f1", "macro F1", "{:.4f}"),
    Metric("log_loss", "log loss", "{:.4f}"),
    Metric("calibration_error", "calibration error", "{:.4f}"),
)
PICTURES: tuple[tuple[str, str], ...] = (
    ("confusion", "Confusion matrix"),
    ("mistakes", "Worst mistakes"),
    ("curves", "Training curves"),
    ("reliability", "Calibration"),
)
TEMPERATURES = (-2.5, 2.5)  # natural logarithm of the temperature: 1/12 to 12
MOST_CLASSES = 40  # of a confusion matrix; more are drawn as PAIRS
PAIRS = 30  # most frequent confusions that are drawn
MISTAKES, COLUMNS = 18, 6  # mistakes that are shown at most, and how many in a row


# The network


def head(features: int, classes: int, dropout: float) -> "nn.Module":
    """Mean over the chip, then one linear layer: (B, features, h, w) -> logits (B, classes)."""
    from torch import nn

    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(features, classes)
    )


def loss(logits: "Tensor", targets: "Tensor", smoothing: float = 0.0) -> "Tensor":
    """Mean cross-entropy; `smoothing` is the share of a target that goes to all classes."""
    from torch.nn import functional as F

    return F.cross_entropy(logits, targets, label_smoothing=smoothing)


def score(logits: "Tensor", targets: "Tensor") -> "Tensor":
    """1 for each chip (B,) whose most likely class is the true one, else 0."""
    return (logits.argmax(dim=1) == targets).float()


def temperature(logits: npt.NDArray[np.float32], targets: Labels) -> float:
    """Find the temperature with the least log loss on held-out chips (Guo et al. 2017).

    Label smoothing and early stopping leave a model with too low or too high confidence. One number
    that divides the logits corrects most of that and changes no predicted class.

    Args:
        logits: (N, classes).
        targets: (N,), index of the true class.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    exact = logits.astype(np.float64)
    rows = np.arange(len(targets))

    def log_loss(logarithm: float) -> float:
        return -float(log_softmax(exact / np.exp(logarithm), axis=1)[rows, targets].mean())

    return float(np.exp(minimize_scalar(log_loss, bounds=TEMPERATURES, method="bounded").x))


def activate(logits: "Tensor") -> "Tensor":
    """Logits (B, classes) -> probabilities (B, classes)."""
    import torch

    return torch.softmax(logits, dim=1)


# The bundle


def signals(output: Probabilities) -> dict[str, npt.NDArray[np.float32]]:
    """Return the confidence, which is the probability of the predicted class, (N,)."""
    return {"confidence": output.max(axis=1)}


def predicted_classes(output: Probabilities) -> Labels:
    """Index of the most likely class of each chip, (N,)."""
    best: Labels = output.argmax(axis=1)
    return best


def golden(output: Probabilities, most: int) -> list[int]:
    """Choose chips of different classes with the highest confidence, far from a tie."""
    predicted = output.argmax(axis=1)
    chosen: dict[int, int] = {}  # class -> chip
    for chip in np.argsort(-output.max(axis=1), kind="stable"):
        chosen.setdefault(int(predicted[chip]), int(chip))
        if len(chosen) == most:
            break
    return list(chosen.values())


# Measures


def predictions(
    output: Probabilities, rows: Sequence[Row], classes: Sequence[str]
) -> list[Prediction]:
    """Return the most likely class of each chip with its probability."""
    return [
        Prediction(row.sha256[:16], row.label, classes[best], float(of_chip[best]))
        for row, best, of_chip in zip(rows, output.argmax(axis=1), output, strict=True)
    ]


def credit(predicted: str, label: str) -> float:
    """1 where the class is the right one, else 0."""
    return float(predicted == label)


def evaluate(output: Probabilities, test: Split, dataset: Dataset, params: Evaluate) -> Evaluation:
    """Measure, score every class, and draw what is wrong where."""
    names = dataset.classes
    predicted = output.argmax(axis=1)
    low, high = interval((predicted == test.labels).astype(np.float64), params.bootstrap_samples)
    table = reliability(test.labels, output, params.calibration_bins)
    error = calibration_error(test.labels, output, params.calibration_bins)
    scores = class_scores(test.labels, predicted, names)
    pairs = [(names[true], names[best]) for true, best in zip(test.labels, predicted, strict=True)]
    return Evaluation(
        metrics={
            "accuracy": float((predicted == test.labels).mean()),
            "accuracy_low": low,
            "accuracy_high": high,
            "macro_f1": macro_f1(test.labels, predicted, len(names)),
            "log_loss": mean_log_loss(test.labels, output),
            "calibration_error": error,
            "test_chips": len(test.labels),
        },
        classes={name: score._asdict() for name, score in scores.items()},
        tables={
            "confusion": Table(("actual", "predicted"), pairs),
            "classes": Table(
                ("class", *ClassScore._fields), [(name, *score) for name, score in scores.items()]
            ),
            "reliability": Table(Reliability._fields, table),
        },
        figures={
            "confusion": _draw_confusion(names, test.labels, predicted),
            "reliability": _draw_reliability(table, error),
            "mistakes": _draw_mistakes(dataset, test, output),
        },
        predictions=predictions(output, test.rows, names),
    )


def calibration_error(labels: Labels, probabilities: Probabilities, bins: int) -> float:
    """Expected calibration error: how far confidence is from accuracy, 0..1 (Guo et al. 2017)."""
    table = reliability(labels, probabilities, bins)
    return sum(row.share * abs(row.accuracy - row.confidence) for row in table)


class Reliability(NamedTuple):
    """Chips whose confidence lies in one bin."""

    confidence: float
    """Mean of the bin."""
    accuracy: float
    share: float
    """Of all chips."""


def reliability(labels: Labels, probabilities: Probabilities, bins: int) -> list[Reliability]:
    """Confidence and accuracy in bins of equal width; empty bins are left out."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == labels
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        Reliability(
            float(confidence[inside].mean()), float(correct[inside].mean()), float(inside.mean())
        )
        for inside in (bin_of == number for number in range(bins))
        if inside.any()
    ]


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


def _draw_confusion(names: Sequence[str], labels: Labels, predicted: Labels) -> "Figure":
    """Draw which class is taken for which; a row sums to the chips of that class.

    A table of more than MOST_CLASSES is too large to read, and its memory grows with the square of
    their number: the most frequent mistakes are drawn instead.
    """
    from pipeline.tasks import plots

    count = len(names)
    if count > MOST_CLASSES:
        return _draw_confused_pairs(names, labels, predicted)
    table = np.zeros((count, count), int)
    np.add.at(table, (labels, predicted), 1)
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    side = 2.6 + 0.48 * count
    figure = plots.figure(side + 0.6, side)
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(table), strict=True):
        colour = "white" if share[row, column] > 0.5 else "black"
        text = str(table[row, column])
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(count), plots.plain(names), rotation=40, ha="right", fontsize=8)
    axes.set_yticks(range(count), plots.plain(names), fontsize=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(f"Confusion: {int(table.trace())} of {int(table.sum())} test chips right")
    return figure


def _draw_confused_pairs(names: Sequence[str], labels: Labels, predicted: Labels) -> "Figure":
    """Draw the pairs of classes that are confused most often, as bars."""
    from pipeline.tasks import plots

    wrong = labels != predicted
    pairs = Counter(zip(labels[wrong].tolist(), predicted[wrong].tolist(), strict=True))
    worst = pairs.most_common(PAIRS)[::-1]
    figure = plots.figure(8, 1.4 + 0.26 * max(1, len(worst)))
    axes = figure.subplots()
    plain = plots.plain(names)
    texts = [f"{plain[true]} as {plain[best]}" for (true, best), _ in worst]
    axes.barh(range(len(worst)), [number for _, number in worst], color=plots.BLUE)
    axes.set_yticks(range(len(worst)), texts, fontsize=8)
    axes.set_xlabel("test chips")
    axes.set_title(
        f"{int((~wrong).sum())} of {len(labels)} test chips right; the {len(worst)} most frequent "
        f"of {len(pairs)} confusions of {len(names)} classes"
    )
    return figure


def _draw_reliability(table: Sequence[Reliability], error: float) -> "Figure":
    """Draw accuracy over confidence; a calibrated model lies on the diagonal."""
    from pipeline.tasks import plots

    figure = plots.figure(4.6, 4.2)
    axes = figure.subplots()
    axes.plot((0, 1), (0, 1), color=plots.GREY, linestyle="--", linewidth=1, label="perfect")
    sizes = [20 + 400 * row.share for row in table]
    confidence, accuracy = [row.confidence for row in table], [row.accuracy for row in table]
    axes.plot(confidence, accuracy, color=plots.BLUE, linewidth=1)
    label = "model (area: chips)"
    axes.scatter(confidence, accuracy, s=sizes, color=plots.BLUE, alpha=0.7, label=label)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy")
    axes.set_title(f"Calibration: expected error {error:.3f}")
    axes.legend(loc="upper left", fontsize=8, markerscale=0.5)
    return figure


def _draw_mistakes(dataset: Dataset, test: Split, probabilities: Probabilities) -> "Figure":
    """Draw the wrong predictions with the highest confidence."""
    from pipeline.tasks import plots

    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != test.labels)
    worst = wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")]
    shown = min(len(worst), MISTAKES)
    rows = max(1, math.ceil(shown / COLUMNS))
    figure = plots.figure(1.75 * COLUMNS, 2.1 * rows + 0.3)
    figure.suptitle(f"The {shown} surest of {len(wrong)} mistakes" if shown else "No mistakes")
    names = plots.plain(dataset.classes)
    for axes, chip in zip(figure.subplots(rows, COLUMNS).flat, worst[:shown], strict=False):
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
    head = ["class", "recall", "change", "precision", "F1", "chips"]
    table = md.table(head, list(_class_rows(classes, before)))
    return [f"## Classes, the weakest first\n\n{table}"]


def _class_rows(now: dict[str, Any], before: dict[str, Any]) -> Iterator[list[str]]:
    for name, score in sorted(now.items(), key=lambda item: item[1]["recall"]):
        old = before.get(name)
        yield [
            md.code(name),
            f"{score['recall']:.1%}",
            f"{score['recall'] - old['recall']:+.1%}" if old else "-",
            f"{score['precision']:.1%}",
            f"{score['f1']:.3f}",
            str(score["support"]),
        ]
