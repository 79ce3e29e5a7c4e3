"""What a team changes holds together: parameters, data version, remotes, manifests.

`make check` runs this folder on every merge request, in about half a minute. Nothing here knows the
shipped example: it holds for any data, classes, bands, names, remotes and added manifests. Tests of
your own belong beside this file. The tests of the template are the other folders (`make test`).
"""

import configparser
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.fs import get_fs_cls

from contracts.tags import STAGES
from delivery.retrain.retraining import read_ingest
from delivery.rollout.manifests import Document, for_version, render
from delivery.rollout.manifests import build as build_manifests
from delivery.tags import parse_version
from monitoring.alerts import rules
from monitoring.dashboards import build
from monitoring.generated import differing
from pipeline.params import Params, read_params
from pipeline.sources import SOURCES
from service.settings import Settings
from tests.conftest import ROOT

OVERLAYS = ROOT / "k8s" / "overlays"
IMAGE = "registry.example.com/group/model@sha256:" + "0123456789abcdef" * 4


@pytest.fixture(scope="module")
def params() -> Params:
    """The parameters; a value that is not allowed is an error that names it."""
    return read_params(ROOT / "params.yaml")


def test_the_model_has_one_name(params: Params) -> None:
    artifacts = read_yaml(ROOT / "dvc.yaml").get("artifacts", {})
    assert list(artifacts) == [
        params.model.name
    ], "model.name of params.yaml is the name below artifacts: in dvc.yaml, too"
    assert stale_files() == [], "another model.name: make rules dashboards, and commit"
    for stage, namespace in namespaces().items():
        assert (
            namespace == f"{params.model.name}-{stage}"
        ), f"templates/dashboard.yml: the namespace of {stage} is model.name-{stage}"


def test_data_dvc_names_one_version_of_the_data() -> None:
    outputs = read_yaml(ROOT / "data.dvc")["outs"]
    assert [output["path"] for output in outputs] == ["data"]
    assert outputs[0]["md5"].endswith(".dir"), "python -m pipeline.ingest writes data.dvc"


def test_every_remote_verifies_what_it_pulls_and_its_client_is_installed() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / ".dvc" / "config", encoding="utf-8")
    remotes = {name.split('"')[1]: config[name] for name in config.sections() if "remote" in name}
    unverified = [name for name, remote in remotes.items() if remote.get("verify") != "true"]
    assert unverified == [], "dvc remote modify NAME verify true: DVC's default pulls altered files"
    for name, remote in remotes.items():
        missing = get_fs_cls({"url": remote["url"]}).get_missing_deps()
        assert missing == [], f"remote {name}: add them to `registry` in pyproject.toml"
    assert config["core"]["remote"] in remotes, "core.remote of .dvc/config names no remote"


def test_a_retraining_ingests_from_a_source_that_exists() -> None:
    words = read_ingest(ROOT / "ci" / "ingest.txt")
    assert words[:1] == [] or words[0] in SOURCES, f"ci/ingest.txt: choose of {sorted(SOURCES)}"


def test_the_settings_of_the_service_exist() -> None:
    known = {f"SERVICE_{name.upper()}" for name in Settings.model_fields}
    unknown = []
    for path in sorted(ROOT.glob("k8s/**/settings.env")):
        for line in path.read_text(encoding="utf-8").splitlines():
            name = line.partition("=")[0].strip()
            if name.startswith("SERVICE_") and name not in known:
                unknown.append(f"{path.relative_to(ROOT)}: {name}")
    assert unknown == [], "docs/service.md lists the settings"


def test_a_rollout_takes_the_manifests_of_every_stage() -> None:
    version = parse_version("model@v1.0.0")
    for folder, objects in overlays():
        for_version(objects, version, IMAGE)  # finds the Deployment and what it sets there
        named = [(it["kind"], it["metadata"]["name"]) for it in objects]
        assert len(named) == len(set(named)), f"{folder}: an object is there twice"
        namespaces = {it["metadata"].get("namespace") for it in objects}
        assert len(namespaces) == 1, f"{folder}: a rollout applies objects of one namespace"


@pytest.mark.parametrize("folder", ["setup", "overlays/review", "overlays/review/namespace"])
def test_what_an_administrator_and_a_review_app_apply_can_be_rendered(folder: str) -> None:
    if (ROOT / "k8s" / folder).is_dir():
        needs_kustomize()
        assert build_manifests(ROOT / "k8s" / folder, read_params(ROOT / "params.yaml").model.name)


def test_no_secret_stands_in_the_manifests() -> None:
    for folder, objects in overlays():
        secrets = [it["metadata"]["name"] for it in objects if it["kind"] == "Secret"]
        assert secrets == [], f"{folder}: Git keeps it for ever; ExternalSecret or SealedSecret"


def test_secrets_of_an_overlay_are_encrypted_by_sops() -> None:
    assert plain("A=b\nC=ENC[AES256_GCM,data:x]\nsops_version=3.10.2\n") == ["A"]
    for path in OVERLAYS.glob("*/*secret*.env"):
        keys = plain(path.read_text(encoding="utf-8"))
        assert keys == [], f"{path}: encrypt it (docs/kubernetes.md, Secrets), and renew them"


def plain(text: str) -> list[str]:
    """Keys of lines whose values anybody can read."""
    lines = [line.partition("=") for line in text.splitlines() if "=" in line]
    return [key for key, _, value in lines if not key.startswith("sops_") and value[:4] != "ENC["]


def overlays() -> Iterator[tuple[str, list[Document]]]:
    """Each stage's overlay, rendered; none where the team has removed k8s/."""
    name = read_params(ROOT / "params.yaml").model.name
    for stage in STAGES:
        if not (OVERLAYS / stage).is_dir():
            continue
        needs_kustomize()
        yield stage, render(stage, name, OVERLAYS)


def needs_kustomize() -> None:
    if not (shutil.which("kubectl") or shutil.which("kustomize")):
        pytest.skip("neither kubectl nor kustomize is installed: make setup-e2e")


def namespaces() -> dict[str, str]:
    """Where GitLab's page looks for the pods of each stage; none where the team has removed it."""
    path = ROOT / "templates" / "dashboard.yml"
    if not path.exists():
        return {}
    head = path.read_text(encoding="utf-8").partition("\n---\n")[0]
    inputs = yaml.safe_load(head)["spec"]["inputs"]
    return {stage: inputs[f"{stage}-namespace"]["default"] for stage in STAGES}


def stale_files() -> list[str]:
    """Rules and dashboards that are not what their sources and the model's name give."""
    below = ROOT / "monitoring"
    panels = differing(below / "grafana" / "dashboards", build.files(), "*")
    return panels + differing(below, rules.files(), "prometheus/rules/*.yml")


def read_yaml(path: Path) -> Any:
    """Read a YAML file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))
