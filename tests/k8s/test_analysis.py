"""The analysis of the canary, as Prometheus answers its queries: what promotes, what stops."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import ROOT
from tests.make.bundles import make_bundle, make_chip
from tests.make.server import serving

TEMPLATE = yaml.safe_load((ROOT / "k8s/components/argo/analysis.yaml").read_text("utf-8"))
METRICS: dict[str, Any] = {item["name"]: item for item in TEMPLATE["spec"]["metrics"]}
# No data is an empty result, and false; NaN is not comparable, and false.
CONDITION = re.compile(r"len\(result\) > 0 && result\[0\] (?P<sign>[<>]=) (?P<limit>[0-9.]+)")
SHORTEST = next(item["value"] for item in TEMPLATE["spec"]["args"] if item["name"] == "ago")
HASHES = {"canary": "6d4cf56db6", "stable": "7bf84f9696"}
CLASSES = ("Forest", "River", "Pasture")

Shares = Mapping[str, float]
EVEN: Shares = {"Forest": 2, "River": 1, "Pasture": 1}


def pods(
    kind: str,
    shares: Shares = EVEN,
    *,
    errors: float = 0,
    slow: float = 0,
    seconds: float = 0.02,
    confidence: float = 0.8,
    pace: float = 10,
) -> dict[str, float]:
    """What the pods of a version count in 15 seconds; `shares` times `pace` are predictions."""
    label = f'rollouts_pod_template_hash="{HASHES[kind]}"'
    total = sum(shares.values()) * pace
    found = {
        f'model_predictions_total{{{label},class="{name}",tag="{kind}"}}': share * pace
        for name, share in shares.items()
    }
    http = f'{label},handler="/predict"'
    found[f'http_requests_total{{{http},method="POST",status="200"}}'] = total
    if errors:
        found[f'http_requests_total{{{http},method="POST",status="503"}}'] = errors * total
    # The probes of the pod are no predictions, and fast.
    found[f'http_request_duration_seconds_count{{{label},handler="/healthz"}}'] = 1000
    found[f'http_request_duration_seconds_bucket{{{label},handler="/healthz",le="0.5"}}'] = 1000
    found[f"http_request_duration_seconds_count{{{http}}}"] = total
    found[f"http_request_duration_seconds_sum{{{http}}}"] = total * seconds
    found[f'http_request_duration_seconds_bucket{{{http},le="0.05"}}'] = total * 0.5
    found[f'http_request_duration_seconds_bucket{{{http},le="0.5"}}'] = total * (1 - slow)
    found[f"model_confidence_sum{{{label}}}"] = total * confidence
    found[f"model_confidence_count{{{label}}}"] = total
    return found


STABLE = pods("stable", pace=30)
SHIFTED = {"Forest": 1, "River": 1, "Pasture": 2}
COMPARISONS = {"latency", "class-shares", "confidence"}

CASES: list[tuple[str, dict[str, float], set[str]]] = [
    ("as good as the stable version", STABLE | pods("canary"), set()),
    ("nothing at all", {}, set(METRICS)),
    ("no canary", STABLE, set(METRICS)),
    ("a canary without requests", STABLE | pods("canary", pace=0), set(METRICS)),
    ("no stable version", pods("canary"), COMPARISONS),
    ("a stable version without requests", pods("canary") | pods("stable", pace=0), COMPARISONS),
    ("few predictions", STABLE | pods("canary", pace=0.5), {"predictions"}),
    ("errors", STABLE | pods("canary", errors=0.02), {"error-ratio"}),
    ("few errors", STABLE | pods("canary", errors=0.005), set()),
    ("some are slow", STABLE | pods("canary", slow=0.02), {"slow-ratio"}),
    ("all are slower", STABLE | pods("canary", seconds=0.04), {"latency"}),
    ("all are faster", STABLE | pods("canary", seconds=0.01), set()),
    ("other shares", STABLE | pods("canary", SHIFTED), {"class-shares"}),
    ("a class has gone", STABLE | pods("canary", {"Forest": 3, "River": 1}), {"class-shares"}),
    ("a class is new", STABLE | pods("canary", {**EVEN, "SeaLake": 2}), {"class-shares"}),
    ("less confident", STABLE | pods("canary", confidence=0.6), {"confidence"}),
    ("more confident", STABLE | pods("canary", confidence=0.95), {"confidence"}),
]


def query(name: str, ago: str = SHORTEST) -> str:
    text = str(METRICS[name]["provider"]["prometheus"]["query"])
    for kind, value in {**HASHES, "ago": ago}.items():
        text = text.replace(f"{{{{args.{kind}}}}}", value)
    assert "{{" not in text
    return text


def test_no_data_and_nan_never_promote() -> None:
    # Without a condition of failure Argo takes what does not succeed for one; with it there would
    # be a between.
    others = {"failureCondition", "failureLimit", "inconclusiveLimit"}
    offenders = [
        name
        for name, metric in METRICS.items()
        if not CONDITION.fullmatch(metric["successCondition"]) or others & metric.keys()
    ]
    assert offenders == []


def test_the_analysis_stops_a_worse_canary_and_promotes_others(tmp_path: Path) -> None:
    """promtool evaluates each query, with its condition around it: one is success, zero failure."""
    evaluate(tmp_path, [promtool_test(*case) for case in CASES])


def test_blue_green_compares_with_the_time_before_the_change(tmp_path: Path) -> None:
    """The Service changed over at ten minutes, and the analysis asks six minutes later."""
    before, after = "0+{step:.10g}x40 {last:.10g}+0x60", "0x40 0+{step:.10g}x60"
    moved = [
        {"series": key, "values": form.format(step=step, last=40 * step)}
        for series, form in ((STABLE, before), (pods("canary"), after))
        for key, step in series.items()
    ]
    changed = partial(promtool_test, "changed over", {}, values=moved, at="16m")
    evaluate(tmp_path, [changed(set(), ago="7m"), changed(COMPARISONS, ago=SHORTEST)])


def evaluate(folder: Path, tests: list[dict[str, Any]]) -> None:
    """Let promtool run tests."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: make setup-e2e")
    path = folder / "analysis.yaml"
    path.write_text(yaml.safe_dump({"evaluation_interval": "15s", "tests": tests}), "utf-8")
    done = subprocess.run(
        [promtool, "test", "rules", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def promtool_test(
    case: str,
    series: dict[str, float],
    failing: set[str],
    *,
    ago: str = SHORTEST,
    at: str = "10m",
    values: list[dict[str, str]] | None = None,
) -> dict[str, Any]:
    tests = []
    for name, metric in METRICS.items():
        found = CONDITION.fullmatch(metric["successCondition"])
        assert found
        holds = f"count(({query(name, ago)}) {found['sign']} {found['limit']}) or vector(0)"
        wanted = {"labels": "{}", "value": 0 if name in failing else 1}
        tests.append({"expr": holds, "eval_time": at, "exp_samples": [wanted]})
    if values is None:
        values = [{"series": key, "values": f"0+{step:.10g}x60"} for key, step in series.items()]
    return {
        "name": case,
        "interval": "15s",
        "input_series": values,
        "promql_expr_test": tests,
    }


def test_the_service_exports_what_the_queries_ask_for(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "model")
    with serving(bundle, tmp_path / "service", workers=1) as server:
        headers = {"content-type": "application/octet-stream"}
        chip = npy(tmp_path)
        httpx.post(f"{server.url}/predict", content=chip, headers=headers).raise_for_status()
        text = httpx.get(f"{server.url}/metrics").text
    exported = [
        (sample.name, sample.labels)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]
    asked = {
        (name, selector)
        for metric in METRICS
        for name, selector in re.findall(r"(\w+)\{(.*?)\}", query(metric))
    }
    assert len({name for name, _ in asked}) == 7
    missing = {
        name
        for name, selector in asked
        if not any(name == other and fits(selector, labels) for other, labels in exported)
    }
    assert not missing
    labels = next(labels for name, labels in exported if name == "model_predictions_total")
    assert labels.keys() == {"class", "tag"}


def fits(selector: str, labels: Mapping[str, str]) -> bool:
    """Whether a sample has what a selector asks for, but for the pods' hash and the status."""
    wanted = dict(re.findall(r'(\w+)="(.*?)"', selector))
    wanted.pop("rollouts_pod_template_hash")
    return wanted.items() <= labels.items() and ("status" in labels or "status" not in selector)


def npy(folder: Path) -> bytes:
    """A chip as an upload."""
    np.save(folder / "chip.npy", make_chip(0))
    return (folder / "chip.npy").read_bytes()
