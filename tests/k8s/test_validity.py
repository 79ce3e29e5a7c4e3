"""The manifests are valid: for Kubernetes, for checkov, and for the operators."""

import json
import re
from pathlib import Path

import pytest
import yaml

from delivery.rollout.manifests import Document, build, to_yaml
from tests.conftest import ROOT
from tests.k8s.conftest import K8S, NAME, OVERLAYS, Run, rendered
from tests.k8s.crds import KINDS, faults

VERSIONS = ("1.25", "1.29", "1.33", "1.37")
BUILT_IN = re.compile(r"(\w+/)?v\d\w*|(networking|policy|rbac\.authorization|storage)\.k8s\.io/.*")
"""Versions of Kubernetes' own kinds, whose schemas are there; operators have others."""
SKIPPED = re.compile(r"Couldn't find schema for kind (\w+)")


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid_in_this_version_of_kubernetes(
    files: list[Path], check: Run, version: str
) -> None:
    done = check("kubernetes-validate", "--strict", "-k", version, *files)
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed
    # The test of objects of operators has those that ship; a team may add others.
    skipped = set(SKIPPED.findall(printed))
    assert skipped >= set(KINDS)
    objects = [item for overlay in OVERLAYS for item in rendered(overlay)]
    objects += build(K8S / "setup", NAME)
    misspelt = [
        item["kind"]
        for item in objects
        if item["kind"] in skipped and BUILT_IN.fullmatch(item["apiVersion"])
    ]
    assert misspelt == []
    own = [item for item in objects if item["kind"] not in skipped]
    assert printed.count(" passed for resource ") == len(own)


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
    path = tmp_path / "manifests.yaml"
    path.write_text(to_yaml(added), encoding="utf-8")
    printed = check("kubernetes-validate", "--strict", path)
    assert printed.returncode == 0
    skipped = SKIPPED.findall(printed.stdout + printed.stderr)
    assert set(skipped) == {item["kind"] for item in added}
    misspelt = [item["kind"] for item in added if BUILT_IN.fullmatch(item["apiVersion"])]
    assert misspelt == ["Deploiment", "Ingres", "Servise"]


def test_a_misspelt_field_would_be_found(tmp_path: Path, check: Run) -> None:
    objects = rendered("staging")
    deployment = next(item for item in objects if item["kind"] == "Deployment")
    deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 45
    path = tmp_path / "manifests.yaml"
    path.write_text(to_yaml(objects), encoding="utf-8")
    assert check("kubernetes-validate", "--strict", path).returncode != 0


def test_objects_of_operators_have_known_fields(objects: list[Document]) -> None:
    for item in objects:
        if item["kind"] in KINDS:
            assert faults(item) == []


def test_a_misspelt_field_of_an_operators_object_would_be_found() -> None:
    rollout = next(item for item in rendered("production-canary") if item["kind"] == "Rollout")
    rollout["spec"]["strategy"]["canary"]["maxUnavailible"] = 0
    rollout["spec"]["minReadySeconds"] = "5"
    del rollout["spec"]["workloadRef"]["kind"]
    assert len(faults(rollout)) == 3


def test_checkov_finds_exactly_what_its_configuration_explains(
    files: list[Path], check: Run
) -> None:
    document = yaml.safe_load((ROOT / "ci" / "checkov.yaml").read_text(encoding="utf-8"))
    words = ("--skip-download", "--framework", *document["framework"], "--output", "json")
    done = check("checkov", *words, "-f", *files)
    failed = json.loads(done.stdout)["results"]["failed_checks"]
    assert {item["check_id"] for item in failed} == set(document["skip-check"])


def test_every_skipped_check_has_its_reason() -> None:
    lines = (ROOT / "ci" / "checkov.yaml").read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        if "- CKV" in line:
            assert lines[number - 1].strip().startswith("#"), line


def test_no_secret_and_no_key_is_in_the_manifests(objects: list[Document]) -> None:
    assert not any(item["kind"] == "Secret" for item in objects)
    assert "cvy_" not in to_yaml(objects)
