"""How a panel of each kind is drawn into its frame of a picture, by matplotlib."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from monitoring.board import Kind, Panel
from monitoring.frame import DARK, FAINT, GREY, SMALL, Found, Frame, clock, colour_of, cut, said
from monitoring.lines import draw_lines
from monitoring.series import Series, Span
from monitoring.units import number

LINE = 17  # pixels of a row of a table
WORD = 24  # letters of a cell of a table


def _stat(frame: Frame, panel: Panel, found: Found, span: Span) -> None:
    rows = [series for rows in found for series in rows]
    if len(rows) == 1:
        colour = colour_of(panel, rows[0].now) if panel.thresholds else DARK
        words = said(panel, rows[0].now)
        frame.write(frame.width / 2, 58, words, 21, colour, "center", "bold")
        frame.write(frame.width / 2, 94, cut(rows[0].name, frame.width - 16), 7, GREY, "center")
        return
    for place, series in enumerate(rows[:4]):
        y = 38 + 20 * place
        frame.write(8, y, cut(series.name, frame.width - 76), SMALL, GREY)
        words, colour = said(panel, series.now), colour_of(panel, series.now)
        frame.write(frame.width - 8, y, words, 10, colour if panel.thresholds else DARK, "right")


def _bargauge(frame: Frame, panel: Panel, found: Found, span: Span) -> None:
    rows = [series for rows in found for series in rows]
    axes = frame.axes(150, 30, 80, 10)
    full = max([panel.maximum or 0.0, *(series.now for series in rows)]) or 1.0
    for place, series in enumerate(rows):
        axes.barh(place, full, 0.6, color=FAINT)
        axes.barh(place, max(series.now, 0), 0.6, color=colour_of(panel, series.now))
        axes.text(full * 1.02, place, said(panel, series.now), va="center", fontsize=8, color=DARK)
    axes.set_yticks(range(len(rows)), [cut(series.name, 140) for series in rows], color=DARK)
    axes.set(xlim=(0, full), ylim=(max(len(rows), 3) - 0.5, -0.5), xticks=[])


def _statetimeline(frame: Frame, panel: Panel, found: Found, span: Span) -> None:
    rows = sorted((series for rows in found for series in rows), key=lambda row: row.name)
    left = min(260, 22 + 6 * max(len(row.name) for row in rows))
    axes = frame.axes(left, 26, 10, 18)
    picture = np.ones((len(rows), len(span.times), 3))
    for place, row in enumerate(rows):
        known = np.flatnonzero(~np.isnan(row.values))
        picture[place, known] = [to_rgb(colour_of(panel, row.values[i])) for i in known]
    edges = (span.start / 86400, span.end / 86400, len(rows) - 0.5, -0.5)
    axes.imshow(picture, aspect="auto", extent=edges, interpolation="nearest", alpha=0.85)
    for line in np.arange(0.5, len(rows) - 0.5):
        axes.axhline(line, color="white", linewidth=1.5)
    axes.set_ylim(max(len(rows), 3) - 0.5, -0.5)  # few rows are no taller for it
    small = SMALL if len(rows) <= 16 else 6
    names = [cut(row.name, left) for row in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=small, color=DARK)
    if panel.texts or not panel.thresholds:
        _states(axes, panel, rows, span)
    clock(axes)


def _states(axes: Axes, panel: Panel, rows: Sequence[Series], span: Span) -> None:
    """Write each state where it begins, unless it is short."""
    for place, row in enumerate(rows):
        values = np.nan_to_num(row.values, nan=-1)
        begins = np.flatnonzero(np.diff(values, prepend=-2))
        for begin, end in zip(begins, [*begins[1:], len(values)], strict=True):
            if values[begin] >= 0 and end - begin > len(values) / 12:
                words = said(panel, float(values[begin]))
                when = (span.times[begin] + span.step * 2) / 86400
                axes.text(
                    when, place, words, va="center", fontsize=6.5, color="white", clip_on=True
                )


def _heatmap(frame: Frame, panel: Panel, found: Found, span: Span) -> None:
    rows = sorted(found[0], key=lambda row: float(row.labels["le"]))
    counts = np.nan_to_num([row.values for row in rows])  # (buckets, times), each with those below
    counts = np.maximum(np.diff(counts, axis=0, prepend=0), 0)
    axes = frame.axes(56, 28, 10, 22)
    edges = (span.start / 86400, span.end / 86400, -0.5, len(rows) - 0.5)
    axes.imshow(
        counts, aspect="auto", extent=edges, origin="lower", cmap="Blues", interpolation="nearest"
    )
    shown = range(1, len(rows), max(1, len(rows) // 5))
    names = [number(float(rows[i].labels["le"]), panel.unit) for i in shown]
    # A bucket reaches up to its name.
    axes.set_yticks([i + 0.5 for i in shown], [name.replace("–", "∞") for name in names])
    axes.set_ylim(-0.5, len(rows) - 0.5)
    clock(axes)


def _table(frame: Frame, panel: Panel, found: Found, span: Span) -> None:
    if panel.matrix:
        _matrix(frame, panel.matrix, found[0])
        return
    labels = sorted({name for rows in found for series in rows for name in series.labels})
    cells: dict[tuple[str, ...], list[str]] = {}
    for place, rows in enumerate(found):
        for series in rows:
            key = tuple(series.labels.get(name, "") for name in labels)
            cells.setdefault(key, [""] * len(found))[place] = said(panel, series.now)
    names = [*labels, *(query.legend for query in panel.queries)]
    lines = [[*key, *values] for key, values in sorted(cells.items())]
    fits = int((frame.height - 48) / LINE)
    edges = _columns([names, *lines], frame.width - 16)
    for row, line in enumerate([names, *lines[:fits]]):
        for words, left, right in zip(line, edges, edges[1:], strict=False):
            weight, colour = ("bold", GREY) if row == 0 else ("normal", DARK)
            words = cut(words, min(6.5 * WORD, 0.85 * (right - left)))
            frame.write(8 + left, 36 + LINE * row, words, 7.5, colour, weight=weight)
    if len(lines) > fits:
        frame.write(frame.width - 8, 13, f"+{len(lines) - fits} more", 6.5, GREY, "right")


def _columns(lines: Sequence[Sequence[str]], width: float) -> list[float]:
    """Where the columns of a table begin, and where the last ends: by their longest words."""
    longest = [max(len(words) for words in column) for column in zip(*lines, strict=True)]
    shares = np.array([min(letters, WORD) + 2 for letters in longest], float)
    return [0.0, *(width * np.cumsum(shares) / shares.sum()).tolist()]


def _matrix(frame: Frame, matrix: tuple[str, str], found: list[Series]) -> None:
    down, across = ([series.labels.get(name, "") for series in found] for name in matrix)
    names = sorted({*down, *across})
    table = np.zeros((len(names), len(names)))
    for row, column, series in zip(down, across, found, strict=True):
        table[names.index(row), names.index(column)] = series.now
    axes = frame.axes(120, 28, 14, 46)
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in zip(*np.nonzero(table), strict=True):
        colour = "white" if share[row, column] > 0.5 else DARK
        words = number(table[row, column], "short")
        axes.text(column, row, words, ha="center", va="center", fontsize=SMALL, color=colour)
    shown = [cut(name, 110) for name in names]
    axes.set_yticks(range(len(names)), shown, color=DARK)
    axes.set_xticks(range(len(names)), shown, rotation=20, ha="right", color=DARK, fontsize=6.5)


DRAWERS: dict[Kind, Callable[[Frame, Panel, Found, Span], None]] = {
    "bargauge": _bargauge,
    "heatmap": _heatmap,
    "stat": _stat,
    "statetimeline": _statetimeline,
    "table": _table,
    "timeseries": draw_lines,
}
