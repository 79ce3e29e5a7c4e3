"""Confusion matrices: counted, and drawn."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

# matplotlib takes a second to import: it is imported where it is used.
if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_CLASSES = 40  # of a picture of the matrix; of more the PAIRS are drawn
PAIRS = 30  # most frequent confusions that are drawn

Matrix = npt.NDArray[np.int64]
"""(classes, classes): a row is a true class, a column a predicted one."""


def count(labels: npt.NDArray[Any], predicted: npt.NDArray[Any], names: Sequence[str]) -> Matrix:
    """Count which class is taken for which; `labels` and `predicted` are (N,) indices."""
    classes = len(names)
    pairs = labels.astype(np.int64) * classes + predicted
    table: Matrix = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    return table


def draw(names: Sequence[str], table: Matrix, unit: str) -> "Figure":
    """Draw which class is taken for which; a row sums to the chips, or pixels, of that class.

    A table of more than MOST_CLASSES is too large to read, and its memory grows with the square of
    their number: the most frequent mistakes are drawn instead.
    """
    from pipeline.tasks import plots

    count = len(names)
    if count > MOST_CLASSES:
        return _draw_pairs(names, table, unit)
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    side = 2.6 + 0.48 * count
    figure = plots.figure(side + 0.6, side)
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(table), strict=True):
        colour = "white" if share[row, column] > 0.5 else "black"
        # Thousands of pixels do not fit into a cell.
        text = f"{share[row, column]:.0%}" if unit == "pixels" else str(table[row, column])
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(count), plots.plain(names), rotation=40, ha="right", fontsize=8)
    axes.set_yticks(range(count), plots.plain(names), fontsize=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(f"Confusion: {int(table.trace())} of {int(table.sum())} test {unit} right")
    return figure


def _draw_pairs(names: Sequence[str], table: Matrix, unit: str) -> "Figure":
    """Draw the pairs of classes that are confused most often, as bars."""
    from pipeline.tasks import plots

    wrong = table.copy()
    np.fill_diagonal(wrong, 0)
    pairs = np.argsort(-wrong, axis=None, kind="stable")[: min(PAIRS, np.count_nonzero(wrong))]
    worst = [divmod(int(pair), len(names)) for pair in pairs][::-1]
    figure = plots.figure(8, 1.4 + 0.26 * max(1, len(worst)))
    axes = figure.subplots()
    plain = plots.plain(names)
    texts = [f"{plain[true]} as {plain[best]}" for true, best in worst]
    axes.barh(range(len(worst)), [int(wrong[pair]) for pair in worst], color=plots.BLUE)
    axes.set_yticks(range(len(worst)), texts, fontsize=8)
    axes.set_xlabel(f"test {unit}")
    axes.set_title(
        f"{int(table.trace())} of {int(table.sum())} test {unit} right; the {len(worst)} most "
        f"frequent of {np.count_nonzero(wrong)} confusions of {len(names)} classes"
    )
    return figure
