"""All dashboards, as the JSON that Grafana reads.

Grafana's own builder makes it, so a field that Grafana does not know is an error here. The same
tables always give the same bytes: a diff shows only what somebody changed.
"""

import json

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
from monitoring.dashboards.model import MODEL
from monitoring.dashboards.service import SERVICE
from monitoring.dashboards.system import SYSTEM
from monitoring.dashboards.training import TRAINING
from monitoring.objectives import APP

DASHBOARDS = (MODEL, SERVICE, SYSTEM, TRAINING)
MARK = "conveyor"  # tag of all models' dashboards; the tag APP links those of one model
PROVISIONED = "prometheus"  # uid in provisioning/datasources
HEAD = """\
# Made by `make dashboards`. The dashboards as ConfigMaps, which the sidecar of Grafana's Helm
# charts finds by their label. It lies here because kustomize reads no file above it. One each:
# together they would be too long for the annotation that `kubectl apply` keeps.
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization

generatorOptions:
  disableNameSuffixHash: true # Grafana looks at the content, and nothing names them
  labels:
    grafana_dashboard: "1"

configMapGenerator:
"""


def files() -> dict[str, str]:
    """Name of a file -> its text: the dashboards, and how a cluster gets them."""
    found = {f"{dashboard.name}.json": render(dashboard) for dashboard in DASHBOARDS}
    return found | {"kustomization.yaml": HEAD + "".join(map(_config_map, DASHBOARDS))}


def _config_map(dashboard: Dashboard) -> str:
    """Its ConfigMap; the sidecar writes all files into one folder, so that names must differ."""
    return (
        f"  - name: {APP}-dashboard-{dashboard.name}\n"
        f"    files: [{APP}-{dashboard.name}.json={dashboard.name}.json]\n"
    )


def render(dashboard: Dashboard) -> str:
    """The JSON of a dashboard, sorted, with a newline at its end."""
    document = json.loads(json.dumps(_built(dashboard), cls=JSONEncoder))
    rows = document["annotations"].get("list", [])
    for row, annotation in zip(rows, dashboard.annotations, strict=True):
        row |= {"titleFormat": annotation.title, "step": "60s"}  # the builder lacks these fields
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def _built(dashboard: Dashboard) -> models.Dashboard:
    """A dashboard in Grafana's model."""
    builder = (
        build.Dashboard(dashboard.heading)
        .uid(dashboard.uid)
        .description(dashboard.description)
        .tags([MARK, APP])
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
    """To the others of this model, with the same time and the same choices."""
    return (
        build.DashboardLink(APP)
        .type(models.DashboardLinkType.DASHBOARDS)
        .tags([APP])
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
