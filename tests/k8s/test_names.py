"""Two models of two clones live side by side on one cluster: their names come from params.yaml."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from delivery.errors import RolloutError
from contracts.tags import LONGEST_NAME
from delivery.rollout.manifests import PLACEHOLDER, Document, build
from tests.conftest import ROOT
from tests.k8s.conftest import K8S, NAME, rendered

OTHER = f"{NAME}-urban"  # begins with the first one's name
FOLDERS = sorted(
    path.parent.relative_to(K8S)
    for path in K8S.rglob("kustomization.yaml")
    if "components" not in path.parts and path.parent.name != "base"
)
Key = tuple[str, str, str]


@functools.cache
def objects(name: str) -> list[tuple[Path, Document]]:
    """All objects of a model, each with its folder."""
    rendered("staging")  # skips without kustomize
    return [(folder, item) for folder in FOLDERS for item in build(K8S / folder, name)]


def keys(name: str) -> set[Key]:
    """Kind, namespace and name of every object of a model."""
    return {
        (item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"])
        for _, item in objects(name)
    }


def found(value: Any, key: str) -> Iterator[Any]:
    """Every value under a key, however deep."""
    if isinstance(value, dict):
        for name, item in value.items():
            if name == key:
                yield item
            yield from found(item, key)
    elif isinstance(value, list):
        for item in value:
            yield from found(item, key)


def selectors(name: str) -> list[dict[str, str]]:
    """What the objects of a model select pods and Services by."""
    result: list[dict[str, str]] = []
    for _, item in objects(name):
        result += [
            labels
            for labels in found(item, "matchLabels")
            if "kubernetes.io/metadata.name" not in labels
        ]
        if item["kind"] == "Service":
            result.append(item["spec"]["selector"])
    return result


def labels(name: str) -> list[dict[str, str]]:
    """The labels of the pods and Services of a model."""
    templates = [
        item["spec"]["template"] for _, item in objects(name) if "template" in item.get("spec", {})
    ]
    services = [item for _, item in objects(name) if item["kind"] == "Service"]
    return [item["metadata"]["labels"] for item in (*templates, *services)]


def matches(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


def test_two_models_have_no_object_in_common() -> None:
    assert {str(folder) for folder in FOLDERS} >= {"setup", "overlays/staging", "overlays/review"}
    kinds = {kind for kind, space, _ in keys(NAME) if not space}
    assert {"Namespace", "ClusterRole", "ValidatingAdmissionPolicy"} <= kinds
    assert keys(NAME).isdisjoint(keys(OTHER))
    assert len(keys(NAME)) == len(keys(OTHER))


def test_no_selector_of_a_model_matches_a_pod_of_the_other() -> None:
    for one, other in ((NAME, OTHER), (OTHER, NAME)):
        assert len(selectors(one)) > 10
        for selector in selectors(one):
            assert any(matches(selector, item) for item in labels(one)), selector
            assert not any(matches(selector, item) for item in labels(other)), selector


def test_two_models_share_no_secret_no_wanted_model_and_no_host_of_a_stage() -> None:
    for key in ("secretName", "host", "SERVICE_CONFIGMAP"):
        one, other = (
            {
                text
                for _, item in objects(name)
                for text in found(item, key)
                if "mr-iid" not in text  # the domain of review apps is the project's REVIEW_URL
            }
            for name in (NAME, OTHER)
        )
        assert one and one.isdisjoint(other), key
    for name in (NAME, OTHER):
        secrets = {text for _, item in objects(name) for text in found(item, "secretName")}
        assert {text.rsplit("-", 1)[0] for text in secrets} == {name}


def test_every_name_is_filled_in_and_no_other_is_written_in_the_manifests() -> None:
    text = yaml.safe_dump([item for _, item in objects("crops")])
    assert PLACEHOLDER not in text and "landcover" not in text
    for path in K8S.rglob("*"):
        assert path.is_dir() or "landcover" not in path.read_text(encoding="utf-8"), path


def test_a_name_that_yaml_reads_as_something_else_stays_a_text() -> None:
    items = build(K8S / "setup", "null") if rendered("staging") else []
    assert {item["metadata"]["name"] for item in items} >= {"null-staging", "null-deployer"}
    role = next(item for item in items if item["kind"] == "ClusterRole")
    assert role["metadata"]["labels"]["app.kubernetes.io/name"] == "null"


def test_a_name_that_is_too_long_for_kubernetes_is_refused() -> None:
    assert len(f"{'a' * LONGEST_NAME}-mr-123456789") == 63
    with pytest.raises(RolloutError, match="model.name: 'a+' has more than 50 characters"):
        build(ROOT / "k8s" / "setup", "a" * (LONGEST_NAME + 1))
