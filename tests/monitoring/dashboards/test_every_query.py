"""Every query of panels and rules, sent to a real Prometheus that scrapes a real, busy service.

The tests know no values, only that each query returns data: after a renamed metric, a missing label
or a rate over too short a window a panel would be empty on the day it is needed.
"""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import yaml

from monitoring.dashboards.build import DASHBOARDS
from monitoring.dashboards.definition import VARIABLES
from monitoring.local.configuration import SOURCE
from monitoring.local.stack import Monitor
from tests.make.monitored_bundles import write_chips
from tests.make.server import serving
from tests.make.traffic import Life, publish, push
from tests.monitoring.conftest import hurried_source
from tests.monitoring.promql import everything, matched_labels, metrics

WITHIN = 40.0  # seconds that a query has to return data, from the beginning of the traffic
PAUSE = 0.1
# Alerts are silent in health. These are not, here: three swaps fail, and one always fires.
FIRING = {"SwapFailing", "Watchdog"}
DEPENDING = {"DiskFilling"}  # on the machine that runs this
# Exported by nothing here: there is no prober, no GPU, no cluster, no stream, no front of jobs,
# no shadow, no model that finds objects.
ABSENT = {
    "probe_ssl_earliest_cert_expiry",
    "probe_success",
    "DCGM_FI_DEV_GPU_UTIL",
    "DCGM_FI_DEV_FB_USED",
    "DCGM_FI_DEV_GPU_TEMP",
    "conveyor_training_gpu_utilization_ratio",
    "conveyor_training_gpu_memory_bytes",
    "jobs_gpu_minutes_used",
    "jobs_gpu_minutes_held",
    "jobs_gpu_minutes_limit",
    "routing_shadow_copies_total",
    "model_live_f1",
    "model_live_precision",
    "model_live_recall",
    "stream_frames_total",
    "stream_lag",
    "stream_connected",
    "stream_dead_letters_total",
    "stream_age_seconds_bucket",
    "stream_batch_frames_sum",
    "stream_batch_frames_count",
}
CLUSTER = {"namespace"}
NEEDS = {"gpu", "probe", "stream", "jobs", "routing", "shadow", "objects"}
LEGEND = re.compile(r"\{\{(\w+)\}\}")


class Asked(NamedTuple):
    """One query, with where it stands."""

    place: str
    expr: str
    labels: frozenset[str] = frozenset()
    """That its series are called by."""


def panels(needing: bool) -> list[Asked]:
    """The queries of all panels that need nothing special, or of those that do."""
    found = []
    for dashboard in DASHBOARDS:
        for panel in dashboard.panels:
            assert panel.needs in NEEDS | {""}, f"{panel.title}: unknown `needs`"
            for query in panel.queries:
                if bool(panel.needs) == needing:
                    place = f"{dashboard.title}: {panel.title}: {query.legend}"
                    labels = frozenset(LEGEND.findall(query.legend))
                    found.append(Asked(place, everything(query.expr), labels))
    return found


def annotations() -> list[Asked]:
    """What is marked in every time series."""
    return [
        Asked(f"{dashboard.title}: {item.name}", everything(item.expr))
        for dashboard in DASHBOARDS
        for item in dashboard.annotations
    ]


def rules(kind: str) -> list[Asked]:
    """The rules that ship: `record` or `alert`."""
    found = []
    for path in sorted((SOURCE.parent / "rules").glob("*.yml")):
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]:
            found += [Asked(rule[kind], rule["expr"]) for rule in group["rules"] if kind in rule]
    assert found
    return found


class World:
    """A Prometheus with much to look at."""

    def __init__(self, url: str, life: Life) -> None:
        self.url = url
        self.life = life
        self._client = httpx.Client(timeout=30)
        self._deadline = time.monotonic() + WITHIN

    def ask(self, expr: str) -> list[dict[str, Any]]:
        """What a query returns now. AssertionError when Prometheus does not understand it."""
        answer = self._client.get(f"{self.url}/api/v1/query", params={"query": expr})
        assert answer.status_code == 200, answer.json()["error"]
        body = answer.json()
        assert not body.get("warnings"), body["warnings"]
        data = body["data"]
        found: list[dict[str, Any]] = data["result"] if data["resultType"] == "vector" else [data]
        return [item for item in found if item.get("value", ["", ""])[1] != "NaN"]

    def wait_for(self, expr: str) -> list[dict[str, Any]]:
        """Ask until something comes that is a number; nothing if nothing came in time."""
        while not (found := self.ask(expr)) and time.monotonic() < self._deadline:
            assert not self.life.wrong, self.life.wrong
            time.sleep(PAUSE)
        return found

    def has(self, expr: str) -> bool:
        """Whether something comes in time that is a number."""
        return bool(self.wait_for(expr))

    def rules(self) -> list[dict[str, Any]]:
        """How the evaluation of each rule went."""
        groups = self._client.get(f"{self.url}/api/v1/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def close(self) -> None:
        """Give the connection up."""
        self._client.close()


@pytest.fixture(scope="module")
def world(programs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    if "pushgateway" not in programs:
        pytest.skip("pushgateway is not installed: make setup-e2e")
    folder = tmp_path_factory.mktemp("world")
    chips = write_chips(folder / "data")
    bundle, repository = publish(folder, chips)
    rules = folder / "routing.yaml"
    rules.write_text("name: trial\narms: {default: 1}\nlearn: {}\n", encoding="utf-8")
    settings = {
        "routing": rules,
        "repository": repository,
        "reconcile": 0.05,
        "keep_images": 8,
        "drift_samples": 20,
    }
    with serving(bundle, folder / "service", **settings) as server:
        services = [server.url.removeprefix("http://")]
        anywhere = dict.fromkeys(programs, 0)
        source = hurried_source(folder / "prometheus")
        with Monitor(services, anywhere, folder / "monitoring", 1.0, source) as monitor:
            push(monitor.url("pushgateway"))
            with Life(server, chips) as life:
                world = World(monitor.url("prometheus"), life)
                assert world.has("sum(model_predictions_total) > 0")
                life.swap()
                yield world
                world.close()
            assert not life.wrong


def test_every_query_of_a_panel_returns_data(world: World) -> None:
    missing = []
    for place, expr, labels in panels(needing=False):
        # `or vector(0)` returns data without them.
        missing += [f"{place}: {name}" for name in metrics(expr) if not world.has(name)]
        series = world.wait_for(expr)
        if not series or any(not labels <= item.get("metric", {}).keys() for item in series):
            missing.append(f"{place}: {expr} returns {series[:1]}")
    assert not missing


def test_panels_of_a_gpu_or_a_prober_have_valid_queries_of_known_metrics(world: World) -> None:
    panels_of_hardware = panels(needing=True)
    assert panels_of_hardware
    for item in panels_of_hardware:
        world.ask(item.expr)
        assert all(name in ABSENT or world.has(name) for name in metrics(item.expr)), item


def test_every_label_that_a_query_matches_exists(world: World) -> None:
    """A matcher of a label that does not exist selects nothing, which `or vector(0)` would hide."""
    exprs = [item.expr for item in (*panels(needing=False), *annotations(), *rules("record"))]
    exprs += [item.expr for item in rules("alert")]
    matched = {found for expr in exprs for found in matched_labels(expr)}
    for variable in VARIABLES.values():
        matched |= set(re.findall(r"label_values\((\w+), (\w+)\)", variable.values))
    wrong = [
        f"{metric} has no label {label}"
        for metric, label in sorted(matched)
        if metric not in ABSENT
        and label not in CLUSTER
        and not world.has(f'{metric}{{{label}!=""}}')
    ]
    assert wrong == []


def test_every_annotation_marks_something(world: World) -> None:
    assert [item for item in annotations() if not world.has(item.expr)] == []


def test_every_recording_rule_records_something(world: World) -> None:
    found = rules("record")
    assert [item for item in found if not world.has(item.expr)] == []
    assert [item.place for item in found if not world.has(item.place)] == []


def test_every_alert_looks_at_something(world: World) -> None:
    missing = []
    for place, expr, _ in rules("alert"):
        world.ask(expr)
        names = metrics(expr)
        assert names or "vector(" in expr
        missing += [f"{place}: {name}" for name in names - ABSENT if not world.has(name)]
    assert not missing


def test_alerts_of_failing_swaps_fire_and_those_of_a_healthy_service_do_not(world: World) -> None:
    firing = 'ALERTS{alertstate="firing"}'
    for name in FIRING:
        assert world.has(f'ALERTS{{alertstate="firing",alertname="{name}"}}'), name
    found = {item["metric"]["alertname"] for item in world.ask(firing)}
    assert found - DEPENDING == FIRING


def test_prometheus_itself_has_evaluated_all_without_an_error(world: World) -> None:
    assert world.has("prometheus_rule_evaluations_total > 0")
    found = world.rules()
    assert len(found) == len(rules("record")) + len(rules("alert"))
    assert {rule["health"] for rule in found} == {"ok"}, [
        (rule["name"], rule.get("lastError")) for rule in found if rule["health"] != "ok"
    ]
