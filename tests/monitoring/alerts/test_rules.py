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
from monitoring.objectives import APP, NO_REVIEW
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
RECORDED = [rule for rule in RULES if "record" in rule]
NAMES = sorted({rule["alert"] for rule in ALERTS})
GROUPS_OF_ALERTS = [group["name"] for group in GROUPS if "alert" in group["rules"][0]]
# Promised to everybody who routes alerts.
PROMISED = (
    "PredictionsFailing PredictionsSlow NoTraffic ModelDrift ConfidenceCollapsed ClassVanished "
    "LiveAccuracyLow ReplicasDisagree SwapFailing MetricsStale FeedbackNotRecorded DiskFilling "
    "CertificateExpiring ProbeFailing TokenExpiring DriftUnmeasured StreamBehind StreamDown "
    "StreamFramesDying RoutingRefused ArmCutOff PromotionProposed Watchdog"
).split()
RETRAIN = {"ModelDrift", "ConfidenceCollapsed", "ClassVanished", "LiveAccuracyLow"}
# Not of the service: machines, tokens and addresses have no namespace of their own.
OUTSIDE = {"DiskFilling", "TokenExpiring", "Watchdog"}
STALE = "Prometheus can scrape 0 replicas of the service"
PRODUCTION, REVIEW = f"{APP}-production", f"{APP}-review"


def promtool(*words: str | Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed: make setup-e2e")
    return subprocess.run([program, *map(str, words)], capture_output=True, text=True, check=False)


def needed(alert: str) -> list[dict[str, Any]]:
    """The rules of an alert, and the recording rules that they read."""
    found = [rule for rule in ALERTS if rule["alert"] == alert]
    while True:
        series = {name for rule in found for name in re.findall(r"[a-z_]+:[\w:]+", rule["expr"])}
        more = [rule for rule in RECORDED if rule["record"] in series and rule not in found]
        if not more:
            return [rule for rule in RULES if rule in found]
        found += more


def write_tests(
    path: Path, tests: list[dict[str, Any]], interval: str, evaluated: list[dict[str, Any]]
) -> Path:
    """Write tests for promtool, beside a file with the rules that they evaluate."""
    source = path.with_suffix(".rules.yml")
    groups = {"groups": [{"name": "needed", "rules": evaluated}]}
    source.write_text(yaml.safe_dump(groups, sort_keys=False), encoding="utf-8")
    document = {"rule_files": [str(source)], "evaluation_interval": interval, "tests": tests}
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path


def evaluate(*paths: Path) -> None:
    """Let promtool run files of tests; its output names the test, the alert and the difference."""
    done = promtool("test", "rules", *paths)
    assert done.returncode == 0, done.stdout + done.stderr


def placed(series: Mapping[str, str], namespace: str, job: str = APP) -> list[dict[str, str]]:
    """Series as Prometheus stores them: with a job, and with a namespace in a cluster."""
    found = []
    for key, values in series.items():
        name, _, labels = key.rstrip("}").partition("{")
        more = [] if 'job="' in labels else [f'job="{job}"']
        more += [f'namespace="{namespace}"'] if namespace else []
        found.append({"series": f"{name}{{{','.join([labels, *more])}}}", "values": values})
    return found


def expected(alert: str, fire: Fire, namespace: str) -> dict[str, Any]:
    """All labels and annotations, as promtool compares them."""
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


def promtool_test(alert: str, case: Case) -> dict[str, Any]:
    """A case with compose.yaml, in a cluster, in a review app and of another model, all at once.

    The names of namespaces are in no rule but for `review`, and all rules join by namespace.
    """
    fires, silent = ([""], []) if alert in OUTSIDE else (["", PRODUCTION], [REVIEW])
    other = {key: values for key, values in case.series.items() if silent and "job=" not in key}
    return {
        "name": f"{alert}: {case.says}",
        "interval": case.interval,
        "input_series": [
            *(item for namespace in (*fires, *silent) for item in placed(case.series, namespace)),
            *placed(other, "crops-production", "crops"),
        ],
        "alert_rule_test": [
            {
                "eval_time": case.at,
                "alertname": alert,
                "exp_alerts": [
                    expected(alert, fire, namespace) for namespace in fires for fire in case.fires
                ],
            }
        ],
    }


def test_prometheus_accepts_rules_and_configuration() -> None:
    for kind, paths in (("rules", FILES), ("config", [PROMETHEUS / "prometheus.yml"])):
        done = promtool("check", kind, *paths)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "FAILED" not in done.stdout + done.stderr


@pytest.mark.parametrize("group", GROUPS_OF_ALERTS)
def test_alerts_fire_as_in_the_table_and_stay_silent_otherwise(group: str, tmp_path: Path) -> None:
    names = {rule["alert"] for item in GROUPS if item["name"] == group for rule in item["rules"]}
    tests: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for name in names:
        for case in CASES[name]:
            # Hours in steps of a minute are what costs, and no alert holds that long.
            every = "5m" if case.at.endswith("h") and case.interval == "1m" else case.interval
            tests.setdefault((name, every), []).append(promtool_test(name, case))
    evaluate(
        *(
            write_tests(tmp_path / f"{name}-{interval}.yml", items, interval, needed(name))
            for (name, interval), items in tests.items()
        )
    )


def test_metrics_stale_misses_a_namespace_for_a_day_but_no_review_app(tmp_path: Path) -> None:
    stays = placed({'up{instance="a"}': "1x400"}, f"{APP}-staging")
    gone = placed({'up{instance="b"}': "1x11 stale"}, PRODUCTION)  # after an hour
    missed = [expected("MetricsStale", Fire("page", STALE), PRODUCTION)]
    disappears = {
        "name": "a namespace disappears beside one that stays",
        "interval": "5m",
        "input_series": stays + gone,
        "alert_rule_test": [
            {"eval_time": when, "alertname": "MetricsStale", "exp_alerts": alerts}
            for when, alerts in (("55m", []), ("70m", missed), ("24h", missed), ("26h", []))
        ],
    }
    review = {
        "name": "a review app comes, fails and goes",
        "interval": "5m",
        "input_series": stays + placed({'up{instance="r"}': "1 0 0 _x60"}, REVIEW),
        "alert_rule_test": [{"eval_time": "30m", "alertname": "MetricsStale", "exp_alerts": []}],
    }
    tests = [disappears, review]
    evaluate(write_tests(tmp_path / "test.yml", tests, "5m", needed("MetricsStale")))


def test_without_any_series_only_metrics_stale_and_the_watchdog_fire(tmp_path: Path) -> None:
    fires = {
        "MetricsStale": [Fire("page", STALE)],
        "Watchdog": [Fire("none", "Alerting works: this always fires (1)", job=None)],
    }
    checks = [
        {
            "eval_time": "1d",
            "alertname": name,
            "exp_alerts": [expected(name, fire, "") for fire in fires.get(name, [])],
        }
        for name in NAMES
    ]
    test = {"name": "no series", "interval": "5m", "alert_rule_test": checks}
    evaluate(write_tests(tmp_path / "test.yml", [test], "5m", RULES))


def test_recording_rules_have_the_right_values(tmp_path: Path) -> None:
    tests: dict[tuple[str, str], dict[str, Any]] = {}
    namespaces = ("", PRODUCTION)
    for record in RECORDS:
        test = tests.setdefault(
            (str(record.series), record.at),
            {
                "interval": "1m",
                "input_series": [
                    item for name in namespaces for item in placed(record.series, name)
                ],
                "promql_expr_test": [],
            },
        )
        test["promql_expr_test"].append(measured(record, namespaces))
    evaluate(write_tests(tmp_path / "test.yml", list(tests.values()), "30m", RECORDED))


def measured(record: Record, namespaces: tuple[str, ...]) -> dict[str, Any]:
    """The samples of a rule, as promtool compares them."""
    found = []
    for namespace in namespaces:
        place = {"namespace": namespace} if namespace else {}
        for labels, value in record.values:
            named = {"job": APP, **place, **labels}
            text = ",".join(f'{name}="{label}"' for name, label in named.items())
            found.append({"labels": f"{{{text}}}", "value": value})
    expression = f"round({record.name}, 0.000001)"
    return {"expr": expression, "eval_time": record.at, "exp_samples": found}


def test_every_alert_and_every_severity_has_firing_and_silent_cases() -> None:
    fires = {
        (alert, fire.severity)
        for alert, cases in CASES.items()
        for case in cases
        for fire in case.fires
    }
    assert fires == {(rule["alert"], rule["labels"]["severity"]) for rule in ALERTS}
    silent = {alert for alert, cases in CASES.items() if any(not case.fires for case in cases)}
    assert silent == set(NAMES) - {"Watchdog"}


def test_every_recording_rule_has_a_case() -> None:
    assert {record.name for record in RECORDS} == {rule["record"] for rule in RECORDED}


def test_alerts_have_the_promised_names() -> None:
    assert NAMES == sorted(PROMISED)


def test_every_alert_names_urgency_owner_and_its_section_of_the_runbook() -> None:
    for rule in ALERTS:
        name, labels, texts = rule["alert"], rule["labels"], rule["annotations"]
        assert labels["severity"] in ("page", "ticket", "none"), name
        assert labels["owner"] in ("service", "model", "platform"), name
        assert labels.get("retrain") == ("true" if name in RETRAIN else None), name
        assert texts.keys() == {"summary", "description", "runbook_url"}, name
        assert "$value" in texts["summary"], name
        assert "{{" not in texts["description"], f"{name}: a group shows its description once"
        assert texts["runbook_url"] == f"docs/runbook.md#{name.lower()}"


def test_every_alert_of_the_service_leaves_review_apps_out() -> None:
    missing = [
        rule["alert"]
        for rule in ALERTS
        if rule["alert"] not in OUTSIDE and NO_REVIEW not in rule["expr"]
    ]
    assert missing == []


def test_recording_rules_are_named_by_level_metric_and_operation() -> None:
    for rule in RECORDED:
        level = rule["record"].split(":")[0]
        assert re.fullmatch(r"namespace_job[a-z_]*:[a-z_]+:[a-z_]+[0-9]*[mhd]?", rule["record"])
        for label in level.split("_"):
            assert label in rule["expr"], rule["record"]


def test_the_committed_files_are_current_and_a_cluster_has_the_same_rules() -> None:
    run(sys.executable, "-m", "monitoring.alerts.rules", "--check", cwd=ROOT)
    path = ROOT / "monitoring" / rules.CLUSTER
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert document["kind"] == "PrometheusRule"
    assert document["apiVersion"] == "monitoring.coreos.com/v1"
    assert document["spec"]["groups"] == GROUPS
    assert len({group["name"] for group in GROUPS}) == len(GROUPS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("groups: ${NOWHERE}", r"alerts\.yml\.j2: 'NOWHERE' is undefined; values are the names of"),
        ("a\n#% if\n", r"alerts\.yml\.j2, line 2: "),
        ("groups: {", r"alerts\.yml: its template gives no groups of rules \(ParserError"),
        ("rules: []", r"alerts\.yml: its template gives no groups of rules \(KeyError"),
    ],
)
def test_a_broken_template_is_an_error_with_its_file(
    text: str, message: str, tmp_path: Path
) -> None:
    shutil.copytree(rules.TEMPLATES, tmp_path, dirs_exist_ok=True)
    (tmp_path / "alerts.yml.j2").write_text(text, encoding="utf-8")
    with pytest.raises(MonitoringError, match=message):
        rules.files(tmp_path)
    (tmp_path / "recording.yml.j2").unlink()
    with pytest.raises(MonitoringError, match=r"recording\.yml\.j2: .* not found"):
        rules.files(tmp_path)
