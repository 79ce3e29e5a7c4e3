"""A worker of the stream in each pod, and as many pods as the frames that wait need."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from delivery.errors import RolloutError
from delivery.rollout.manifests import render
from service.settings import Settings
from tests.conftest import ROOT
from tests.k8s.conftest import K8S, NAME, OVERLAYS, one, rendered, workload
from tests.make.manifests import STRATEGIES, copy_manifests

BROKERS = yaml.safe_load((K8S / "overlays/staging/values.yaml").read_text("utf-8"))["stream"]


def containers(overlay: str, *chosen: str) -> tuple[Any, Any]:
    """That of the service, and that of the stream."""
    both = workload(rendered(overlay, chosen=chosen))["spec"]["template"]["spec"]["containers"]
    assert [item["name"] for item in both] == ["service", "stream"]
    return both[0], both[1]


def variables(container: Any) -> dict[str, str]:
    return {item["name"]: item["value"] for item in container["env"]}


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("others", [(), ("private-ca", "routing"), ("gpu", "cpu-limit")])
def test_a_worker_has_all_that_the_service_of_its_pod_has(
    overlay: str, others: Sequence[str]
) -> None:
    service, stream = containers(overlay, "stream", *others)
    for field in ("image", "imagePullPolicy", "envFrom", "volumeMounts", "securityContext"):
        assert stream[field] == service[field], field
    own = {"SERVICE_STATE": "/var/lib/service/stream", "SERVICE_DEVICE": "auto"}
    assert variables(stream) == variables(service) | own
    assert stream["args"] == ["stream"] and "args" not in service
    assert "nvidia.com/gpu" not in stream["resources"]["limits"], "the GPU is the service's"
    is_limited = "cpu" in service["resources"]["limits"]
    assert ("cpu" in stream["resources"]["limits"]) == is_limited == ("cpu-limit" in others)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_without_the_component_there_is_no_worker(overlay: str) -> None:
    pod = workload(rendered(overlay))["spec"]["template"]["spec"]
    assert [item["name"] for item in pod["containers"]] == ["service"]
    assert not any(item["name"] == "stream" for item in pod["volumes"])


def test_brokers_are_written_once_and_their_password_is_a_file() -> None:
    service, stream = containers("staging", "stream")
    for container in (service, stream):
        assert variables(container)["SERVICE_STREAM_BROKERS"] == BROKERS["brokers"]
        (mount,) = [it for it in container["volumeMounts"] if it["name"] == "stream"]
        assert mount["mountPath"] == "/etc/service/stream" and mount["readOnly"]
    pod = workload(rendered("staging", chosen=["stream"]))["spec"]["template"]["spec"]
    (volume,) = [it for it in pod["volumes"] if it["name"] == "stream"]
    assert volume["secret"]["secretName"] == f"{NAME}-stream" and volume["secret"]["optional"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_its_metrics_are_the_job_that_the_alerts_ask(overlay: str) -> None:
    objects = rendered(overlay, chosen=["stream"])
    service = one(objects, "Service", f"{NAME}-stream")
    (port,) = service["spec"]["ports"]
    monitor = one(objects, "ServiceMonitor")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert [it["port"] for it in monitor["endpoints"]] == [port["name"]]
    (own,) = containers(overlay, "stream")[1]["ports"]
    assert port["targetPort"] == own["name"]
    assert own["containerPort"] == Settings.model_fields["stream_port"].default
    opened = one(objects, "NetworkPolicy")["spec"]["ingress"][0]["ports"]
    assert {"protocol": "TCP", "port": own["containerPort"]} in opened
    rules = (ROOT / "monitoring" / "alerts" / "templates").rglob("*.yml*")
    assert any("-stream" in path.read_text(encoding="utf-8") for path in rules)


@pytest.mark.parametrize("strategy", ["", *(f"-{it}" for it in STRATEGIES)])
def test_waiting_frames_are_a_second_reason_for_more_pods(strategy: str) -> None:
    overlay = f"production{strategy}"
    plain = one(rendered(overlay), "HorizontalPodAutoscaler")
    objects = rendered(overlay, chosen=["stream", "keda"])
    found = one(objects, "ScaledObject")
    assert not any(item["kind"] == "HorizontalPodAutoscaler" for item in objects), "two would fight"
    spec, before = found["spec"], plain["spec"]
    assert spec["scaleTargetRef"] == before["scaleTargetRef"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (
        before["minReplicas"],
        before["maxReplicas"],
    )
    config = spec["advanced"]["horizontalPodAutoscalerConfig"]
    assert config == {"name": plain["metadata"]["name"], "behavior": before["behavior"]}
    assert found["metadata"]["annotations"]["scaledobject.keda.sh/transfer-hpa-ownership"] == "true"
    cpu, kafka = spec["triggers"]
    (metric,) = before["metrics"]
    assert int(cpu["metadata"]["value"]) == metric["resource"]["target"]["averageUtilization"]
    assert kafka["metadata"] == {
        "bootstrapServers": BROKERS["brokers"],
        "consumerGroup": Settings.model_fields["stream_group"].default,
        "topic": Settings.model_fields["stream_frames"].default,
        "lagThreshold": "500",
    }


@pytest.mark.parametrize(
    ("brokers", "said"),
    [
        ("", "stream.brokers: '' names no brokers: write kafka-1:9092,kafka-2:9092"),
        ("kafka", "stream.brokers: 'kafka' names no brokers"),
        ("kafka:9092, kafka-2:9092", "names no brokers"),
        ("http://kafka:9092", "names no brokers"),
        ("kafka:99999", "names no brokers"),
        (9092, "stream.brokers: wanted a text"),
        (None, "stream.brokers is missing or empty in values.yaml: write it"),
    ],
)
def test_brokers_that_are_none_are_one_sentence(tmp_path: Path, brokers: object, said: str) -> None:
    rendered("staging")  # skips without kustomize
    overlays = copy_manifests(tmp_path, chosen=["stream"]) / "overlays"
    values = overlays / "staging" / "values.yaml"
    document = yaml.safe_load(values.read_text(encoding="utf-8"))
    document["stream"] = {} if brokers is None else {"brokers": brokers}
    values.write_text(yaml.safe_dump(document), encoding="utf-8")
    with pytest.raises(RolloutError) as caught:
        render("staging", NAME, overlays)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (["keda", "queue-time"], "queue-time changes nothing: no HorizontalPodAutoscaler is there"),
        (
            ["queue-time", "keda"],
            "keda takes the HorizontalPodAutoscaler away, which queue-time changes: take one of",
        ),
    ],
)
def test_what_changes_the_autoscaler_that_keda_replaces_is_refused(
    tmp_path: Path, chosen: list[str], said: str
) -> None:
    rendered("staging")  # skips without kustomize
    overlays = copy_manifests(tmp_path, chosen=["stream", *chosen]) / "overlays"
    with pytest.raises(RolloutError, match=said):
        render("staging", NAME, overlays)
