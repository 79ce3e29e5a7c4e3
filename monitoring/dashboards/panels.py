"""The table of all panels: what every dashboard shows, for Grafana, for pictures and for tests.

    from monitoring.dashboards.panels import DASHBOARDS, plain

`DASHBOARDS` -> `sections` -> `panels` -> `queries`; `plain(query.expr)` is what Prometheus takes.
To add a panel, add a row to one of the four modules and run `python -m monitoring.dashboards`.
"""

from monitoring.dashboards.definition import NEEDS, Dashboard, Panel, Query, plain
from monitoring.dashboards.model import MODEL
from monitoring.dashboards.service import SERVICE
from monitoring.dashboards.system import SYSTEM
from monitoring.dashboards.training import TRAINING

__all__ = ["DASHBOARDS", "NEEDS", "Dashboard", "Panel", "Query", "absent", "plain"]

DASHBOARDS = (MODEL, SERVICE, SYSTEM, TRAINING)


def absent() -> dict[str, str]:
    """The panels that show nothing without hardware or a probe: "Dashboard: Panel" -> what."""
    return {
        f"{dashboard.title}: {panel.title}": NEEDS[panel.needs]
        for dashboard in DASHBOARDS
        for panel in dashboard.panels
        if panel.needs
    }
