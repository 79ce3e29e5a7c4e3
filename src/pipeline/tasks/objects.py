"""What is measured of found objects and drawn, whether they are compared by boxes or by masks.

In the shapes below K is dataset.MOST_OBJECTS; n of these are answers that are listed in a chip, and
m are true objects.
"""

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.data.dataset import Dataset
from pipeline.data.prepared import Split
from pipeline.params import Evaluate
from pipeline.tasks import matching
from pipeline.tasks.calibration import (
    Reliability,
    calibration_error,
    draw_reliability,
    reliability,
)
from pipeline.tasks.matching import SIZES, Found, Scores
from pipeline.tasks.task import Evaluation, Output, Table

# matplotlib takes seconds to import: it is imported where it is used.
if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAST = 0.01  # score of a box that is listed
SHOWN, ACROSS = 12, 4  # chips of the picture, and how many in a row
NOTHING = "(nothing)"
COLUMNS = ("chip", "class", "objects", "right", "wrong")

Bools = npt.NDArray[np.bool_]
Overlap = Callable[[int, Bools, Bools], matching.Floats]
"""IoU of some answers of a chip, (K,), with some of its objects, (K,): (n, m)."""
Draw = Callable[["Axes", int, bool, int, str], None]
"""Draws an object of a chip into its picture: whether it was found or is true, number, colour."""


def by_boxes(output: Output, split: Split) -> Overlap:
    """Compare answers with objects by their boxes."""

    def overlap(chip: int, listed: Bools, true: Bools) -> matching.Floats:
        boxes = np.asarray(split.labels[chip][true][:, 1:5])
        return matching.overlaps(output["boxes"][chip][listed], boxes)

    return overlap


def scores_by_chip(
    output: Output, split: Split, names: tuple[str, ...], overlap: Overlap
) -> dict[str, dict[str, Found]]:
    """Say of each chip and class which scores are right by an overlap."""
    found = {}
    for chip, row in enumerate(split.rows):
        of_chip = {}
        for index, name in enumerate(names):
            match = _match(output, split, chip, index, overlap)
            if len(match.true) or len(match.scores):
                right = tuple(match.scores[match.taken >= 0].tolist())
                wrong = tuple(match.scores[match.taken < 0].tolist())
                of_chip[name] = Found(len(match.true), right, wrong)
        found[row.sha256[:16]] = of_chip
    return found


class _Match(NamedTuple):
    """What was found of a class in a chip, (n,), and its objects, (m,)."""

    found: npt.NDArray[np.int64]
    """Numbers of the answers, of K."""
    scores: npt.NDArray[Any]
    taken: npt.NDArray[np.int64]
    """Which of the objects each one is, -1 for none."""
    true: npt.NDArray[np.int64]
    """Numbers of the objects, of K."""


def _match(output: Output, split: Split, chip: int, index: int, overlap: Overlap) -> _Match:
    listed = (output["scores"][chip] >= LEAST) & (output["labels"][chip] == index)
    true = split.labels[chip][:, 0] == index
    taken = matching.assign(overlap(chip, listed, true))
    numbers = (np.flatnonzero(of) for of in (listed, true))
    return _Match(next(numbers), output["scores"][chip][listed], taken, next(numbers))


def measure(
    output: Output,
    test: Split,
    dataset: Dataset,
    params: Evaluate,
    threshold: float,
    overlap: Overlap,
    draw: Draw,
) -> Evaluation:
    """Measure AP50 with an interval by images, and F1 at a threshold; see `Task.evaluate`.

    Args:
        overlap: by which an answer is right.
        draw: the objects of the chips with most mistakes.
    """
    names = dataset.classes
    found = scores_by_chip(output, test, names, overlap)
    times = matching.resample(len(test.rows), params.bootstrap_samples)
    low, high = matching.percentiles(matching.mean_average_precision(found, names, times))
    counts = matching.count(found, threshold)
    classes = {
        name: _class_scores(output, test, found, (index, name), threshold, overlap)
        for index, name in enumerate(names)
    }
    bins = _reliability(found, params.calibration_bins)
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
            "confusion": Table(
                ("actual", "predicted"), _pairs(output, test, names, threshold, overlap)
            ),
            "classes": Table(
                ("class", "ap50", "recall", "precision", "f1", "support"),
                [(name, *list(of.values())[:5]) for name, of in classes.items()],
            ),
            "reliability": Table(("confidence", "accuracy", "share"), bins),
        },
        figures={
            "misses": _draw_misses(dataset, test, output, threshold, overlap, draw),
            "precision-recall": _draw_precision(found, names, threshold),
            "reliability": draw_reliability(bins, error, "boxes"),
        },
        predictions=Table(COLUMNS, rows(found)),
    )


def _reliability(found: Scores, count: int) -> list[Reliability]:
    """How often boxes of about a score are right; see `calibration.reliability`."""
    listed = [item for of in found.values() for item in of.values()]
    sure = np.array([score for item in listed for score in (*item.right, *item.wrong)])
    right = np.array([r for i in listed for r in [True] * len(i.right) + [False] * len(i.wrong)])
    return reliability(sure, right.astype(bool), count) if len(sure) else []


def _class_scores(
    output: Output,
    test: Split,
    found: Scores,
    of: tuple[int, str],
    threshold: float,
    overlap: Overlap,
) -> dict[str, Any]:
    """Scores of a class, and by size how many objects are found of how many."""
    (index, name), sizes = of, {size: [0, 0] for size, _ in SIZES}
    for chip in range(len(test.rows)):
        match = _match(output, test, chip, index, overlap)
        hit = set(match.taken[(match.taken >= 0) & (match.scores >= threshold)].tolist())
        true = np.asarray(test.labels[chip][match.true][:, 1:5])
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
    output: Output, test: Split, names: tuple[str, ...], threshold: float, overlap: Overlap
) -> Iterator[tuple[str, str]]:
    """True and found class of each object and box; an object may be taken by a box of any class."""
    for chip in range(len(test.rows)):
        sure = output["scores"][chip] >= threshold
        present = test.labels[chip][:, 0] >= 0
        true = test.labels[chip][present]
        taken = matching.assign(overlap(chip, sure, present))
        for index, number in zip(output["labels"][chip][sure], taken, strict=True):
            yield (names[int(true[number, 0])] if number >= 0 else NOTHING), names[int(index)]
        for number in sorted(set(range(len(true))) - set(taken.tolist())):
            yield names[int(true[number, 0])], NOTHING


def rows(found: Scores) -> Iterator[tuple[str, ...]]:
    """Rows of reports/predictions.csv, below COLUMNS."""
    for chip in sorted(found):
        if not found[chip]:
            yield chip, "", "0", "", ""
        for name, item in sorted(found[chip].items()):
            right, wrong = (
                " ".join(f"{score:.4f}" for score in of) for of in (item.right, item.wrong)
            )
            yield chip, name, str(item.objects), right, wrong


# Pictures


def draw_boxes(output: Output, split: Split) -> Draw:
    """Draw the box of an object."""

    def draw(axes: "Axes", chip: int, is_found: bool, number: int, colour: str) -> None:
        from matplotlib.patches import Rectangle

        box = output["boxes"][chip][number] if is_found else split.labels[chip][number, 1:5]
        left, top, right, bottom = box
        corner, size = (left - 0.5, top - 0.5), (right - left, bottom - top)
        axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=colour, linewidth=1.2))

    return draw


def _draw_misses(
    dataset: Dataset, test: Split, output: Output, threshold: float, overlap: Overlap, draw: Draw
) -> "Figure":
    """Draw the chips with most mistakes: objects found, objects missed, and false boxes."""
    from matplotlib.lines import Line2D

    from pipeline.tasks import plots

    wrong = {}
    for chip in range(len(test.rows)):
        drawn = []  # whether it was found, number, colour
        for index in range(len(dataset.classes)):
            match = _match(output, test, chip, index, overlap)
            sure = match.scores >= threshold
            hit = set(match.taken[sure].tolist())
            missed = [number for place, number in enumerate(match.true) if place not in hit]
            drawn += [(True, n, "#009e73") for n in match.found[sure & (match.taken >= 0)]]
            drawn += [(True, n, "#e69f00") for n in match.found[sure & (match.taken < 0)]]
            drawn += [(False, n, "#d81b60") for n in missed]
        wrong[chip] = drawn
    mistakes = {chip: sum(colour != "#009e73" for *_, colour in d) for chip, d in wrong.items()}
    worst = sorted(wrong, key=lambda chip: -mistakes[chip])[:SHOWN]
    figure = plots.figure(2.2 * ACROSS, 2.4 * math.ceil(len(worst) / ACROSS) + 0.5)
    grid = figure.subplots(math.ceil(len(worst) / ACROSS), ACROSS, squeeze=False)
    for axes, chip in zip(grid.flat, worst, strict=False):
        axes.imshow(plots.true_colour(test.chips[chip], dataset.bands), interpolation="nearest")
        for is_found, number, colour in wrong[chip]:
            draw(axes, chip, is_found, number, colour)
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
