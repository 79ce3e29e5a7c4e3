"""Values of panels whose queries are easily wrong, as promtool evaluates them."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring.dashboards.build import DASHBOARDS
from monitoring.dashboards.definition import Panel
from monitoring.dashboards.model import RELEASES
from monitoring.objectives import APP
from tests.monitoring.promql import everything

pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="no promtool: make setup-e2e"
)
OLD, NEW = "landcover@v1.0.0", "landcover@v1.1.0"
# For 20 minutes the old one, then the new one, and back: what was replaced stays, at zero.
ROLLED_BACK = {
    f'model_info{{instance="a",tag="{OLD}",sha256="1"}}': "2x19 0x19 2x60",
    f'model_info{{instance="a",tag="{NEW}",sha256="2"}}': "_x20 2x19 0x60",
}
ROUTES = 12


def panel(dashboard: str, title: str) -> Panel:
    """The panel of that name."""
    [found] = [
        item
        for page in DASHBOARDS
        if page.title == dashboard
        for item in page.panels
        if item.title == title
    ]
    return found


def evaluate(
    folder: Path,
    series: Mapping[str, str],
    expr: str,
    at: Mapping[str, Mapping[str, float]],
) -> None:
    """Let promtool compare: labels and value of each series, at each time."""
    checks = [
        {
            "expr": everything(expr),
            "eval_time": when,
            "exp_samples": [{"labels": name, "value": value} for name, value in samples.items()],
        }
        for when, samples in at.items()
    ]
    test: dict[str, Any] = {
        "interval": "1m",
        "input_series": [
            {"series": key.replace("{", f'{{job="{APP}",', 1), "values": text}
            for key, text in series.items()
        ],
        "promql_expr_test": checks,
    }
    path = folder / "test.yml"
    path.write_text(yaml.safe_dump({"tests": [test]}), encoding="utf-8")
    done = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_release_and_its_rollback_are_marked(tmp_path: Path) -> None:
    marks = {
        "10m": {},
        "22m": {f'{{tag="{NEW}"}}': 1.0},
        "30m": {},
        "42m": {f'{{tag="{OLD}"}}': 1.0},
        "50m": {},
    }
    evaluate(tmp_path, ROLLED_BACK, RELEASES.expr, marks)


def test_a_replaced_model_is_not_shown_as_serving(tmp_path: Path) -> None:
    [query] = panel("Model", "What served when").queries
    serves = {
        when: {f'{{instance="a", tag="{tag}"}}': 2.0}
        for when, tag in (("10m", OLD), ("30m", NEW), ("50m", OLD))
    }
    evaluate(tmp_path, ROLLED_BACK, query.expr, serves)


@pytest.mark.parametrize("title", ["Serves the desired model", "Desired model, by replica"])
def test_panels_of_the_desired_model_show_whether_not_how_many_workers_disagree(
    title: str, tmp_path: Path
) -> None:
    found = panel("Model", title)
    [query] = found.queries
    series = {'model_wanted_mismatch{instance="a"}': "0x9 4x9"}
    name = '{instance="a"}' if "instance" in query.expr else "{}"
    evaluate(tmp_path, series, query.expr, {"5m": {name: 0.0}, "15m": {name: 1.0}})
    assert len(found.texts) == 2


def test_the_busiest_routes_stay_the_same_lines_also_after_the_service_went_down(
    tmp_path: Path,
) -> None:
    series = {
        f'http_requests_total{{handler="/{number:02d}"}}': f"0+{60 * number}x30"
        for number in range(ROUTES)
    }
    [query] = panel("Service", "Requests by route").queries
    busiest = {f'{{handler="/{number:02d}"}}': float(number) for number in range(4, ROUTES)}
    evaluate(tmp_path, series, f"round({query.expr})", {"20m": busiest})
    evaluate(tmp_path, series, f"count({query.expr.replace('end()', '7200')})", {"20m": {"{}": 8}})


@pytest.mark.parametrize("title", ["Requests by route", "Latency by route, 90 %"])
def test_panels_of_routes_choose_eight_at_the_end_of_the_time_range(title: str) -> None:
    [query] = panel("Service", title).queries
    assert "topk(8, " in query.expr and "@ end()" in query.expr


def test_selecting_a_machine_hides_no_gpu(tmp_path: Path) -> None:
    """Its exporter has another port or another name than the one that has the machine's name."""
    series = {'DCGM_FI_DEV_GPU_UTIL{instance="10.0.0.7:9400",gpu="0"}': "50x9"}
    [query] = panel("System", "GPU use").queries
    chosen = query.expr.replace('"$node"', '"machine-1:9100"')
    evaluate(tmp_path, series, chosen, {"5m": {'{instance="10.0.0.7:9400", gpu="0"}': 50.0}})
