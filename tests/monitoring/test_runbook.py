"""The runbook and the alerts hold together: each has the other, and what it names is there."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

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
    document["title"]: {panel["title"] for panel in document["panels"]}
    for path in (ROOT / "monitoring" / "grafana" / "dashboards").glob("*.json")
    for document in [json.loads(path.read_text(encoding="utf-8"))]
}
# What Prometheus, Alertmanager and the service's page call their parts.
ELSEWHERE = {"Status > Targets", "Status > Runtime", "Silences", "Roll back"}


def test_every_alert_has_a_section_and_every_section_an_alert() -> None:
    assert sorted(set(SECTIONS) - {"Silences"}) == ALERTS


@pytest.mark.parametrize("name", ALERTS)
def test_a_section_says_what_it_means_where_to_look_and_what_to_do(name: str) -> None:
    text = SECTIONS[name]
    parts = ["**Means.**", "**Look.**", "**Do.**", "**Silence.**"]
    if name == "DriftUnmeasured":  # its table has the cures
        assert "| cure |" in text
        parts.remove("**Do.**")
    places = [text.find(part) for part in parts]
    assert -1 not in places and places == sorted(places)


@pytest.mark.parametrize("name", ALERTS)
def test_a_silence_names_its_alert_and_labels_that_it_has(name: str) -> None:
    said = SECTIONS[name].partition("**Silence.**")[2]
    matchers = re.findall(r"(\w+)=", said)
    if name == "Watchdog":
        assert not matchers
        return
    assert f"alertname={name}" in said
    labels = "".join(str(rule) for rule in RULES if rule.get("alert") == name)
    for label in set(matchers) - {"alertname", "namespace", "job"}:
        assert label in labels or label in ("tag", "instance", "mountpoint")


def test_links_lead_somewhere() -> None:
    for anchor in re.findall(r"\]\(#(\w+)\)", TEXT):
        assert anchor in {name.lower() for name in SECTIONS}
    for name in re.findall(r"\]\((\w[\w-]*\.md)\)", TEXT):
        assert (ROOT / "docs" / name).exists(), name


def test_dashboards_and_panels_have_these_names() -> None:
    said = re.sub(r"\*\*.*?\*\*", "", " ".join(TEXT.split()))
    panels = set().union(*DASHBOARDS.values())
    assert set(re.findall(r"dashboard \*([^*]+)\*", said, re.IGNORECASE)) <= set(DASHBOARDS)
    assert set(re.findall(r"\*([^*]+)\*", said)) <= panels | set(DASHBOARDS) | ELSEWHERE


def test_recorded_series_that_are_named_exist() -> None:
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
