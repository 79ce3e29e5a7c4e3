"""The overlays, rendered and made a version's, as a rollout applies them."""

import copy
import functools
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from delivery.rollout.manifests import Document, build, for_version, workload_of
from delivery.tags import parse_version
from tests.conftest import ROOT
from tests.make.manifests import CHOICES, OF_INGRESS, OF_STAGES, STRATEGIES, WAYS_IN, copy_manifests

IMAGE = "registry.example.com/group/landcover@sha256:" + "0123456789abcdef" * 4
VERSION = parse_version("landcover@v1.2.0")
OVERLAYS = ("staging", "production", *(f"production-{it}" for it in STRATEGIES))
"""The overlays of the stages, and that of production with each component of Argo Rollouts."""
CHOICES_OF = {
    way_in: tuple(it for it in CHOICES if way_in == "ingress" or it not in OF_INGRESS)
    for way_in in WAYS_IN
}
TOGETHER = {
    way_in: tuple(it for it in found if it != "queue-time")  # keda takes its place
    for way_in, found in CHOICES_OF.items()
}
COMBINATIONS = [
    (overlay, way_in, chosen)
    for overlay in (*OVERLAYS, "review")
    for way_in in WAYS_IN
    for chosen in ((), *((it,) for it in CHOICES_OF[way_in]), TOGETHER[way_in])
    if overlay != "review" or not set(OF_STAGES) & set(chosen)
]
"""Every overlay with every choice of components."""
K8S = ROOT / "k8s"
NAME = "landcover"
CHECKS = ROOT / ".venv-checks" / "bin"

SHIPPED = {
    "ServiceAccount",
    "Role",
    "RoleBinding",
    "ConfigMap",
    "Service",
    "Deployment",
    "PodDisruptionBudget",
    "HorizontalPodAutoscaler",
    "ServiceMonitor",
    "Ingress",
    "NetworkPolicy",
}
"""Kinds of the objects of a stage, as the template ships it."""
ARGO = {"Rollout", "AnalysisTemplate"}
"""Those that a stage with Argo Rollouts has; its Rollout stands for the Deployment."""

Run = Callable[..., subprocess.CompletedProcess[str]]


def rendered(overlay: str, way_in: str = "ingress", chosen: Sequence[str] = ()) -> list[Document]:
    """The objects of an overlay, as a rollout applies them; the caller may change them.

    `way_in` and `chosen` are the components that a team writes into its kustomization.yaml.
    """
    return copy.deepcopy(_rendered(overlay, way_in, tuple(chosen)))


@functools.cache
def _rendered(overlay: str, way_in: str, chosen: tuple[str, ...]) -> list[Document]:
    if not (shutil.which("kubectl") or shutil.which("kustomize")):
        pytest.skip("neither kubectl nor kustomize is installed: make setup-e2e")
    stage, _, strategy = overlay.partition("-")
    with TemporaryDirectory() as folder:
        copied = copy_manifests(Path(folder), way_in, chosen, {stage: strategy})
        return for_version(build(copied / "overlays" / stage, NAME), VERSION, IMAGE)


@pytest.fixture(scope="module", params=OVERLAYS)
def objects(request: pytest.FixtureRequest) -> list[Document]:
    """The objects of each overlay in turn."""
    return rendered(request.param)


@pytest.fixture
def check() -> Run:
    """Run a program of the checks; skips where it is not installed."""

    def run(name: str, *words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        program = CHECKS / name
        found = str(program) if program.exists() else shutil.which(name)
        if not found:
            pytest.skip(f"{name} is not installed: make setup-e2e")
        return subprocess.run(
            [found, *map(str, words)],
            check=False,
            text=True,
            capture_output=True,
            cwd=ROOT,
            env=os.environ | {"LOG_LEVEL": "ERROR"},
            **options,
        )

    return run


def namespace(objects: list[Document]) -> str:
    """The one namespace of a stage, whatever its name."""
    (found,) = {item["metadata"]["namespace"] for item in objects}
    return str(found)


def workload(objects: list[Document]) -> Any:
    """What runs the pods; no copy."""
    return workload_of(objects)


def one(objects: list[Document], kind: str, name: str = NAME) -> Any:
    """The object of this kind and name, which is there once; others may be added beside it."""
    found = [item for item in objects if item["kind"] == kind and item["metadata"]["name"] == name]
    assert len(found) == 1, [item["metadata"]["name"] for item in found]
    return json.loads(json.dumps(found[0]))
