"""Recording rules and alerts, as promtool evaluates them; and the same rules for a cluster."""

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring.alerts import rules
from monitoring.errors import MonitoringError
from tests.conftest import ROOT, run
from tests.monitoring.alerts.cases import CASES, Case, Fire
from tests.monitoring.alerts.record_cases import RECORDS, Record

PROMETHEUS = ROOT / "monitoring" / "prometheus"
FILES = [PROMETHEUS / "rules" / name for name in ("recording.yml", "alerts.yml")]
GROUPS = [
    group for path in FILES for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
]
RULES: list[dict[str, Any]] = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]
NAMES = sorted({rule["alert"] for rule in ALERTS})
# What this repository promises to whoever routes alerts.
PROMISED = (
    "PredictionsFailing PredictionsSlow NoTraffic ModelDrift ConfidenceCollapsed ClassVanished "
    "LiveAccuracyLow ReplicasDisagree SwapFailing MetricsStale FeedbackNotRecorded DiskFilling "
    "CertificateExpiring ProbeFailing TokenExpiring DriftUnmeasured Watchdog"
).split()
RETRAIN = {"ModelDrift", "ConfidenceCollapsed", "ClassVanished", "LiveAccuracyLow"}
# No part of the service: machines, tokens and addresses have no namespace of their own.
OUTSIDE = {"DiskFilling", "TokenExpiring", "Watchdog"}


def promtool(*words: str | Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed: make setup-e2e")
    return subprocess.run([program, *map(str, words)], capture_output=True, text=True, check=False)


def evaluate(folder: Path, tests: list[dict[str, Any]], interval: str) -> None:
    """Let promtool run tests."""
    document = {
        "rule_files": [str(path) for path in FILES],
        "evaluation_interval": interval,
        "group_eval_order": [group["name"] for group in GROUPS],
        "tests": tests,
    }
    path = folder / "test.yml"
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    done = promtool("test", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr


def placed(series: Mapping[str, str], namespace: str) -> list[dict[str, str]]:
    """Series as Prometheus stores them: with the job of the scrape, in a cluster its namespace."""
    found = []
    for key, values in series.items():
        name, _, labels = key.rstrip("}").partition("{")
        more = [] if 'job="' in labels else ['job="landcover"']
        more += [f'namespace="{namespace}"'] if namespace else []
        found.append({"series": f"{name}{{{','.join([labels, *more])}}}", "values": values})
    return found


def expected(alert: str, fire: Fire, namespace: str) -> dict[str, Any]:
    """What promtool compares: all labels, all annotations."""
    job = {"job": fire.job} if fire.job else {}
    place = {"namespace": namespace} if namespace else {}
    [rule] = [
        rule
        for rule in ALERTS
        if rule["alert"] == alert
        and rule["labels"]["severity"] == fire.severity
        and all(fire.labels.get(name, text) == text for name, text in rule["labels"].items())
        and rule["labels"].keys() - {"severity", "owner", "retrain"} <= fire.labels.keys()
        and ("reason" in rule["labels"]) == (fire.labels.get("reason") == "few_samples")
    ]
    annotations = rule["annotations"] | {"summary": fire.summary}
    return {
        "exp_labels": {**job, **place, **rule["labels"], **fire.labels},
        "exp_annotations": annotations,
    }


def look(case: Case, namespace: str, fires: bool = True) -> dict[str, Any]:
    """A test of promtool: these series, in this namespace."""
    alerts = [expected(case.alert, fire, namespace) for fire in case.fires if fires]
    return {
        "name": f"{case.alert} in {namespace or 'no namespace'}: {case.says}",
        "interval": case.interval,
        "input_series": placed(case.series, namespace),
        "alert_rule_test": [
            {"eval_time": case.at, "alertname": case.alert, "exp_alerts": alerts},
        ],
    }


def test_prometheus_accepts_rules_and_configuration() -> None:
    for kind, paths in (("rules", FILES), ("config", [PROMETHEUS / "prometheus.yml"])):
        done = promtool("check", kind, *paths)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "FAILED" not in done.stdout + done.stderr


@pytest.mark.parametrize("name", PROMISED)
def test_an_alert_says_what_it_should_and_nothing_else(name: str, tmp_path: Path) -> None:
    for interval in sorted({case.interval for case in CASES}):
        tests = []
        for case in CASES:
            if (case.alert, case.interval) == (name, interval):
                tests += looks(case)
        if tests:
            evaluate(tmp_path, tests, interval)


def looks(case: Case) -> list[dict[str, Any]]:
    """A case as it is with compose.yaml, in a cluster, and, if it fires, for review apps."""
    found = [look(case, "")]
    if case.alert not in OUTSIDE:
        found.append(look(case, "landcover-production"))
        # Beside review apps there is always another namespace. The silent are silent there too.
        if case.fires and case.alert != "MetricsStale":
            found.append(look(case, "landcover-review", fires=False))
    return found


def test_review_apps_come_and_go_without_an_alert(tmp_path: Path) -> None:
    production = placed({'up{instance="a"}': "1x60"}, "landcover-production")
    gone = placed({'up{instance="r"}': "1x5 0x10 _x60"}, "landcover-review")
    silent = {"eval_time": "30m", "alertname": "MetricsStale", "exp_alerts": []}
    test = {"interval": "1m", "input_series": production + gone, "alert_rule_test": [silent]}
    evaluate(tmp_path, [test], "1m")


def test_a_namespace_that_disappears_is_missed_for_a_day_beside_one_that_stays(
    tmp_path: Path,
) -> None:
    series = placed({'up{instance="a"}': "1x400"}, "landcover-staging")
    series += placed({'up{instance="b"}': "1x11 stale"}, "landcover-production")  # for an hour
    fire = Fire("page", "0 replicas of the service can be measured")
    missed = expected("MetricsStale", fire, "landcover-production")
    test = {
        "interval": "5m",
        "input_series": series,
        "alert_rule_test": [
            {"eval_time": when, "alertname": "MetricsStale", "exp_alerts": alerts}
            for when, alerts in (("55m", []), ("70m", [missed]), ("24h", [missed]), ("26h", []))
        ],
    }
    evaluate(tmp_path, [test], "5m")


def test_without_any_series_only_those_speak_whose_duty_it_is(tmp_path: Path) -> None:
    stale = Fire("page", "0 replicas of the service can be measured")
    alive = Fire("none", "Alerting works: this fires always (1)", job=None)
    speak = {"MetricsStale": [stale], "Watchdog": [alive]}
    checks = [
        {
            "eval_time": "1d",
            "alertname": name,
            "exp_alerts": [expected(name, fire, "") for fire in speak.get(name, [])],
        }
        for name in NAMES
    ]
    evaluate(tmp_path, [{"interval": "5m", "alert_rule_test": checks}], "5m")


@pytest.mark.parametrize("namespace", ["", "landcover-production"])
def test_recording_rules_have_the_right_values(namespace: str, tmp_path: Path) -> None:
    tests: dict[tuple[str, str], dict[str, Any]] = {}
    for record in RECORDS:
        test = tests.setdefault(
            (str(record.series), record.at),
            {
                "interval": "1m",
                "input_series": placed(record.series, namespace),
                "promql_expr_test": [],
            },
        )
        test["promql_expr_test"].append(measured(record, namespace))
    evaluate(tmp_path, list(tests.values()), "30m")


def measured(record: Record, namespace: str) -> dict[str, Any]:
    """What promtool compares: the samples of a rule."""
    place = {"namespace": namespace} if namespace else {}
    found = []
    for labels, value in record.values:
        named = {"job": "landcover", **place, **labels}
        text = ",".join(f'{name}="{label}"' for name, label in named.items())
        found.append({"labels": f"{{{text}}}", "value": value})
    expression = f"round({record.name}, 0.000001)"
    return {"expr": expression, "eval_time": record.at, "exp_samples": found}


def test_every_alert_and_every_severity_is_seen_firing_and_silent() -> None:
    fires = {(case.alert, fire.severity) for case in CASES for fire in case.fires}
    assert fires == {(rule["alert"], rule["labels"]["severity"]) for rule in ALERTS}
    assert {case.alert for case in CASES if not case.fires} == set(NAMES) - {"Watchdog"}


def test_every_recording_rule_is_measured() -> None:
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    assert {record.name for record in RECORDS} == recorded


def test_the_names_are_the_promised_ones() -> None:
    assert NAMES == sorted(PROMISED)


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_names_urgency_owner_and_what_to_read(rule: dict[str, Any]) -> None:
    name, labels, texts = rule["alert"], rule["labels"], rule["annotations"]
    assert labels["severity"] in ("page", "ticket", "none")
    assert labels["owner"] in ("service", "model", "platform")
    assert labels.get("retrain") == ("true" if name in RETRAIN else None)
    assert texts.keys() == {"summary", "description", "runbook_url"}
    assert "$value" in texts["summary"]
    assert "{{" not in texts["description"]  # the same for all of a group: it is said once
    assert texts["runbook_url"] == f"docs/runbook.md#{name.lower()}"


@pytest.mark.parametrize("rule", [rule for rule in ALERTS if rule["alert"] not in OUTSIDE])
def test_an_alert_leaves_review_apps_out(rule: dict[str, Any]) -> None:
    assert 'namespace!~".*review.*"' in rule["expr"]


def test_recording_rules_are_named_by_level_metric_and_operation() -> None:
    for rule in RULES:
        if "record" in rule:
            level = rule["record"].split(":")[0]
            assert re.fullmatch(r"namespace_job[a-z_]*:[a-z_]+:[a-z_]+[0-9]*[mhd]?", rule["record"])
            for label in level.split("_"):
                assert label in rule["expr"]


def test_the_rules_of_the_cluster_are_these_rules() -> None:
    document = yaml.safe_load(rules.TARGET.read_text(encoding="utf-8"))
    assert document["kind"] == "PrometheusRule"
    assert document["apiVersion"] == "monitoring.coreos.com/v1"
    assert document["spec"]["groups"] == GROUPS
    assert len({group["name"] for group in GROUPS}) == len(GROUPS)
    run(sys.executable, "-m", "monitoring.alerts.rules", "--check", cwd=ROOT)


def test_the_check_finds_a_file_that_is_not_of_these_rules(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    words = (sys.executable, "-m", "monitoring.alerts.rules", "--out", str(path))
    missing = run(*words, "--check", cwd=ROOT, check=False)
    assert missing.returncode == 1 and "make rules" in missing.stderr
    run(*words, cwd=ROOT)
    run(*words, "--check", cwd=ROOT)
    path.write_text(path.read_text(encoding="utf-8") + "# mine\n", encoding="utf-8")
    changed = run(*words, "--check", cwd=ROOT, check=False)
    assert changed.returncode == 1 and "Traceback" not in changed.stderr


def test_rules_that_are_none_are_refused_with_the_file(tmp_path: Path) -> None:
    shutil.copy(FILES[0], tmp_path)
    (tmp_path / "alerts.yml").write_text("groups: {", encoding="utf-8")
    with pytest.raises(MonitoringError, match=r"alerts\.yml"):
        rules.render(tmp_path)
    (tmp_path / "recording.yml").unlink()
    with pytest.raises(MonitoringError, match="no rules"):
        rules.render(tmp_path)
