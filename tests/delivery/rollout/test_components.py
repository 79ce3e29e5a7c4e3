"""Components of an overlay in an order in which each finds what it changes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from delivery.errors import RolloutError
from delivery.rollout.components import check_components
from tests.make.manifests import copy_manifests

Overlay = Callable[..., Path]


@pytest.fixture
def overlay(tmp_path: Path) -> Overlay:
    """The folder of staging with these components behind those that ship, less those left out."""

    def written(*names: str, without: str = "") -> Path:
        folder = copy_manifests(tmp_path) / "overlays" / "staging"
        path = folder / "kustomization.yaml"
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        shipped = [it for it in document["components"] if Path(it).name != without]
        document["components"] = shipped + [f"../../components/{name}" for name in names]
        path.write_text(yaml.safe_dump(document), encoding="utf-8")
        return folder

    return written


@pytest.mark.parametrize(
    ("names", "without", "reason"),
    [
        (
            ["canary", "gpu"],
            "",
            "gpu changes the Deployment, which canary .*write gpu above canary",
        ),
        (["blue-green", "private-ca"], "", ".*write private-ca above blue-green"),
        (["canary", "blue-green"], "", ".*canary before it made another kind: take one of the two"),
        (
            ["canary", "scaling"],
            "scaling",
            "canary changes the HorizontalPodAutoscaler, which comes",
        ),
        (
            ["gateway", "cert-manager"],
            "ingress",
            "cert-manager changes nothing: no Ingress is there",
        ),
        (["queue-time"], "scaling", "queue-time changes nothing: no HorizontalPodAutoscaler"),
        (["pod-identity"], "network", "pod-identity changes nothing: no NetworkPolicy is there"),
        (["argo"], "", "argo has no strategy: take canary or blue-green, which bring it"),
        (["cannary"], "", "'../../components/cannary' is not there: .* blue-green, canary, cert-"),
    ],
)
def test_a_component_that_would_change_nothing_is_refused(
    overlay: Overlay, names: list[str], without: str, reason: str
) -> None:
    with pytest.raises(RolloutError, match=f"kustomization.yaml: component {reason}"):
        check_components(overlay(*names, without=without))


def test_an_overlay_without_scaling_may_have_a_canary(overlay: Overlay) -> None:
    check_components(overlay("canary", without="scaling"))


def test_components_of_a_team_stand_wherever_they_find_their_objects(overlay: Overlay) -> None:
    folder = overlay("canary", "own")
    own = folder.parents[1] / "components" / "own"
    own.mkdir()
    document = {"patches": [{"target": {"kind": "Rollout"}, "patch": "[]"}]}
    (own / "kustomization.yaml").write_text(yaml.safe_dump(document))
    check_components(folder)
    document["patches"][0]["target"] = {"kind": "Deployment"}
    (own / "kustomization.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(RolloutError, match="write own above canary"):
        check_components(folder)


@pytest.mark.parametrize("text", ["", "[]", "a: [", "components: 3", "components: [{a: b}]\n"])
def test_what_kustomize_would_not_read_is_left_to_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "kustomization.yaml").write_text(text)
    if "a: b" in text:
        with pytest.raises(RolloutError, match="is not there: docs/kubernetes.md lists them"):
            check_components(tmp_path)
    else:
        check_components(tmp_path)
