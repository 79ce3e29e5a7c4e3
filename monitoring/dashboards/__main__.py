"""Command: write Grafana's dashboards from the tables of panels, or check that they are current.

python -m monitoring.dashboards           writes monitoring/grafana/dashboards/
python -m monitoring.dashboards --check   exit 1 when a file differs
"""

from pathlib import Path

from monitoring.dashboards.build import files
from monitoring.errors import command
from monitoring.generated import command_line

FOLDER = Path(__file__).parents[1] / "grafana" / "dashboards"


@command
def main() -> None:
    """Write or check."""
    command_line("monitoring.dashboards", __doc__ or "", files, FOLDER, "*")


if __name__ == "__main__":
    main()
