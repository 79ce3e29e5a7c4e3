"""Every combination of overlay and components is valid: for Kubernetes, operators, checkov."""

import json
import re
from pathlib import Path

import pytest
import yaml

from delivery.rollout.manifests import Document, build, to_yaml
from tests.conftest import ROOT
from tests.k8s.conftest import COMBINATIONS, K8S, NAME, Run, rendered
from tests.k8s.crds import KINDS, faults
from tests.make.manifests import STRATEGIES

VERSIONS = ("1.25", "1.31", "1.37")
BUILT_IN = re.compile(r"(\w+/)?v\d\w*|(networking|policy|rbac\.authorization|storage)\.k8s\.io/.*")
"""Versions of Kubernetes' own kinds, whose schemas are there; operators have others."""
SKIPPED = re.compile(r"Couldn't find schema for kind (\w+)")
ADMINISTRATOR = ("setup", "overlays/review/namespace")
FREE_USER = "CKV_K8S_40"
"""checkov's check of a high user id, which the component openshift leaves to the cluster."""


@pytest.fixture(scope="module")
def distinct() -> list[Document]:
    """The objects of all combinations, and what an administrator applies, each once."""
    found = [item for combination in COMBINATIONS for item in rendered(*combination)]
    found += [item for folder in ADMINISTRATOR for item in build(K8S / folder, NAME)]
    return list({json.dumps(item, sort_keys=True): item for item in found}.values())


def written(folder: Path, objects: list[Document]) -> Path:
    """A file with objects."""
    path = folder / "manifests.yaml"
    path.write_text(to_yaml(objects), encoding="utf-8")
    return path


def test_the_combinations_are_all_there_are() -> None:
    assert len(COMBINATIONS) == 118
    components = {path.parent.name for path in K8S.glob("components/*/kustomization.yaml")}
    shipped = {"access", "monitoring", "network", "scaling", "argo", *STRATEGIES}
    chosen = {it for _, way_in, choices in COMBINATIONS for it in (way_in, *choices)}
    assert components == shipped | chosen


@pytest.mark.parametrize("version", VERSIONS)
def test_every_combination_is_valid_in_this_version_of_kubernetes(
    distinct: list[Document], tmp_path: Path, check: Run, version: str
) -> None:
    path = written(tmp_path, distinct)
    done = check("kubernetes-validate", "--strict", "-k", version, path)
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed
    # The test of objects of operators has those that ship; a team may add others.
    skipped = set(SKIPPED.findall(printed))
    assert skipped >= set(KINDS)
    misspelt = [
        item["kind"]
        for item in distinct
        if item["kind"] in skipped and BUILT_IN.fullmatch(item["apiVersion"])
    ]
    assert misspelt == []
    own = [item for item in distinct if item["kind"] not in skipped]
    assert printed.count(" passed for resource ") == len(own)


def test_every_combination_keeps_the_pods_and_their_service_together() -> None:
    for combination in COMBINATIONS:
        objects = rendered(*combination)
        kinds = [it["kind"] for it in objects if it["metadata"]["name"] != f"{NAME}-stream"]
        assert kinds.count("Deployment") + kinds.count("Rollout") == 1, combination
        assert kinds.count("Service") == 1, combination
        assert kinds.count("Ingress") + kinds.count("HTTPRoute") == 1, combination


def test_objects_of_other_operators_may_be_added_and_misspelt_kinds_would_be_found(
    tmp_path: Path, check: Run
) -> None:
    added: list[Document] = [
        {"apiVersion": version, "kind": kind, "metadata": {"name": "landcover-keys"}}
        for version, kind in (
            ("external-secrets.io/v1", "ExternalSecret"),
            ("cert-manager.io/v1", "Certificate"),
            ("gateway.networking.k8s.io/v1", "HTTPRoute"),
            ("apps/v1", "Deploiment"),
            ("networking.k8s.io/v1", "Ingres"),
            ("v1", "Servise"),
        )
    ]
    printed = check("kubernetes-validate", "--strict", written(tmp_path, added))
    assert printed.returncode == 0
    skipped = SKIPPED.findall(printed.stdout + printed.stderr)
    assert set(skipped) == {item["kind"] for item in added}
    misspelt = [item["kind"] for item in added if BUILT_IN.fullmatch(item["apiVersion"])]
    assert misspelt == ["Deploiment", "Ingres", "Servise"]


def test_a_misspelt_field_would_be_found(tmp_path: Path, check: Run) -> None:
    objects = rendered("staging")
    deployment = next(item for item in objects if item["kind"] == "Deployment")
    deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 45
    assert check("kubernetes-validate", "--strict", written(tmp_path, objects)).returncode != 0


def test_objects_of_operators_have_known_fields(distinct: list[Document]) -> None:
    for item in distinct:
        if item["kind"] in KINDS:
            assert faults(item) == []


def test_a_misspelt_field_of_an_operators_object_would_be_found() -> None:
    rollout = next(item for item in rendered("production-canary") if item["kind"] == "Rollout")
    rollout["spec"]["strategy"]["canary"]["maxUnavailible"] = 0
    rollout["spec"]["minReadySeconds"] = "5"
    del rollout["spec"]["selector"]
    assert len(faults(rollout)) == 3


def test_checkov_finds_exactly_what_its_configuration_explains(
    distinct: list[Document], tmp_path: Path, check: Run
) -> None:
    document = yaml.safe_load((ROOT / "ci" / "checkov.yaml").read_text(encoding="utf-8"))
    words = ("--skip-download", "--framework", *document["framework"], "--output", "json")
    done = check("checkov", *words, "-f", written(tmp_path, distinct))
    failed = json.loads(done.stdout)["results"]["failed_checks"]
    assert {item["check_id"] for item in failed} == {*document["skip-check"], FREE_USER}
    free = [item for item in distinct if item["kind"] == "Deployment" and not has_user(item)]
    assert len([item for item in failed if item["check_id"] == FREE_USER]) == len(free) > 0


def has_user(deployment: Document) -> bool:
    return "runAsUser" in deployment["spec"]["template"]["spec"]["securityContext"]


def test_every_skipped_check_has_its_reason() -> None:
    lines = (ROOT / "ci" / "checkov.yaml").read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        if "- CKV" in line:
            assert lines[number - 1].strip().startswith("#"), line


def test_no_secret_and_no_key_is_in_the_manifests(distinct: list[Document]) -> None:
    assert not any(item["kind"] == "Secret" for item in distinct)
    assert "cvy_" not in to_yaml(distinct)
