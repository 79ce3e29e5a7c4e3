"""Review apps: the real service, a real registry and DVC remote, and a stand-in for the cluster."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from delivery.errors import RegistryError, RolloutError
from delivery.image.image import Image
from delivery.registry.registry import open_registry
from delivery.review import app, hot_swap
from delivery.review.__main__ import main
from delivery.review.app import Base, ReviewApp, describe, find_base, read_iid, read_url, stop
from delivery.rollout import smoke_test
from delivery.rollout.cluster import Cluster
from delivery.rollout.manifests import build, to_yaml
from delivery.tags import parse_version
from service.auth.roles import new_key
from service.settings import read_settings
from tests.conftest import ROOT
from tests.e2e.pods import read_pod
from tests.fakes.oidc import AUDIENCE, ISSUER, Issuer, issuing, token
from tests.fakes.review_cluster import ReviewCluster
from tests.k8s.conftest import Run, check
from tests.make.commands import run_command
from tests.make.injection_strings import HOSTILE
from tests.make.manifests import copy_manifests
from tests.make.ports import free_port
from tests.make.projects import Published

IMAGE = "registry.example.com/group/landcover/service@sha256:" + "ab" * 32
LABEL = "app.kubernetes.io/instance"
KINDS = ("deployment", "service", "ingress", "configmap")
"""Kinds of the overlay; in a cluster with the Gateway API an httproute takes the ingress' place."""

__all__ = ["check"]

pytestmark = pytest.mark.skipif(
    not (shutil.which("kubectl") or shutil.which("kustomize")),
    reason="neither kubectl nor kustomize is installed: make setup-e2e",
)


class World:
    """A project whose staging serves v1.0.0, a checkout as the job has it, and a cluster.

    The number of the merge request is a port, so that REVIEW_URL leads to the pod.
    """

    def __init__(self, folder: Path, issuer: Issuer) -> None:
        self.iid = str(free_port())
        self.origin = Published(folder / "origin")
        self.origin.write("params.yaml", "model:\n  name: landcover\n")
        released = self.origin.publish_bundle("landcover@v1.0.0", seed=1)
        self.origin.tag("landcover#staging#1")
        self.folder = folder / "checkout"
        subprocess.run(
            ["git", "clone", "--quiet", str(self.origin.folder), str(self.folder)], check=True
        )
        copy_manifests(self.folder)
        with (self.folder / "k8s/overlays/review/settings.env").open("a") as file:
            file.write(self.settings(issuer.url))
        self.cluster = ReviewCluster(folder / "cluster")
        keys = {"SERVICE_API_KEYS": json.dumps({new_key()[1]: ["view"]})}
        stages = {f"landcover-mr-{self.iid}": {"port": int(self.iid), "settings": keys}}
        self.cluster.configure(stages=stages, images={IMAGE: str(released)})

    def settings(self, keys: str) -> str:
        values = {
            "SERVICE_REPOSITORY": str(self.origin.folder),
            "SERVICE_JWT_ISSUER": ISSUER,
            "SERVICE_JWT_AUDIENCE": AUDIENCE,
            "SERVICE_JWT_JWKS": keys,
            "SERVICE_JWT_CLAIMS": '{"project_id": "42", "environment": "review/mr-iid"}',
            "SERVICE_JWT_ROLES": '["deploy", "predict", "view"]',
        }
        return "".join(f"{name}={value}\n" for name, value in values.items())

    def train(self, pipeline: int, **options: Any) -> str:
        """Do what the job `train` does; returns the tag."""
        tag = f"experiment/{self.iid}-{pipeline}"
        bundle = self.origin.publish_bundle(tag, **options)
        shutil.rmtree(self.folder / "model", ignore_errors=True)
        shutil.copytree(bundle, self.folder / "model")
        record = self.folder / "artifacts" / "experiment" / "experiment.json"
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps({"state": "done", "trained": True}))
        (record.parent / "commit.json").write_text(json.dumps({"tag": tag}))
        return tag

    def run(self, action: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run the command with the environment of the job."""
        return run_command(main, [action], self.folder, self.environment() | changes)

    def environment(self) -> dict[str, str]:
        path = f"{self.cluster.bin}{os.pathsep}{os.environ['PATH']}"
        return os.environ | {
            "PATH": path,
            "CI_MERGE_REQUEST_IID": self.iid,
            "REVIEW_URL": "http://127.0.0.1:{iid}",
            "REVIEW_KUBE_CONTEXT": "team/agents:review",
            "REVIEW_IMAGE": IMAGE,
            "SERVICE_ID_TOKEN": self.token(),
        }

    def token(self, **claims: str) -> str:
        """What GitLab gives the job, on a branch that is not protected."""
        said = {"ref_protected": "false", "environment": f"review/mr-{self.iid}"} | claims
        return token(**said)

    def serving(self) -> dict[str, Any]:
        address = f"http://127.0.0.1:{self.iid}/version"
        found: dict[str, Any] = httpx.get(address, timeout=30).json()["model"]
        return found

    def pod(self) -> Any:
        return read_pod(self.cluster.folder / "stages" / f"landcover-mr-{self.iid}")


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with issuing() as running:
        yield running


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry after hundredths of a second."""
    monkeypatch.setattr(hot_swap, "PAUSE", 0.05)
    monkeypatch.setattr(smoke_test, "PAUSE", 0.05)


@pytest.fixture
def world(tmp_path: Path, issuer: Issuer) -> Iterator[World]:
    found = World(tmp_path, issuer)
    try:
        yield found
    finally:
        found.cluster.stop()


def test_a_candidate_is_served_updated_and_deleted(world: World) -> None:
    tag = world.train(7, seed=2)
    done = world.run("start")
    assert done.returncode == 0, done.stderr
    assert "ok    golden: 2 chips" in done.stdout
    assert world.serving()["tag"] == tag
    link = (world.folder / "artifacts" / "review" / "review.env").read_text()
    assert link == f"REVIEW_APP_URL=http://127.0.0.1:{world.iid}\n"
    pod, before = world.pod(), world.serving()["sha256"]

    newer = world.train(8, seed=3)
    done = world.run("start")
    assert done.returncode == 0, done.stderr
    assert world.serving()["tag"] == newer and world.serving()["sha256"] != before
    assert world.pod() == pod  # it was swapped in

    other = describe(ReviewApp("landcover", "9"), Base(IMAGE, "local"), "mr-9.review.example.com")
    apply(world, [item | {"kind": item["kind"].lower()} for item in other])
    done = world.run("stop")
    assert done.returncode == 0, done.stderr
    assert len(world.cluster.objects) == len(other)
    assert all(names_of(item, "mr-9") for item in world.cluster.objects.values())
    assert world.pod() is None
    unset = {"REVIEW_URL": "", "SERVICE_ID_TOKEN": "", "REVIEW_IMAGE": ""}
    again = subprocess.run(
        [sys.executable, "-m", "delivery.review", "stop"],
        cwd=world.folder,
        env=world.environment() | unset,
        check=False,
    )
    assert again.returncode == 0 and len(world.cluster.objects) == len(other)
    for call in world.cluster.calls():
        if "--namespace=x" not in call["argv"] and call["argv"][0] != "kustomize":
            assert "--namespace=landcover-review" in call["argv"]
            assert "--context=team/agents:review" in call["argv"]


def apply(world: World, documents: list[Any]) -> None:
    """Put objects there that another merge request has."""
    text = yaml.safe_dump_all(documents)
    path = world.cluster.bin / "kubectl"
    words = [str(path), "apply", "--filename=-", "--namespace=x"]
    subprocess.run(words, input=text, text=True, check=True, capture_output=True)


def names_of(item: Any, label: str) -> bool:
    return label in item["metadata"]["name"] and item["metadata"]["labels"][LABEL] == label


def test_the_job_of_another_merge_request_cannot_change_the_review_app(world: World) -> None:
    tag = world.train(7, seed=2)
    assert world.run("start").returncode == 0
    world.train(8, seed=3)
    done = world.run("start", SERVICE_ID_TOKEN=world.token(environment="review/mr-1"))
    assert done.returncode == 1 and "/replace_ml_model: 403" in done.stderr
    assert "SERVICE_JWT_... in k8s/overlays/review/settings.env" in done.stderr
    assert world.serving()["tag"] == tag  # what served before serves on


def test_a_candidate_that_the_service_refuses_leaves_no_objects(world: World) -> None:
    world.train(7, seed=2, bands=("B02", "B03", "B04"))
    done = world.run("start")
    assert done.returncode == 1 and done.stderr.count("error: ") == 1
    assert "clients of this service send uint16" in done.stderr
    assert world.cluster.objects == {} and world.pod() is None


def test_a_pod_that_does_not_start_is_explained_and_deleted(world: World) -> None:
    world.train(7, seed=2)
    done = world.run("start", REVIEW_IMAGE=IMAGE.replace("ab", "cd"))
    assert done.returncode == 1 and "ErrImagePull" in done.stderr
    assert world.cluster.objects == {}


def test_the_quota_of_the_namespace_is_named_with_the_cure(world: World) -> None:
    """No pod is made, and the Deployment alone says why."""
    world.train(7, seed=2)
    full = {"type": "ReplicaFailure", "status": "True"}
    full["message"] = 'pods "landcover-mr-7-x" is forbidden: exceeded quota: landcover'
    world.cluster.configure(stuck={IMAGE: ({}, {"conditions": [full]})})
    done = world.run("start")
    assert done.returncode == 1 and "exceeded quota: landcover: raise the quota" in done.stderr
    assert world.cluster.objects == {}


def test_invalid_settings_are_refused_before_anything_changes(world: World) -> None:
    cases = [
        ("SERVICE_ID_TOKEN", "", "SERVICE_ID_TOKEN is not set"),
        ("SERVICE_ID_TOKEN", "a b\nx: y", "SMOKE_TOKEN"),
        ("REVIEW_KUBE_CONTEXT", "", "REVIEW_KUBE_CONTEXT: '' is not a separate context"),
        ("KUBE_CONTEXT", "team/agents:review", "is not a separate context"),
        ("REVIEW_URL", "http://mr-{iid}.example.com", "is not encrypted"),
        ("REVIEW_IMAGE", "registry.example.com/landcover:v1.0.0", "not named by its digest"),
        ("CI_MERGE_REQUEST_IID", "", "CI_MERGE_REQUEST_IID: '' is not the number"),
    ]
    world.train(7, seed=2)
    for variable, value, reason in cases:
        done = world.run("start", **{variable: value})
        assert done.returncode == 1 and reason in done.stderr, variable
        assert done.stderr.count("error: ") == 1, variable
    assert {call["argv"][0] for call in world.cluster.calls()} <= {"kustomize"}


def test_only_numbers_are_merge_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in (*HOSTILE, "0", "-1", "012", "1" * 10, "12\n", "١٢"):
        monkeypatch.setattr(os, "environ", {"CI_MERGE_REQUEST_IID": text})
        with pytest.raises(RolloutError, match="CI_MERGE_REQUEST_IID: "):
            read_iid()


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "https://review.example.com",
        "https://review.example.com/{iid}",
        "https://mr-{iid}.example.com/path",
        "https://[{iid}",
        "mr-{iid}.example.com",
        "https://mr-{iid}.example.com?{iid}",
    ],
)
def test_a_url_that_is_not_one_host_per_merge_request_is_refused(
    pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REVIEW_URL", pattern)
    with pytest.raises(RolloutError, match="REVIEW_URL: .* one host per merge request"):
        read_url("12")


def test_the_url_contains_the_number_of_the_merge_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVIEW_URL", "https://mr-{iid}.review.example.com/")
    assert read_url("12") == "https://mr-12.review.example.com"


def test_the_image_is_that_of_staging(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REVIEW_IMAGE", raising=False)
    monkeypatch.chdir(world.folder)
    version = parse_version("landcover@v1.0.0")
    name, digest = IMAGE.split("@")
    pushed = {version: Image(name, version.tag, "0" * 40, "0" * 64, 1, digest=digest)}
    monkeypatch.setattr(app, "find", pushed.__getitem__)
    registry = open_registry()
    assert find_base(registry) == Base(IMAGE, "landcover@v1.0.0")
    world.origin.git("tag", "--delete", "landcover#staging#1")
    registry.sync()
    with pytest.raises(RegistryError, match="staging serves nothing yet"):
        find_base(registry)


@pytest.fixture
def objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The objects of merge request 12 by kind; settings and the wanted model under their names."""
    copy_manifests(tmp_path)
    monkeypatch.chdir(tmp_path)
    base = Base(IMAGE, "landcover@v1.0.0")
    documents = describe(ReviewApp("landcover", "12"), base, "mr-12.review.example.org")
    found = {item["kind"]: item for item in documents if item["kind"] != "ConfigMap"}
    maps = [item for item in documents if item["kind"] == "ConfigMap"]
    return found | {item["metadata"]["name"].rsplit("-mr-12")[0]: item for item in maps}


def test_a_review_app_is_named_and_labelled_after_its_merge_request(
    objects: dict[str, Any],
) -> None:
    assert {item["kind"].lower() for item in objects.values()} == set(KINDS)
    assert "mr-iid" not in json.dumps(objects)
    for item in objects.values():
        assert names_of(item, "mr-12")
        assert item["metadata"]["namespace"] == "landcover-review"
    for kind in ("Deployment", "Service", "Ingress"):
        assert objects[kind]["metadata"]["name"] == "landcover-mr-12"
    deployment = objects["Deployment"]["spec"]
    template = deployment["template"]["metadata"]["labels"]
    for selector in (deployment["selector"]["matchLabels"], objects["Service"]["spec"]["selector"]):
        assert selector[LABEL] == "mr-12" and selector.items() <= template.items()
    ingress = objects["Ingress"]["spec"]
    assert [rule["host"] for rule in ingress["rules"]] == ["mr-12.review.example.org"]
    assert ingress["tls"][0]["hosts"] == ["mr-12.review.example.org"]
    services = {path["backend"]["service"]["name"] for path in ingress["rules"][0]["http"]["paths"]}
    assert services == {"landcover-mr-12"}


def test_a_review_app_runs_the_image_and_the_settings_of_the_service(
    objects: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (container,) = objects["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == IMAGE
    source = container["envFrom"][0]["configMapRef"]["name"]
    assert source == objects["landcover-settings"]["metadata"]["name"]
    for name in [name for name in os.environ if name.startswith("SERVICE_")]:
        monkeypatch.delenv(name)
    text = (ROOT / "k8s/overlays/review/settings.env").read_text().replace("mr-iid", "mr-12")
    offered = dict(line[1:].split("=", 1) for line in text.splitlines() if line[:9] == "#SERVICE_")
    given = {item["name"]: item["value"] for item in container["env"] if "value" in item}
    for name, value in (objects["landcover-settings"]["data"] | offered | given).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SERVICE_SECRETS", str(tmp_path))  # where a pod mounts them
    settings = read_settings()
    assert settings.tag == "landcover@v1.0.0" and settings.release == "wanted"
    assert settings.configmap == f"landcover-review/{objects['wanted-model']['metadata']['name']}"
    assert settings.jwt_claims["environment"] == "review/mr-12"
    assert {role.value for role in settings.jwt_roles} == {"deploy", "predict", "view"}


def namespace() -> dict[tuple[str, str], Any]:
    """What an administrator applies once, by kind and name."""
    objects = build(ROOT / "k8s" / "overlays" / "review" / "namespace", "landcover")
    return {(item["kind"], item["metadata"]["name"]): item for item in objects}


def test_the_jobs_may_create_and_delete_the_kinds_of_the_overlay_and_nothing_else() -> None:
    rights: dict[str, set[str]] = {}
    for rule in namespace()["Role", "landcover-reviewer"]["rules"]:
        for resource in rule["resources"]:
            rights[resource] = set(rule["verbs"])
    plurals = {kind: f"{kind}s" for kind in KINDS} | {"ingress": "ingresses"}
    changed = {resource for resource, verbs in rights.items() if "create" in verbs}
    assert changed == {*plurals.values(), "httproutes"}
    for resource in changed:
        assert {"get", "list", "patch", "delete"} <= rights[resource]
    assert rights.keys() - changed == {"replicasets", "pods"}
    assert not {"*", "escalate", "bind", "impersonate"} & set().union(*rights.values())


def test_shared_objects_belong_to_the_namespace_of_the_review_apps() -> None:
    cluster = {"Namespace", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
    for (kind, _), item in namespace().items():
        if kind not in cluster:
            assert item["metadata"]["namespace"] == "landcover-review"
        assert not kind.startswith("Cluster")
    labels = namespace()["Namespace", "landcover-review"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    binding = namespace()["ValidatingAdmissionPolicyBinding", "landcover-review-hosts"]["spec"]
    selector = binding["matchResources"]["namespaceSelector"]["matchLabels"]
    assert selector == {"kubernetes.io/metadata.name": "landcover-review"}
    assert binding["validationActions"] == ["Deny"]


def test_a_route_of_a_review_app_has_its_host_and_leads_to_its_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_manifests(tmp_path, "gateway")
    monkeypatch.chdir(tmp_path)
    documents = describe(ReviewApp("landcover", "12"), Base(IMAGE, "local"), "mr-12.example.org")
    (route,) = [item for item in documents if item["kind"] == "HTTPRoute"]
    assert route["metadata"]["name"] == "landcover-mr-12"
    assert route["spec"]["hostnames"] == ["mr-12.example.org"]
    backends = [item["name"] for rule in route["spec"]["rules"] for item in rule["backendRefs"]]
    assert set(backends) == {"landcover-mr-12"}
    assert "Ingress" not in {item["kind"] for item in documents}
    deleted = []
    cluster = Cluster("landcover-review", "landcover")
    monkeypatch.setattr(cluster, "call", lambda *words, **options: deleted.append(words))
    stop(ReviewApp("landcover", "12"), cluster)
    assert deleted[0][1] == "configmap,deployment,httproute,service"


def test_an_ingress_of_a_review_app_passes_the_rule_for_hosts(objects: dict[str, Any]) -> None:
    policy = namespace()["ValidatingAdmissionPolicy", "landcover-review-hosts"]["spec"]
    listed = policy["validations"][1]["expression"]
    assert all(f'"{name}"' in listed for name in objects["Ingress"]["metadata"]["annotations"])


@pytest.fixture
def files(objects: dict[str, Any], tmp_path: Path) -> list[Path]:
    """The objects of a merge request, and those that all of them share."""
    found = [tmp_path / "review.yaml", tmp_path / "namespace.yaml"]
    for path, documents in zip(found, (objects.values(), namespace().values()), strict=True):
        path.write_text(to_yaml(documents), encoding="utf-8")
    return found


@pytest.mark.parametrize("version", ["1.25", "1.37"])
def test_every_object_is_valid_in_this_version_of_kubernetes(
    files: list[Path], check: Run, version: str
) -> None:
    done = check("kubernetes-validate", "--strict", "-k", version, *files)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    unknown = said.count("Couldn't find schema for kind ValidatingAdmissionPolicy")
    assert unknown == (4 if version == "1.25" else 0)
    assert said.count("Couldn't find schema") == unknown


def test_checkov_finds_nothing_that_is_not_explained(files: list[Path], check: Run) -> None:
    done = check("checkov", "--config-file", "ci/checkov.yaml", "-f", *files)
    assert done.returncode == 0, done.stdout + done.stderr
