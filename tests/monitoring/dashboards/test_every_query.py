"""Every panel and every rule, asked of a real Prometheus that watches a real, busy service.

Nothing here knows what a query should say, only that it says something: a metric that was renamed,
a label that is not there, a rate over too little would be an empty panel on the day it is needed.
"""

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import yaml

from monitoring.dashboards.panels import DASHBOARDS, plain
from monitoring.local.__main__ import Monitor
from monitoring.local.configuration import SOURCE
from tests.make.monitored_bundles import write_chips
from tests.make.server import serving
from tests.make.traffic import Life, publish, push

WITHIN = 40.0  # seconds that a query has to return data, from the beginning of the traffic
PAUSE = 0.5
# Alerts are silent in health. These are not, here: three swaps fail, and one always fires.
FIRING = {"SwapFailing", "Watchdog"}
DEPENDING = {"DiskFilling"}  # on the machine that runs this
# What a query names and nothing here exports: there is no prober, and no GPU.
ABSENT = {"probe_ssl_earliest_cert_expiry", "probe_success"}
NEEDS = {"gpu", "probe"}
NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
KEYWORDS = {"and", "or", "unless", "offset", "bool", "on", "ignoring", "group_left", "group_right"}
LABELS = re.compile(
    r"\boffset\s+\w+|\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)"
)
LEGEND = re.compile(r"\{\{(\w+)\}\}")
INSIDE = re.compile(r'"(?:\\.|[^"\\])*"|\{[^}]*\}|\[[^\]]*\]')


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
            assert panel.needs in NEEDS | {""}, f"{panel.title}: say here why it shows nothing"
            for query in panel.queries:
                if bool(panel.needs) == needing:
                    place = f"{dashboard.title}: {panel.title}: {query.legend}"
                    labels = frozenset(LEGEND.findall(query.legend))
                    found.append(Asked(place, plain(query.expr), labels))
    return found


def annotations() -> list[Asked]:
    """What is marked in every time series."""
    return [
        Asked(f"{dashboard.title}: {item.name}", plain(item.expr))
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


def named(expr: str) -> set[str]:
    """The metrics that an expression names."""
    text = LABELS.sub(" ", INSIDE.sub(" ", expr))
    names = {found[0]: text[found.end() :].lstrip()[:1] for found in NAME.finditer(text)}
    return {name for name, after in names.items() if after != "(" and name not in KEYWORDS}


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
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ships, but no group of rules waits for a minute."""
    folder = tmp_path_factory.mktemp("source") / "prometheus"
    shutil.copytree(SOURCE.parent, folder)
    for path in (folder / "rules").glob("*.yml"):
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        for group in document["groups"]:
            group.pop("interval", None)
        path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return folder / SOURCE.name


@pytest.fixture(scope="module")
def world(
    programs: dict[str, Path], source: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    if "pushgateway" not in programs:
        pytest.skip("pushgateway is not installed: make setup-e2e")
    folder = tmp_path_factory.mktemp("world")
    chips = write_chips(folder / "data")
    bundle, repository = publish(folder, chips)
    settings = {"repository": repository, "reconcile": 0.05, "keep_images": 8, "drift_samples": 20}
    with serving(bundle, folder / "service", **settings) as server:
        services = [server.url.removeprefix("http://")]
        anywhere = dict.fromkeys(programs, 0)
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
        missing += [f"{place}: {name}" for name in named(expr) if not world.has(name)]
        series = world.wait_for(expr)
        if not series or any(not labels <= item.get("metric", {}).keys() for item in series):
            missing.append(f"{place}: {expr} returns {series[:1]}")
    assert not missing


def test_what_needs_a_gpu_or_a_prober_can_be_asked(world: World) -> None:
    asked = panels(needing=True)
    assert asked
    for item in asked:
        world.ask(item.expr)


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
        names = named(expr)
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


def test_names_are_found_in_expressions() -> None:
    expr = 'sum by (le, tag) (rate(a_total{b="c{"}[5m])) / on (d) group_left e:f:g'
    expr += " > 0.5 and h offset 30m"
    assert named(expr) == {"a_total", "e:f:g", "h"}
