"""Values over time, as lines or as areas on top of each other, by matplotlib."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from monitoring.board import Colour, Panel, Query
from monitoring.frame import DARK, FAINT, GREY, HEX, Found, Frame, clock, cut
from monitoring.series import Floats, Series, Span
from monitoring.units import number, size_of

LINES = (
    "#1f6f8b", "#d9822b", "#5b9c6a", "#8e6fae", "#b8413a",
    "#7a6a53", "#c77fa3", "#6f7c85", "#a8a23a", "#49b0c1",
)  # fmt: skip
NAMED = 12  # names in a legend, the rest is counted


class Mark(NamedTuple):
    """Something that happened."""

    time: float
    """Unix seconds."""
    colour: Colour


def draw_marks(axes: Axes, marks: Sequence[Mark]) -> None:
    """Draw what happened across the lines, as Grafana does with annotations."""
    for mark in marks:
        axes.axvline(mark.time / 86400, color=HEX[mark.colour], linewidth=0.8, dashes=(2, 2))


def draw_lines(frame: Frame, panel: Panel, found: Found, span: Span) -> None:
    """Draw a panel of the kind `timeseries`."""
    pairs = [
        (query, series) for query, rows in zip(panel.queries, found, strict=True) for series in rows
    ]
    names = [series.name for _, series in pairs]
    columns, rows = _arranged(frame, names)
    axes = frame.axes(56, 28, 10, 25 + 11 * rows)
    times = span.times / 86400
    handles = _areas(axes, times, pairs) if panel.stacked else _lines(axes, times, pairs)
    _limit(axes, panel, span)
    for threshold in panel.thresholds:
        if threshold.value <= axes.get_ylim()[1]:
            axes.axhline(threshold.value, color=HEX[threshold.colour], linewidth=0.9, dashes=(4, 3))
    _legend(frame, handles, names, columns)


def _areas(axes: Axes, times: Floats, pairs: Sequence[tuple[Query, Series]]) -> list[Any]:
    values = np.nan_to_num([series.values for _, series in pairs])
    colours = [LINES[place % len(LINES)] for place in range(len(pairs))]
    return list(axes.stackplot(times, values, colors=colours, alpha=0.75, linewidth=0))


def _lines(axes: Axes, times: Floats, pairs: Sequence[tuple[Query, Series]]) -> list[Any]:
    """A line each; dashes have the colour of the line with the same labels, as an interval has."""
    handles: list[Any] = []
    colours: dict[Any, str] = {}
    for place, (query, series) in enumerate(pairs):
        key: Any = tuple(sorted(series.labels.items()))
        if query.style == "line" and key in colours:
            key = place
        if query.style == "limit":
            look: dict[str, Any] = {"color": HEX["red"], "linewidth": 1, "dashes": (5, 3)}
        else:
            colour = colours.setdefault(key, LINES[len(colours) % len(LINES)])
            look = {"color": colour, "linewidth": 1.3}
        if query.style == "dashed":
            look |= {"linewidth": 0.9, "dashes": (3, 2)}
        # A single value, as of a rare event, would be invisible as a line.
        if (~np.isnan(series.values)).sum() < 3:
            look |= {"marker": ".", "markersize": 3}
        handles += axes.plot(times, series.values, **look)
    return handles


def _limit(axes: Axes, panel: Panel, span: Span) -> None:
    """Time below, units at the left, faint lines across."""
    low, high = axes.get_ylim()
    if panel.minimum is not None:
        low = min(panel.minimum, float(axes.dataLim.y0))
    high = max(high, float(axes.dataLim.y1) + 0.04 * (high - low))  # what is constant is seen whole
    if panel.maximum is not None and high > 0.5 * panel.maximum:
        high = panel.maximum + 0.03 * (panel.maximum - low)
    high = high if axes.dataLim.y1 > low else low + 1  # all of it is zero
    size = size_of(high, panel.unit)
    locator = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10])
    ticks = size * np.asarray(locator.tick_values(low / size, high / size))
    axes.set_ylim(low, high)
    axes.set_xlim(span.start / 86400, span.end / 86400)
    axes.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value, panel.unit)))
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    clock(axes)


def _arranged(frame: Frame, names: Sequence[str]) -> tuple[int, int]:
    """Columns and rows of the legend: as many in a row as fit."""
    shown = names[:NAMED]
    widest = min(30, max((len(name) for name in shown), default=1))
    columns = max(1, min(len(shown), int((frame.width - 20) / (5 * widest + 26))))
    return columns, -(-len(shown) // columns)


def _legend(frame: Frame, handles: list[Any], names: list[str], columns: int) -> None:
    left, bottom, _, _ = frame.box(8, 0, 8, 3)
    frame.figure.legend(
        handles[:NAMED],
        [cut(name, 170) for name in names[:NAMED]],
        loc="lower left", bbox_to_anchor=(left, bottom), ncols=columns, fontsize=6.5,
        frameon=False, handlelength=1.2, columnspacing=1.2, labelspacing=0.25, borderpad=0,
        labelcolor=DARK, borderaxespad=0,
    )  # fmt: skip
    if len(names) > NAMED:
        more = f"+{len(names) - NAMED} more"
        frame.write(frame.width - 8, frame.height - 8, more, 6.5, GREY, "right")
