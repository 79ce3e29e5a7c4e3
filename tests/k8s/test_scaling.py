"""How many pods, where, and on what: spread, limits, GPU, and the queue as a reason for more."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.inference.model import Serving
from service.settings import Settings
from service.telemetry.exposition import TotalsCollector
from service.telemetry.observations import Observations
from tests.k8s.conftest import K8S, NAME, OVERLAYS, one, rendered, workload
from tests.make.manifests import STRATEGIES, WAYS_IN

RULE = yaml.safe_load((K8S / "components/queue-time/adapter.yaml").read_text("utf-8"))
HASHES = {"Deployment": "pod-template-hash", "Rollout": "rollouts-pod-template-hash"}


def pod(overlay: str, *chosen: str) -> Any:
    return workload(rendered(overlay, chosen=chosen))["spec"]["template"]["spec"]


def container(overlay: str, *chosen: str) -> Any:
    (found,) = pod(overlay, *chosen)["containers"]
    return found


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_spread_among_those_of_their_own_version(overlay: str) -> None:
    """Else old pods that are about to go would count, and the new ones stand together."""
    kind = workload(rendered(overlay))["kind"]
    spread = pod(overlay)["topologySpreadConstraints"]
    assert {item["topologyKey"].rpartition("/")[2] for item in spread} == {"hostname", "zone"}
    for item in spread:
        assert HASHES[kind] in item["matchLabelKeys"]
        assert not set(item["matchLabelKeys"]) & item["labelSelector"]["matchLabels"].keys()
        assert item["whenUnsatisfiable"] == "ScheduleAnyway"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_pods_of_a_stage_have_no_limit_of_cpu_unless_it_is_chosen(overlay: str) -> None:
    resources = container(overlay)["resources"]
    assert "cpu" not in resources["limits"] and resources["requests"]["cpu"]
    assert {"memory", "ephemeral-storage"} <= resources["limits"].keys()
    limit = int(container(overlay, "cpu-limit")["resources"]["limits"]["cpu"])
    settings = next(
        item["data"]
        for item in rendered(overlay)
        if item["kind"] == "ConfigMap" and "SERVICE_WORKERS" in item.get("data", {})
    )
    assert limit == int(settings["SERVICE_WORKERS"])


def test_a_review_app_has_one_because_a_merge_request_decides_what_it_runs() -> None:
    limits = container("review")["resources"]["limits"]
    assert limits["cpu"] == "1"


@pytest.mark.parametrize("overlay", [*OVERLAYS, "review"])
def test_a_gpu_is_a_limit_a_toleration_and_a_setting_that_fails_loudly(overlay: str) -> None:
    plain, found = container(overlay), container(overlay, "gpu")
    assert found["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "nvidia.com/gpu" not in plain["resources"]["limits"]
    values = {item["name"]: item.get("value") for item in found["env"]}
    assert values["SERVICE_DEVICE"] == "cuda"
    assert Settings.model_fields["device"].default == "auto"
    (toleration,) = pod(overlay, "gpu")["tolerations"]
    assert toleration == {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    without = [item for item in found["env"] if item["name"] != "SERVICE_DEVICE"]
    assert without == plain["env"]


@pytest.mark.parametrize("strategy", ["", *(f"-{it}" for it in STRATEGIES)])
def test_the_queue_is_a_second_reason_for_more_pods(strategy: str) -> None:
    overlay = f"production{strategy}"
    plain = one(rendered(overlay), "HorizontalPodAutoscaler")["spec"]
    found = one(rendered(overlay, chosen=["queue-time"]), "HorizontalPodAutoscaler")["spec"]
    *cpu, queue = found["metrics"]
    assert cpu == plain["metrics"]
    assert {**found, "metrics": cpu} == plain  # whoever leaves it again changes nothing else
    assert queue["pods"]["metric"]["name"] == rule()["name"]["as"]
    assert queue["type"] == "Pods" and queue["pods"]["target"]["type"] == "AverageValue"


def rule() -> Any:
    (found,) = RULE["rules"]["custom"]
    return found


def adapter_query() -> str:
    """What the adapter asks Prometheus for the pods of a stage."""
    series = rule()["seriesQuery"].partition("{")[0]
    text = str(rule()["metricsQuery"])
    for name, value in {
        "GroupBy": "pod",
        "Series": series,
        "LabelMatchers": f'namespace="{NAME}-production",pod=~"one|two|idle"',
    }.items():
        text = text.replace(f"<<.{name}>>", value)
    assert "<<" not in text
    return text


def test_the_adapter_answers_how_many_chips_wait_in_each_pod(tmp_path: Path) -> None:
    """Ten seconds of waiting in ten seconds is one that waits; an idle pod has none."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: make setup-e2e")
    labels = f'namespace="{NAME}-production"'
    waited = {"one": 15, "two": 60, "idle": 0, "other": 150}  # seconds in 15 seconds
    series = [
        {"series": f'model_queue_seconds_sum{{{labels},pod="{name}"}}', "values": f"0+{step}x40"}
        for name, step in waited.items()
    ]
    wanted = {"one": 1, "two": 4, "idle": 0}
    test = {
        "interval": "15s",
        "input_series": series,
        "promql_expr_test": [
            {
                "expr": adapter_query(),
                "eval_time": "10m",
                "exp_samples": [
                    {"labels": f'{{pod="{name}"}}', "value": value}
                    for name, value in wanted.items()
                ],
            }
        ],
    }
    path = tmp_path / "adapter.yaml"
    path.write_text(yaml.safe_dump({"evaluation_interval": "15s", "tests": [test]}), "utf-8")
    done = subprocess.run(
        [promtool, "test", "rules", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_service_exports_what_the_adapter_looks_for() -> None:
    series = rule()["seriesQuery"].partition("{")[0]
    collector = TotalsCollector(Observations(Serving(), 3600))
    assert series in {sample.name for family in collector.collect() for sample in family.samples}
    assert rule()["resources"]["overrides"].keys() == set(
        re.findall(r'(\w+)!=""', rule()["seriesQuery"])
    )


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_pod_that_maps_has_room_for_what_the_settings_let_it_keep(overlay: str) -> None:
    found = container(overlay, "maps")
    (state,) = [it for it in pod(overlay, "maps")["volumes"] if it["name"] == "state"]
    room = mebibytes(state["emptyDir"]["sizeLimit"])
    sent = Settings.model_fields["maps_max_upload"].default / 2**20
    kept = Settings.model_fields["maps_keep_mib"].default
    assert room >= kept + 3 * sent, "maps that are kept, a scene in work, one that comes, the map"
    assert mebibytes(found["resources"]["limits"]["ephemeral-storage"]) > room
    assert mebibytes(found["resources"]["limits"]["memory"]) >= 1024 + 918, "docs/benchmarks.md"


@pytest.mark.parametrize("way_in", WAYS_IN)
@pytest.mark.parametrize("overlay", ["staging", "production-canary"])
def test_a_client_that_maps_stays_with_a_pod_and_may_send_a_whole_scene(
    overlay: str, way_in: str
) -> None:
    objects = rendered(overlay, way_in, ["maps"])
    assert one(objects, "Service")["spec"]["sessionAffinity"] == "ClientIP"
    largest = Settings.model_fields["maps_max_upload"].default / 2**20
    longest = Settings.model_fields["maps_upload_timeout"].default
    if way_in == "gateway":
        rules = one(objects, "HTTPRoute")["spec"]["rules"]
        (limit,) = [it["timeouts"]["request"] for it in rules if "/maps" in str(it["matches"])]
        assert float(limit.rstrip("s")) > longest
        return
    notes = one(objects, "Ingress")["metadata"]["annotations"]
    plain = one(rendered(overlay), "Ingress")["metadata"]["annotations"]
    assert plain.keys() < notes.keys()
    sizes = [value for name, value in notes.items() if name.endswith("body-size")]
    assert len(sizes) == 2 and all(mebibytes(f"{it[:-1]}Mi") > largest for it in sizes)
    times = [re.findall(r"\d+", value)[-1] for name, value in notes.items() if "timeout" in name]
    assert len(times) == 6 and all(float(it) > longest for it in times)


def mebibytes(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", quantity).groups()  # type: ignore[union-attr]
    return int(number) * {"Mi": 1, "Gi": 1024}[unit]
