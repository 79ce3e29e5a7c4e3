"""A working copy with two stages on a stand-in for the cluster, to roll versions out to."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from delivery.rollout.__main__ import main
from service.auth.roles import new_key
from tests.conftest import ROOT
from tests.fakes.cluster import Cluster
from tests.make.commands import run_command
from tests.make.manifests import copy_manifests
from tests.make.ports import free_port
from tests.make.processes import until

TOKEN, TOKEN_HASH = new_key()
STAGING, PRODUCTION = "landcover-staging", "landcover-production"
ARGO = "rollouts.argoproj.io"

NEEDS_KUSTOMIZE = pytest.mark.skipif(
    not (shutil.which("kubectl") or shutil.which("kustomize")),
    reason="neither kubectl nor kustomize is installed: make setup-e2e",
)


def image(number: int) -> str:
    """An image by its digest, one a version."""
    return f"registry.example.com:5000/group/landcover@sha256:{number:064x}"


class Project:
    """A working copy, and a cluster with two stages; its pods are stand-ins unless `real`."""

    def __init__(self, folder: Path, bundles: dict[int, Path], real: bool = False) -> None:
        self.folder = folder / "project"
        self.folder.mkdir()
        copy_manifests(self.folder)
        (self.folder / "params.yaml").write_text("model: {name: landcover}\n")
        self.bundles = bundles
        self.variables: dict[str, str] = {}
        self.cluster = Cluster(folder / "cluster")
        settings = {
            "SERVICE_API_KEYS": json.dumps({TOKEN_HASH: ["predict", "view"]}),
            "SERVICE_WORKERS": "1",
            "SERVICE_REPOSITORY": str(folder / "none"),
        }
        self.ports = {namespace: free_port() for namespace in (STAGING, PRODUCTION)}
        self.cluster.configure(
            stages={
                namespace: {"port": port, "settings": settings}
                for namespace, port in self.ports.items()
            },
            images={image(number): str(bundle) for number, bundle in bundles.items()},
            **({} if real else {"pod": [sys.executable, "-I", str(ROOT / "tests/fakes/pod.py")]}),
        )

    def words(self, number: int, *options: str, stage: str = "staging") -> list[str]:
        url = f"http://127.0.0.1:{self.ports[f'landcover-{stage}']}"
        words = ["--version", f"landcover@v1.{number}.0", "--image", image(number), "--url", url]
        return [stage, *words, "--limit=20", *options]

    def environment(self, **changes: str) -> dict[str, str]:
        left = ("KUBE_CONTEXT", "SERVICE_URL")
        found = {key: value for key, value in os.environ.items() if key not in left}
        path = f"{self.cluster.bin}{os.pathsep}{os.environ['PATH']}"
        return found | {"PATH": path, "SMOKE_TOKEN": TOKEN} | self.variables | changes

    def roll_out(
        self, number: int, *options: str, stage: str = "staging", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        words = self.words(number, *options, stage=stage)
        return run_command(main, words, self.folder, self.environment(**environment))

    def start(
        self, number: int, stage: str = "staging", **environment: str
    ) -> "subprocess.Popen[str]":
        """Start the command in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "delivery.rollout", *self.words(number, stage=stage)],
            cwd=self.folder,
            env=self.environment(**environment),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def choose(self, strategy: str) -> None:
        """Write a component of Argo Rollouts into production's overlay."""
        self.cluster.configure(kinds=[ARGO])
        copy_manifests(self.folder, strategies={"production": strategy})

    def result(self, stage: str = "staging") -> Any:
        return json.loads((self.folder / "artifacts" / "rollout" / f"{stage}.json").read_text())

    def serving(self, stage: str = "staging") -> str:
        url = f"http://127.0.0.1:{self.ports[f'landcover-{stage}']}/version"
        return str(httpx.get(url, timeout=30).json()["model"]["tag"])

    def verbs(self) -> list[str]:
        """What kubectl was asked for, in short."""
        words = [call["argv"] for call in self.cluster.calls() if not is_tried(call)]
        return [" ".join(item for item in call[:3] if not item.startswith("-")) for call in words]


def is_tried(call: Any) -> bool:
    """Whether a call lets the cluster check objects and change none."""
    return "--dry-run=server" in call["argv"]


def kill_after_apply(project: Project, number: int, stage: str = "staging") -> None:
    before = project.verbs().count("apply")
    process = project.start(number, stage)
    until(lambda: project.verbs().count("apply") > before or process.poll() is not None)
    assert process.poll() is None, "it had ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.communicate()
