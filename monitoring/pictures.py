"""Command: draw the dashboards as PNG, from the same queries, where no Grafana runs.

    python -m monitoring.pictures --prometheus http://127.0.0.1:9090 --out docs/

Writes dashboard-model.png and its siblings. The grid is that of Grafana; a panel without data says
so, one that wants a GPU says that.
"""

import io
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image

from monitoring.board import COLUMNS, NEEDS, Dashboard, Panel, Place, Section, places, plain
from monitoring.drawing import DRAWERS
from monitoring.frame import DARK, GREY, HEX, Frame
from monitoring.errors import MonitoringError, command
from monitoring.lines import Mark, draw_marks
from monitoring.panels import DASHBOARDS
from monitoring.series import Prometheus, Series, Span

WIDTH, ROW = 1400, 31  # pixels: of a picture, of a row of the grid
GAP = 5  # pixels between panels
HEAD = 46  # pixels: title of the dashboard
DPI = 100
POINTS = 240  # of a line
COLOURS = 256  # of the palette; a PNG is then a third as large
PAPER, CARD, RIM = "#eef1f3", "#ffffff", "#d5dbdf"
INSTANT = ("stat", "table", "bargauge")


@command
def main() -> None:
    """Ask and draw."""
    parser = ArgumentParser(
        prog="python -m monitoring.pictures",
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--prometheus", metavar="URL", default="http://127.0.0.1:9090")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder (default: docs/)")
    parser.add_argument("--minutes", type=float, default=30, help="how far back (default: 30)")
    parser.add_argument("--only", choices=[d.name for d in DASHBOARDS], help="draw one of them")
    options = parser.parse_args()
    if not 1 <= options.minutes <= 60 * 24 * 30:
        raise MonitoringError(f"--minutes: {options.minutes:g} is not between 1 and 43200")
    end = time.time()
    span = span_of(end - 60 * options.minutes, end)
    with Prometheus(options.prometheus) as prometheus:
        for dashboard in DASHBOARDS:
            if options.only in (None, dashboard.name):
                print(f"pictures: {draw(dashboard, prometheus, span, options.out)}")


def span_of(start: float, end: float) -> Span:
    """A time with as many points as a line needs, at whole seconds."""
    step = max(1.0, round((end - start) / POINTS))
    return Span(end - step * round((end - start) / step), end, step)


@matplotlib.rc_context({"text.parse_math": False})  # a dollar in a name is a dollar
def draw(dashboard: Dashboard, prometheus: Prometheus, span: Span, folder: Path) -> Path:
    """Draw one dashboard; returns the file.

    Raises:
        MonitoringError: Prometheus does not answer, or refuses a query.
    """
    layout = list(places(dashboard))
    height = HEAD + ROW * max(place.y + place.height for _, place in layout) + GAP
    figure = Figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI, facecolor=PAPER)
    _title(figure, dashboard, span, height)
    marks = marks_of(dashboard, prometheus, span)
    for item, place in layout:
        if isinstance(item, Section):
            _heading(figure, item, place, height)
        else:
            found = [ask(prometheus, item, i, span) for i in range(len(item.queries))]
            _panel(figure, item, place, height, found, span, marks)
    path = folder / f"dashboard-{dashboard.name}.png"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(small_png(figure))
    return path


def ask(prometheus: Prometheus, panel: Panel, which: int, span: Span) -> list[Series]:
    """The series of one query of a panel that have a value: at the end of the span, or over it."""
    query = panel.queries[which]
    expr = plain(query.expr)
    if panel.kind in INSTANT:
        found = prometheus.instant(expr, query.legend, span.end)
    else:
        found = prometheus.over(expr, query.legend, span)
    return [series for series in found if not np.isnan(series.values).all()]


def marks_of(dashboard: Dashboard, prometheus: Prometheus, span: Span) -> list[Mark]:
    """When what the annotations look for began; what was there before the span is left out."""
    found = []
    for annotation in dashboard.annotations:
        for series in prometheus.over(plain(annotation.expr), annotation.title, span):
            there = ~np.isnan(series.values)
            begins = np.flatnonzero(there[1:] & ~there[:-1]) + 1
            found += [Mark(float(span.times[place]), annotation.colour) for place in begins]
    return found


def small_png(figure: Figure) -> bytes:
    """A PNG with a palette of the colours that are there most; lines keep theirs."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    red, green, blue = np.moveaxis(
        np.asarray(canvas.buffer_rgba())[:, :, :3].astype(np.int32), 2, 0
    )
    packed, which, counts = np.unique(
        (red << 16) | (green << 8) | blue, return_inverse=True, return_counts=True
    )
    colours = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=1)  # (n, RGB)
    palette = colours[np.argsort(-counts, kind="stable")[:COLOURS]]
    nearest = [np.abs(palette - colour).sum(axis=1).argmin() for colour in colours]
    picture = Image.fromarray(np.array(nearest, np.uint8)[which].reshape(red.shape), "P")
    picture.putpalette(palette.astype(np.uint8).tobytes())
    target = io.BytesIO()
    picture.save(target, "PNG", optimize=True)
    return target.getvalue()


def _title(figure: Figure, dashboard: Dashboard, span: Span, height: int) -> None:
    top = 1 - 24 / height
    figure.text(
        10 / WIDTH, top, dashboard.title, fontsize=16, weight="bold", color=DARK, va="center"
    )
    figure.text(130 / WIDTH, top, dashboard.description, fontsize=10, color=GREY, va="center")
    until = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(span.end))
    minutes = (span.end - span.start) / 60
    for number, annotation in enumerate(reversed(dashboard.annotations)):
        x = 1 - (310 + 80 * number) / WIDTH
        words = f"┆ {annotation.name}"
        colour = HEX[annotation.colour]
        figure.text(x, top, words, fontsize=9, color=colour, va="center", ha="right")
    when = f"{minutes:.0f} minutes until {until}"
    figure.text(1 - 10 / WIDTH, top, when, fontsize=9, color=GREY, va="center", ha="right")


def _heading(figure: Figure, section: Section, place: Place, height: int) -> None:
    y = 1 - (HEAD + ROW * (place.y + 0.55)) / height
    figure.text(10 / WIDTH, y, section.title, fontsize=11, weight="bold", color=DARK, va="center")


def _panel(
    figure: Figure,
    panel: Panel,
    place: Place,
    height: int,
    found: list[list[Series]],
    span: Span,
    marks: list[Mark],
) -> None:
    unit = WIDTH / COLUMNS
    frame = Frame(
        figure,
        place.x * unit + GAP / 2,
        HEAD + place.y * ROW + GAP / 2,
        place.width * unit - GAP,
        place.height * ROW - GAP,
    )
    left, bottom, width, tall = frame.box(0, 0, 0, 0)
    card = FancyBboxPatch(
        (left, bottom), width, tall, boxstyle="square,pad=0", facecolor=CARD, edgecolor=RIM,
        linewidth=0.8, transform=figure.transFigure,
    )  # fmt: skip
    card.set_zorder(-1)  # below the axes
    figure.add_artist(card)
    frame.write(8, 13, panel.title, size=8.5, weight="bold")
    if any(len(series) for series in found):
        DRAWERS[panel.kind](frame, panel, found, span)
        if panel.kind == "timeseries":
            draw_marks(figure.axes[-1], marks)
    else:
        words = NEEDS[panel.needs] if panel.needs else "no data"
        frame.write(
            frame.width / 2, frame.height / 2 + 6, words, size=9, colour=GREY, align="center"
        )


if __name__ == "__main__":
    main()
