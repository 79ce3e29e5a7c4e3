"""Command: write Grafana's dashboards from the table of panels, or check that they are current.

    python -m monitoring.dashboards           writes monitoring/grafana/dashboards/*.json
    python -m monitoring.dashboards --check   exit 1 when one differs

Grafana's own builder makes the JSON, so that a field that Grafana does not know is an error here.
The files are deterministic: whoever changes a panel sees just that in the diff.
"""

import json
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models

from monitoring.dashboards.definition import (
    VARIABLES,
    Annotation,
    Dashboard,
    Place,
    Section,
    Variable,
    places,
)
from monitoring.dashboards.grafana import SOURCE, panel_of
from monitoring.dashboards.panels import DASHBOARDS
from monitoring.errors import MonitoringError, command

FOLDER = Path(__file__).parents[1] / "grafana" / "dashboards"
MARK = "conveyor"  # tag by which the dashboards link to each other
PROVISIONED = "prometheus"  # uid in provisioning/datasources


@command
def main() -> None:
    """Write or check."""
    parser = ArgumentParser(
        prog="python -m monitoring.dashboards",
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="write nothing, say what differs")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"default: {FOLDER.name}/")
    options = parser.parse_args()
    if options.check:
        check(options.folder)
        print(f"dashboards: {len(DASHBOARDS)} are what the table says")
    else:
        print(f"dashboards: wrote {', '.join(write(options.folder)) or 'nothing, all are current'}")


def files() -> dict[str, str]:
    """What the table gives: name of a file -> its text."""
    return {f"{dashboard.name}.json": text(dashboard) for dashboard in DASHBOARDS}


def write(folder: Path) -> list[str]:
    """Write what differs, and take away what the table no longer has; returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = files()
    changed = different(folder)
    for name in changed:
        if name in wanted:
            (folder / name).write_text(wanted[name], encoding="utf-8")
        else:
            (folder / name).unlink()
    return changed


def check(folder: Path) -> None:
    """Hold the files against the table.

    Raises:
        MonitoringError: one is missing, another, or too many.
    """
    if changed := different(folder):
        raise MonitoringError(
            f"{', '.join(changed)} in {folder}: not what the table of panels gives; "
            "write them with `python -m monitoring.dashboards`, and change the table, not the files"
        )


def different(folder: Path) -> list[str]:
    """Names of the files that are missing, others, or too many."""
    wanted = files()
    there = {path.name: path.read_text("utf-8", "replace") for path in folder.glob("*.json")}
    return sorted(n for n in wanted.keys() | there.keys() if wanted.get(n) != there.get(n))


def text(dashboard: Dashboard) -> str:
    """The JSON of a dashboard, sorted, with a newline at its end."""
    document = json.loads(json.dumps(built(dashboard), cls=JSONEncoder))
    rows = document["annotations"].get("list", [])
    for row, annotation in zip(rows, dashboard.annotations, strict=True):
        row |= {"titleFormat": annotation.title, "step": "60s"}  # the builder does not know these
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def built(dashboard: Dashboard) -> models.Dashboard:
    """A dashboard in Grafana's model."""
    builder = (
        build.Dashboard(dashboard.title)
        .uid(dashboard.uid)
        .description(dashboard.description)
        .tags([MARK])
        .readonly()
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .time("now-6h", "now")
        .refresh("30s")
        .link(_links())
        .with_variable(_datasource())
    )
    for name in dashboard.variables:
        builder = builder.with_variable(_variable(VARIABLES[name]))
    for annotation in dashboard.annotations:
        builder = builder.annotation(_annotation(annotation))
    for number, (item, place) in enumerate(places(dashboard), 1):
        if isinstance(item, Section):
            row = build.Row(item.title).id(number).grid_pos(_grid(place))
            builder = builder.with_row(row)
        else:
            builder = builder.with_panel(panel_of(item, number, _grid(place)))
    return builder.build()


def _grid(place: Place) -> models.GridPos:
    return models.GridPos(x=place.x, y=place.y, w=place.width, h=place.height)


def _links() -> build.DashboardLink:
    """To the others, with the same time and the same choices."""
    return (
        build.DashboardLink("Conveyor")
        .type(models.DashboardLinkType.DASHBOARDS)
        .tags([MARK])
        .include_vars(True)
        .keep_time(True)
    )


def _datasource() -> build.DatasourceVariable:
    """A variable, so that the same file works where the datasource has another uid."""
    current = models.VariableOption(selected=True, text="Prometheus", value=PROVISIONED)
    return (
        build.DatasourceVariable("datasource").label("Source").type("prometheus").current(current)
    )


def _variable(variable: Variable) -> build.QueryVariable:
    everything = models.VariableOption(selected=True, text="All", value="$__all")
    return (
        build.QueryVariable(variable.name)
        .label(variable.label)
        .datasource(SOURCE)
        .query({"query": variable.values, "refId": "values"})
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.NATURAL_DESC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(everything)
    )


def _annotation(annotation: Annotation) -> build.AnnotationQuery:
    return (
        build.AnnotationQuery()
        .name(annotation.name)
        .datasource(SOURCE)
        .enable(True)
        .expr(annotation.expr)
        .icon_color(annotation.colour)
    )


if __name__ == "__main__":
    main()
