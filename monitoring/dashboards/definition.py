"""The parts of a dashboard: panels in sections, their queries, and the layout. No Grafana yet."""

import hashlib
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from monitoring.objectives import APP, SERVICE, STREAM

Kind = Literal["timeseries", "stat", "table", "heatmap", "bargauge", "statetimeline"]
Style = Literal["line", "dashed", "limit"]
Colour = Literal["green", "orange", "red", "blue"]

LONGEST_UID = 40  # Grafana refuses longer ones
COLUMNS = 24  # of Grafana's grid; its rows are about 30 pixels high
NEEDS = {
    "gpu": "needs a GPU",
    "probe": "needs a certificate probe",
    "stream": "needs workers of the stream",
    "routing": "needs routing.yaml",
    "shadow": "needs a shadow in routing.yaml",
    "jobs": "needs the front of jobs, and a budget",
    "objects": "needs labels of a model that finds objects",
}
"""Hardware or a program that may be missing -> the text of a panel without it."""


class Variable(NamedTuple):
    """A choice at the head of a dashboard; "All" is `.*`, which an absent label matches too."""

    name: str
    label: str
    values: str
    """Where Grafana finds the values: `label_values(metric, label)`."""


VARIABLES = {
    "namespace": Variable(
        "namespace", "Namespace", f"label_values(model_info{{{SERVICE}}}, namespace)"
    ),
    "tag": Variable("tag", "Model", f"label_values(model_predictions_total{{{SERVICE}}}, tag)"),
    "node": Variable("node", "Node", "label_values(node_uname_info, instance)"),
}
NAMESPACE = 'namespace=~"$namespace"'
OWN = f"{SERVICE},{NAMESPACE}"
"""This model's service: another one may be on the same Prometheus."""
OWN_STREAM = f"{STREAM},{NAMESPACE}"
MODEL = f'{OWN},tag=~"$tag"'
NODE = 'instance=~"$node"'


class Query(NamedTuple):
    """One PromQL expression, and the name of its series: `{{label}}` stands for a label."""

    expr: str
    legend: str
    """In a table the heading of the column."""
    style: Style = "line"


class Threshold(NamedTuple):
    """From this value on, this colour."""

    value: float
    colour: Colour


class Panel(NamedTuple):
    """One chart, number or table, and the question that it answers."""

    title: str
    description: str
    """One sentence for the person on call."""
    kind: Kind
    unit: str
    """Grafana's name of it: percentunit (0..1), s, bytes, Bps, reqps, celsius, short."""
    queries: tuple[Query, ...]
    width: int = 8
    """Of 24 columns."""
    height: int = 6
    thresholds: tuple[Threshold, ...] = ()
    base: Colour = "green"
    """Below the first threshold."""
    minimum: float | None = 0
    maximum: float | None = None
    stacked: bool = False
    texts: tuple[str, ...] = ()
    """Names of the values 0, 1, ..."""
    matrix: tuple[str, str] | None = None
    """Two labels, for the rows and the columns of a table of pairs."""
    needs: str = ""
    """Key of NEEDS."""


def chart(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    kind: Kind = "timeseries",
    **layout: Any,
) -> Panel:
    """A panel; `layout` has the other fields of `Panel`."""
    return Panel(title, description, kind, unit, queries, **layout)


def stat(
    title: str,
    description: str,
    unit: str,
    query: Query,
    thresholds: tuple[Threshold, ...] = (),
    base: Colour = "green",
    texts: tuple[str, ...] = (),
) -> Panel:
    """One number; six of them fill a line."""
    return Panel(title, description, "stat", unit, (query,), 4, 4, thresholds, base, texts=texts)


class Section(NamedTuple):
    """Panels under one heading. Panels of one line have the same height."""

    title: str
    panels: tuple[Panel, ...]


def section(title: str, *panels: Panel) -> Section:
    """A heading with its panels."""
    return Section(title, panels)


class Annotation(NamedTuple):
    """An event, marked in every time series."""

    name: str
    expr: str
    title: str
    colour: Colour


class Dashboard(NamedTuple):
    """One page."""

    name: str
    """Of its file."""
    title: str
    """Without the model, which `heading` puts before it."""
    description: str
    variables: tuple[str, ...]
    sections: tuple[Section, ...]
    annotations: tuple[Annotation, ...] = ()

    @property
    def uid(self) -> str:
        """The same in every Grafana, for links and bookmarks; another model has another one."""
        whole = f"{APP}-{self.name}"
        if len(whole) <= LONGEST_UID:
            return whole
        end = f"-{hashlib.sha256(APP.encode()).hexdigest()[:8]}-{self.name}"
        return APP[: LONGEST_UID - len(end)] + end

    @property
    def heading(self) -> str:
        """The title in Grafana, unlike that of another model's dashboard in the same folder."""
        return f"{APP}: {self.title}"

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All panels, in the order in which they are read."""
        return tuple(panel for section in self.sections for panel in section.panels)


class Place(NamedTuple):
    """A rectangle of the grid, from the upper left corner."""

    x: int
    y: int
    width: int
    height: int


def places(dashboard: Dashboard) -> Iterator[tuple[Section | Panel, Place]]:
    """Lay a dashboard out, left to right: a heading a section, then its panels."""
    y = 0
    for section in dashboard.sections:
        yield section, Place(0, y, COLUMNS, 1)
        x, y, height = 0, y + 1, 0
        for panel in section.panels:
            if x + panel.width > COLUMNS:
                x, y = 0, y + height
            yield panel, Place(x, y, panel.width, panel.height)
            x, height = x + panel.width, panel.height
        y += height
