import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard as GrafanaDashboard

from monitoring.dashboards import __main__ as dashboards
from monitoring.dashboards.definition import (
    COLUMNS,
    VARIABLES,
    Dashboard,
    Panel,
    Query,
    Section,
    places,
    plain,
)
from monitoring.dashboards.panels import DASHBOARDS, absent
from monitoring.dashboards.service import OBJECTIVE, QUICK
from monitoring.errors import MonitoringError
from tests.conftest import ROOT

GRAFANA = ROOT / "monitoring" / "grafana"

EVERYWHERE = {"namespace", "job", "instance"}
LABELS = {
    "model_predictions_total": "tag class",
    "model_confidence": "tag le",
    "model_entropy": "tag le",
    "model_input": "tag band statistic",
    "model_inputs_not_finite_total": "tag",
    "model_inference_seconds": "tag le",
    "model_queue_seconds": "le",
    "model_reference_class_share": "tag class",
    "model_reference_confidence": "tag",
    "model_drift_score": "tag signal measure",
    "model_drift_threshold": "tag signal measure",
    "model_drift_samples": "tag signal",
    "model_drift_insufficient": "tag signal reason",
    "model_drift_window_seconds": "",
    "uploads_refused_total": "reason",
    "model_swaps_total": "result step",
    "model_info": "tag sha256",
    "model_wanted_mismatch": "",
    "http_requests_total": "handler method status",
    "http_request_duration_seconds": "handler method le",
    "http_request_duration_highr_seconds": "le",
    "http_request_size_bytes": "handler",
    "http_response_size_bytes": "handler",
    "process_cpu_seconds_total": "",
    "process_resident_memory_bytes": "",
    "process_open_fds": "",
    "process_max_fds": "",
    "process_start_time_seconds": "",
    "service_workers": "",
    "model_live_accuracy": "tag",
    "model_live_accuracy_low": "tag",
    "model_live_accuracy_high": "tag",
    "model_feedback_answers": "tag",
    "model_feedback_confusion": "tag predicted label",
    "model_accuracy_floor": "tag",
    "model_feedback_delay_seconds": "le",
    "feedback_unrecorded_total": "reason",
    "feedback_images": "kind",
    "feedback_image_bytes": "",
    "feedback_spool_bytes": "",
    "conveyor_pipeline_seconds": "pipeline",
    "conveyor_training_seconds": "",
    "conveyor_training_epochs": "",
    "conveyor_training_accuracy": "",
    "conveyor_training_finished_timestamp_seconds": "",
    "conveyor_training_gpu_utilization_ratio": "",
    "conveyor_training_gpu_memory_bytes": "",
    "conveyor_token_expires_timestamp_seconds": "token",
    "probe_ssl_earliest_cert_expiry": "",
    "push_time_seconds": "",
    "up": "",
    "ALERTS": "alertname alertstate severity owner",
    "node_cpu_seconds_total": "cpu mode",
    "node_load1": "",
    "node_memory_MemTotal_bytes": "",
    "node_memory_MemAvailable_bytes": "",
    "node_filesystem_avail_bytes": "device fstype mountpoint",
    "node_filesystem_size_bytes": "device fstype mountpoint",
    "node_disk_read_bytes_total": "device",
    "node_disk_written_bytes_total": "device",
    "node_network_receive_bytes_total": "device",
    "node_network_transmit_bytes_total": "device",
    "node_time_seconds": "",
    "node_boot_time_seconds": "",
    "node_uname_info": "nodename",
    "DCGM_FI_DEV_GPU_UTIL": "gpu",
    "DCGM_FI_DEV_FB_USED": "gpu",
    "DCGM_FI_DEV_GPU_TEMP": "gpu",
}
"""What is exported: by the service, its pipelines, Prometheus and the exporters."""
WORDS = {
    *("sum", "max", "min", "avg", "count", "topk", "by", "on", "group_left", "unless", "and", "or"),
    *(
        "rate",
        "increase",
        "histogram_quantile",
        "scalar",
        "vector",
        "time",
        "offset",
        "end",
        "bool",
    ),
}

QUERIES = [
    pytest.param(panel, query, id=f"{dashboard.name}: {panel.title}: {query.legend}")
    for dashboard in DASHBOARDS
    for panel in dashboard.panels
    for query in panel.queries
]
PANELS = [
    pytest.param(panel, id=f"{dashboard.name}: {panel.title}")
    for dashboard in DASHBOARDS
    for panel in dashboard.panels
]
each_dashboard = pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda d: d.name)


def expressions() -> Iterator[str]:
    """All that is asked, without Grafana's variables."""
    for dashboard in DASHBOARDS:
        yield from (plain(annotation.expr) for annotation in dashboard.annotations)
        for panel in dashboard.panels:
            yield from (plain(query.expr) for query in panel.queries)


def named(expr: str) -> set[str]:
    """The metrics of an expression."""
    bare = re.sub(r'"[^"]*"', "", plain(expr))
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]", " ", bare)
    bare = re.sub(r"\b(by|on|group_left)\s*\([^)]*\)", " ", bare)
    bare = re.sub(r"\b[0-9][0-9.e]*[smhd]?\b", " ", bare)
    return set(re.findall(r"[A-Za-z_:][A-Za-z0-9_:]*", bare)) - WORDS


def labels_of(metric: str) -> set[str] | None:
    """The labels of a metric or of a part of a histogram; None when nothing exports it."""
    base = re.sub(r"_(bucket|sum|count)$", "", metric)
    known = LABELS.get(metric, LABELS.get(base))
    return None if known is None else {*known.split(), *EVERYWHERE}


def asked(expr: str) -> Iterator[tuple[str, str]]:
    """Metric and label of every matcher."""
    for metric, matchers in re.findall(r"([A-Za-z_:]+[0-9]*)\{([^}]*)\}", expr):
        for label in re.findall(r'([a-z0-9_]+)\s*(?:=~|!~|!=|=)\s*"', matchers):
            yield metric, label


def grouped(expr: str) -> set[str]:
    """The labels that an expression keeps."""
    kept = re.findall(r"\bby \(([^)]*)\)", expr)
    return {label.strip() for group in kept for label in group.split(",")}


@each_dashboard
def test_what_is_written_is_what_the_table_gives(dashboard: Dashboard) -> None:
    path = GRAFANA / "dashboards" / f"{dashboard.name}.json"
    assert path.read_text(encoding="utf-8") == dashboards.text(dashboard)


@each_dashboard
def test_the_same_table_gives_the_same_bytes(dashboard: Dashboard) -> None:
    code = (
        "from monitoring.dashboards.__main__ import files; "
        f"print(files()['{dashboard.name}.json'])"
    )
    run = [sys.executable, "-c", code]
    again = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert again == dashboards.text(dashboard) + "\n"


@each_dashboard
def test_grafana_knows_every_field(dashboard: Dashboard) -> None:
    written = json.loads(dashboards.text(dashboard))
    for annotation in written["annotations"].get("list", []):  # the two that the SDK lacks
        assert annotation.pop("titleFormat") and annotation.pop("step")
    read = GrafanaDashboard.from_json(written)
    again = json.loads(json.dumps(read, cls=JSONEncoder))
    assert again == written


@each_dashboard
def test_panels_lie_beside_each_other(dashboard: Dashboard) -> None:
    laid = [place for _, place in places(dashboard)]
    written = json.loads(dashboards.text(dashboard))["panels"]
    assert [[*panel["gridPos"].values()] for panel in written] == [
        [place.height, place.width, place.x, place.y] for place in laid
    ]
    for one, other in combinations(laid, 2):
        apart = (
            one.x + one.width <= other.x
            or other.x + other.width <= one.x
            or one.y + one.height <= other.y
            or other.y + other.height <= one.y
        )
        assert apart, (one, other)
    assert all(place.x + place.width <= COLUMNS for place in laid)


@each_dashboard
def test_every_line_of_panels_is_full_and_even(dashboard: Dashboard) -> None:
    lines: dict[int, list[tuple[int, int]]] = {}
    for item, place in places(dashboard):
        if not isinstance(item, Section):
            lines.setdefault(place.y, []).append((place.width, place.height))
    for line in lines.values():
        assert sum(width for width, _ in line) == COLUMNS
        assert len({height for _, height in line}) == 1


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_explains_itself(panel: Panel) -> None:
    assert panel.title and panel.unit and panel.queries
    assert panel.description.endswith(".") and 20 < len(panel.description) < 120
    assert [step.value for step in panel.thresholds] == sorted(t.value for t in panel.thresholds)


@each_dashboard
def test_titles_of_a_section_differ(dashboard: Dashboard) -> None:
    for section in dashboard.sections:
        titles = [panel.title for panel in section.panels]
        assert len(titles) == len(set(titles))


@pytest.mark.parametrize(("panel", "query"), QUERIES)
def test_a_query_names_metrics_that_somebody_exports(panel: Panel, query: Query) -> None:
    for metric in named(query.expr):
        assert labels_of(metric) is not None, f"nothing exports {metric}"
    for metric, label in asked(query.expr):
        assert label in (labels_of(metric) or ()), f"{metric} has no label {label}"
    known = set().union(*(labels_of(metric) or () for metric in named(query.expr)))
    assert grouped(query.expr) <= known


def test_a_typo_in_a_query_is_found() -> None:
    assert named('sum by (le) (rate(modle_queue{tag=~"$tag"}[5m] offset 1h)) / 2.5') == {
        "modle_queue"
    }
    assert labels_of("modle_queue") is None
    assert list(asked('up{jbo="x"} + ALERTS{severity!="none"}')) == [
        ("up", "jbo"),
        ("ALERTS", "severity"),
    ]


@pytest.mark.parametrize(("panel", "query"), QUERIES)
def test_a_legend_names_labels_that_the_query_keeps(panel: Panel, query: Query) -> None:
    assert set(re.findall(r"{{(\w+)}}", query.legend)) <= grouped(query.expr)
    assert query.legend


@each_dashboard
def test_choices_are_those_of_the_dashboard(dashboard: Dashboard) -> None:
    exprs = [query.expr for panel in dashboard.panels for query in panel.queries]
    exprs += [annotation.expr for annotation in dashboard.annotations]
    used = set(re.findall(r"\$([a-z]+)", " ".join(exprs)))
    assert used == set(dashboard.variables)
    written = json.loads(dashboards.text(dashboard))["templating"]["list"]
    assert [row["name"] for row in written] == ["datasource", *dashboard.variables]
    assert all(row["allValue"] == ".*" for row in written[1:]), "an absent label matches too"
    for name in dashboard.variables:
        metric, label = re.findall(r"label_values\((\w+), (\w+)\)", VARIABLES[name].values)[0]
        assert label in (labels_of(metric) or ())


def test_an_unknown_variable_is_refused() -> None:
    with pytest.raises(ValueError, match="none of namespace, tag, node"):
        plain('up{job="$jbo"}')


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool: make setup-e2e")
def test_prometheus_understands_every_query(tmp_path: Path) -> None:
    rules = [
        {"record": f"query:number_{number}", "expr": expr}
        for number, expr in enumerate(expressions())
    ]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}), "utf-8")
    done = subprocess.run(["promtool", "check", "rules", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout


def datasources(document: Any) -> Iterator[str]:
    """Every uid of a datasource in a document."""
    if isinstance(document, dict):
        if isinstance(document.get("datasource"), dict):
            yield document["datasource"]["uid"]
        for value in document.values():
            yield from datasources(value)
    if isinstance(document, list):
        for value in document:
            yield from datasources(value)


@each_dashboard
def test_a_dashboard_works_in_every_grafana(dashboard: Dashboard) -> None:
    written = json.loads(dashboards.text(dashboard))
    assert set(datasources(written)) == {"${datasource}"}
    assert written["uid"] == f"conveyor-{dashboard.name}"
    numbers = [panel["id"] for panel in written["panels"]]
    assert len(numbers) == len(set(numbers))
    assert written["links"][0]["tags"] == written["tags"] == ["conveyor"], "they find each other"


def test_what_is_provisioned_fits_together() -> None:
    files = [*(GRAFANA / "provisioning" / "datasources").glob("*.yml")]
    rows = [row for file in files for row in yaml.safe_load(file.read_text())["datasources"]]
    assert {row["uid"]: row["type"] for row in rows} == {
        "prometheus": "prometheus",
        "alertmanager": "alertmanager",
    }
    chosen = json.loads(dashboards.text(DASHBOARDS[0]))["templating"]["list"][0]["current"]
    assert chosen["value"] in {row["uid"] for row in rows}
    provider = yaml.safe_load((GRAFANA / "provisioning/dashboards/conveyor.yml").read_text())
    assert provider["providers"][0]["options"]["path"] == "/etc/grafana/dashboards"


def test_objectives_are_those_that_the_alerts_watch() -> None:
    rules = (ROOT / "monitoring/prometheus/rules/recording.yml").read_text(encoding="utf-8")
    assert f"predict_errors:ratio_rate5m / {1 - OBJECTIVE:.4g}" in rules
    assert f'le="{QUICK:g}"' in rules


def test_what_needs_hardware_is_listed() -> None:
    assert absent()["System: GPU use"] == "needs a GPU"
    assert absent()["Training: GPU memory in training"] == "needs a GPU"
    for dashboard in DASHBOARDS:
        for panel in dashboard.panels:
            of_gpu = any(re.search("DCGM|_gpu_", query.expr) for query in panel.queries)
            assert of_gpu == (panel.needs == "gpu")


@pytest.mark.parametrize(
    ("disturb", "names"),
    [
        (lambda folder: (folder / "model.json").unlink(), "model.json"),
        (lambda folder: (folder / "system.json").write_text("{}"), "system.json"),
        (lambda folder: (folder / "old.json").write_text("{}"), "old.json"),
        (lambda folder: (folder / "model.json").write_bytes(b"\xff\x00"), "model.json"),
    ],
)
def test_check_says_which_file_differs_and_writing_mends_it(
    tmp_path: Path, disturb: Any, names: str
) -> None:
    dashboards.write(tmp_path)
    dashboards.check(tmp_path)
    disturb(tmp_path)

    with pytest.raises(MonitoringError, match=f"^{names} in .*`python -m monitoring.dashboards`"):
        dashboards.check(tmp_path)

    assert dashboards.write(tmp_path) == [names]
    dashboards.check(tmp_path)
    assert dashboards.write(tmp_path) == [], "what is current is not touched"


def test_the_command_checks_what_is_committed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "monitoring.dashboards", "--check"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0
    other = subprocess.run([*command, "--folder", tmp_path], cwd=ROOT, capture_output=True)
    assert other.returncode == 1 and other.stderr.startswith(b"error: model.json, service.json")


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl: make setup-e2e")
def test_a_cluster_gets_the_same_dashboards() -> None:
    folder = ROOT / "monitoring" / "kubernetes" / "dashboards"
    command = ["kubectl", "kustomize", str(folder)]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    maps = list(yaml.safe_load_all(made))
    found = {name: text for item in maps for name, text in item["data"].items()}
    assert found == dashboards.files()
    for item in maps:
        assert item["metadata"]["labels"]["grafana_dashboard"] == "1"
        # Longer ones do not fit into the annotation that `kubectl apply` keeps.
        assert len(yaml.safe_dump(item)) < 262144
