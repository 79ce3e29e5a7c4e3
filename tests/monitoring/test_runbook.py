"""The runbook has a section for each alert, and everything that it names exists."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from monitoring.objectives import APP
from tests.conftest import ROOT

TEXT = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))
RULES = [
    rule
    for path in sorted((ROOT / "monitoring" / "prometheus" / "rules").glob("*.yml"))
    for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
ALERTS = sorted({rule["alert"] for rule in RULES if "alert" in rule})
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
DASHBOARDS = {
    document["title"].removeprefix(f"{APP}: "): {panel["title"] for panel in document["panels"]}
    for path in (ROOT / "monitoring" / "grafana" / "dashboards").glob("*.json")
    for document in [json.loads(path.read_text(encoding="utf-8"))]
}
# Names of pages of Prometheus, Alertmanager and the service.
ELSEWHERE = {"Status > Targets", "Status > Runtime", "Silences", "Roll back"}


def test_every_alert_has_a_section_and_every_section_an_alert() -> None:
    assert sorted(SECTIONS.keys() - {"Silences", "Troubleshooting"}) == ALERTS


def test_every_section_has_its_parts_in_order() -> None:
    wrong = []
    for name in ALERTS:
        parts = ["**Means.**", "**Look.**", "**Do.**", "**Silence.**"]
        if name == "DriftUnmeasured":  # its table has the cures
            parts[2] = "| cure |"
        places = [SECTIONS[name].find(part) for part in parts]
        if -1 in places or places != sorted(places):
            wrong.append(name)
    assert wrong == []


def test_every_silence_names_its_alert_and_labels_that_it_has() -> None:
    wrong = []
    for name in set(ALERTS) - {"Watchdog"}:
        silence = SECTIONS[name].partition("**Silence.**")[2]
        labels = "".join(str(rule) for rule in RULES if rule.get("alert") == name)
        named = set(re.findall(r"(\w+)=", silence)) - {"alertname", "namespace", "job"}
        wrong += [
            f"{name}: {label}"
            for label in named
            if label not in labels and label not in ("tag", "instance", "mountpoint")
        ]
        if f"alertname={name}" not in silence:
            wrong.append(name)
    assert wrong == []
    assert "=" not in SECTIONS["Watchdog"].partition("**Silence.**")[2]


def test_every_link_has_a_target() -> None:
    for anchor in re.findall(r"\]\(#(\w+)\)", TEXT):
        assert anchor in {name.lower() for name in SECTIONS}
    for name in re.findall(r"\]\((\w[\w-]*\.md)\)", TEXT):
        assert (ROOT / "docs" / name).exists(), name


def test_named_dashboards_and_panels_exist() -> None:
    prose = re.sub(r"\*\*.*?\*\*", "", " ".join(TEXT.split()))
    panels = set().union(*DASHBOARDS.values())
    assert set(re.findall(r"dashboard \*([^*]+)\*", prose, re.IGNORECASE)) <= set(DASHBOARDS)
    assert set(re.findall(r"\*([^*]+)\*", prose)) <= panels | set(DASHBOARDS) | ELSEWHERE


def test_named_recorded_series_exist() -> None:
    named = set(re.findall(r"namespace_job\w*:\w+:\w+", TEXT))
    assert named and named <= RECORDED


def test_prometheus_understands_the_queries(tmp_path: Path) -> None:
    if not shutil.which("promtool"):
        pytest.skip("promtool is not installed: make setup-e2e")
    queries = re.findall(r"^promtool query instant \$PROMETHEUS '(.+?)'", TEXT, re.MULTILINE)
    assert len(queries) == TEXT.count("promtool query")
    rules = [{"record": f"query:{number}", "expr": text} for number, text in enumerate(queries)]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "runbook", "rules": rules}]}), "utf-8")
    done = subprocess.run(["promtool", "check", "rules", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
