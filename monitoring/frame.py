"""The rectangle of a panel in a picture, and how values look in it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
import matplotlib.dates

from monitoring.board import Panel
from monitoring.series import Series
from monitoring.units import number

DARK, GREY, FAINT = "#2b3439", "#7d8a92", "#e7ebee"
HEX = {"green": "#5b9c6a", "orange": "#d9822b", "red": "#b8413a", "blue": "#1f6f8b"}
SMALL = 7  # points
Found = Sequence[list[Series]]
"""The series of each query of a panel."""


class Frame(NamedTuple):
    """A panel's rectangle, in pixels from the upper left corner of its figure."""

    figure: Figure
    x: float
    y: float
    width: float
    height: float

    def box(
        self, left: float, top: float, right: float, bottom: float
    ) -> tuple[float, float, float, float]:
        """What is left inside such margins, as matplotlib's fractions."""
        all_width, all_height = self.figure.get_size_inches() * self.figure.dpi
        return (
            (self.x + left) / all_width,
            1 - (self.y + self.height - bottom) / all_height,
            (self.width - left - right) / all_width,
            (self.height - top - bottom) / all_height,
        )

    def axes(self, left: float, top: float, right: float, bottom: float) -> Axes:
        """Axes inside such margins."""
        axes: Axes = self.figure.add_axes(self.box(left, top, right, bottom))
        axes.tick_params(labelsize=SMALL, colors=GREY, length=2, pad=2.5)
        axes.spines[:].set_visible(False)
        return axes

    def write(
        self,
        x: float,
        y: float,
        text: str,
        size: float = SMALL,
        colour: str = DARK,
        align: str = "left",
        weight: str = "normal",
    ) -> None:
        """Put a line of text at a place."""
        left, bottom, _, _ = self.box(x, 0, 0, self.height - y)
        place: dict[str, Any] = {"ha": align, "va": "center", "weight": weight}
        self.figure.text(left, bottom, text, fontsize=size, color=colour, **place)


def cut(text: str, width: float) -> str:
    """As much of a text as goes into so many pixels."""
    letters = max(4, int(width / 5.6))
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def colour_of(panel: Panel, value: float) -> str:
    """The colour that the thresholds give a value."""
    passed = [threshold.colour for threshold in panel.thresholds if value >= threshold.value]
    return HEX[passed[-1] if passed else panel.base]


def said(panel: Panel, value: float) -> str:
    """A value as the panel calls it."""
    if value.is_integer() and 0 <= value < len(panel.texts):
        return panel.texts[int(value)]
    return number(value, panel.unit)


def clock(axes: Axes) -> None:
    """Hours and minutes below."""
    axes.xaxis.set_major_locator(matplotlib.dates.AutoDateLocator(minticks=3, maxticks=7))
    axes.xaxis.set_major_formatter(matplotlib.dates.DateFormatter("%H:%M"))
