"""Pictures of the report, drawn by matplotlib into PNG files: no browser, no display.

No file name holds an underscore: GitLab and CML break links to such pictures.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from contracts.bundle import Input
from pipeline.data.prepared import Split
from pipeline.evaluation.measures import Labels, Probabilities, Reliability

DPI = 110
BLUE, ORANGE, GREY = "#1f6f8b", "#d9822b", "#9aa5ab"
TRUE_COLOUR = ("B04", "B03", "B02")  # red, green, blue of Sentinel-2
MISTAKES, COLUMNS = 18, 6  # the most that are shown, and how many in a row


def confusion(path: Path, names: Sequence[str], labels: Labels, predicted: Labels) -> None:
    """Draw which class is taken for which; a row sums to the chips of that class."""
    count = len(names)
    table = np.zeros((count, count), int)
    np.add.at(table, (labels, predicted), 1)
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    side = 2.6 + 0.48 * count
    figure, axes = _figure(side + 0.6, side)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row in range(count):
        for column in range(count):
            if table[row, column]:
                colour = "white" if share[row, column] > 0.5 else "black"
                text = str(table[row, column])
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(count), _plain(names), rotation=40, ha="right", fontsize=8)
    axes.set_yticks(range(count), _plain(names), fontsize=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(f"Confusion: {int(table.trace())} of {int(table.sum())} test chips right")
    _save(figure, path)


def reliability(path: Path, table: Sequence[Reliability], error: float) -> None:
    """Draw accuracy over confidence; a calibrated model lies on the diagonal."""
    figure, axes = _figure(4.6, 4.2)
    axes.plot((0, 1), (0, 1), color=GREY, linestyle="--", linewidth=1, label="perfect")
    sizes = [20 + 400 * row.share for row in table]
    confidence, accuracy = [row.confidence for row in table], [row.accuracy for row in table]
    axes.plot(confidence, accuracy, color=BLUE, linewidth=1)
    axes.scatter(confidence, accuracy, s=sizes, color=BLUE, alpha=0.7, label="model (area: chips)")
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy")
    axes.set_title(f"Calibration: expected error {error:.3f}")
    axes.legend(loc="upper left", fontsize=8, markerscale=0.5)
    _save(figure, path)


def curves(path: Path, history: Mapping[str, Sequence[float]]) -> None:
    """Draw loss and accuracy over the epochs; the keys are `train/loss`, `validation/loss`, ..."""
    figure = Figure(figsize=(8.4, 3.2), dpi=DPI, layout="constrained")
    for axes, measure in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for split, colour in (("train", ORANGE), ("validation", BLUE)):
            values = history.get(f"{split}/{measure}", ())
            axes.plot(range(1, len(values) + 1), values, color=colour, label=split)
        axes.set_xlabel("epoch")
        axes.set_title(measure.capitalize())
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8)
    _save(figure, path)


def mistakes(
    path: Path, names: Sequence[str], description: Input, test: Split, probabilities: Probabilities
) -> None:
    """Draw the chips that the model is most sure of and gets wrong."""
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != test.labels)
    worst = wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")]
    shown = min(len(worst), MISTAKES)
    rows = max(1, math.ceil(shown / COLUMNS))
    size = (1.75 * COLUMNS, 2.1 * rows + 0.3)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    figure.suptitle(f"The {shown} surest of {len(wrong)} mistakes" if shown else "No mistakes")
    for axes, chip in zip(figure.subplots(rows, COLUMNS).flat, worst[:shown], strict=False):
        axes.imshow(true_colour(test.chips[chip], description))
        true, answer = _plain((names[test.labels[chip]], names[predicted[chip]]))
        axes.set_title(f"{true}\nas {answer} {probabilities[chip].max():.0%}", fontsize=7)
    for axes in figure.axes:
        axes.axis("off")
    _save(figure, path)


def true_colour(chip: npt.NDArray[np.generic], description: Input) -> npt.NDArray[np.float64]:
    """(bands, H, W) digital numbers -> (H, W, 3), 0..1, stretched for the eye."""
    known = [description.bands.index(b) for b in TRUE_COLOUR if b in description.bands]
    chosen = known if len(known) == 3 else [min(i, len(chip) - 1) for i in range(3)]
    picture = chip[chosen].astype(np.float64).transpose(1, 2, 0)
    if description.dtype == "uint8":
        return picture / 255
    low, high = np.percentile(picture, (1, 99))
    stretched: npt.NDArray[np.float64] = np.clip((picture - low) / max(high - low, 1.0), 0, 1)
    return stretched


def _figure(width: float, height: float):  # type: ignore[no-untyped-def]
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    return figure, figure.subplots()


def _plain(names: Sequence[str]) -> list[str]:
    """Keep matplotlib from reading dollar signs in class names as mathematics."""
    return [name.replace("$", r"\$") for name in names]


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure).print_png(str(path), metadata={"Software": None})
