"""A stage of the acceptance: a copy of k8s/ for a throw-away namespace, and rollouts to it."""

import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import yaml

from contracts.commit import PARAMS
from contracts.documents import read_yaml
from contracts.tags import Version
from delivery.acceptance.sandbox import Forward, Sandbox, address_of, printed_by, secret
from delivery.errors import RolloutError
from delivery.http import send
from delivery.rollout.cluster import SWAPS, Cluster
from delivery.rollout.manifests import NAME_LABEL, Document, to_yaml
from delivery.rollout.smoke_test import UNEXPECTED, Expected, SmokeTest

STAGE = "staging"
OVERLAY = Path("k8s/overlays") / STAGE
STEPS = Path("k8s/components/canary/strategy.yaml")
ALWAYS = ("access", "monitoring", "network", "scaling")
CHOICES = ("openshift", "gpu", "cpu-limit")
"""Components of the overlay that are kept; a way in from outside and secrets of others are not."""
BROKEN = "SERVICE_NOT_A_SETTING=1\n"
"""With it no pod starts: the service refuses settings that it does not know."""
LIMIT = 120.0  # seconds of a smoke test: the connection is to one pod, until that one goes
SOON = 90.0  # seconds until pods that never start are given up
LEFT_OUT = re.compile(r"(CI|CI_.*|SERVICE_URL|PROMETHEUS_URL)")
"""Variables that a rollout of the pipeline reads, and this one must not."""


class Stage:
    """A namespace with its own copy of the overlay of staging."""

    def __init__(self, sandbox: Sandbox, cluster: Cluster, folder: Path, minutes: float) -> None:
        """Copy the manifests into a folder, and make the key of the smoke test."""
        self._sandbox, self.cluster, self.minutes = sandbox, cluster, minutes
        self._folder = folder / cluster.namespace
        self._folder.mkdir(parents=True)
        shutil.copytree("k8s", self._folder / "k8s")
        shutil.copy(PARAMS, self._folder)
        self._token = f"cvy_{secrets.token_urlsafe(32)}"
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.forward = Forward(cluster, port)

    def prepare(self, prometheus: str = "", canary: bool = False) -> None:
        """Write the overlay, and create the key."""
        kustomization = self._folder / OVERLAY / "kustomization.yaml"
        document = read_yaml(kustomization.read_text(encoding="utf-8"))
        given = {Path(item).name for item in document["components"]}
        names = [*ALWAYS, *(it for it in CHOICES if it in given), *(["canary"] if canary else [])]
        document["namespace"] = self.cluster.namespace
        document["components"] = [f"../../components/{name}" for name in names]
        kustomization.write_text(yaml.safe_dump(document), encoding="utf-8")
        path = self._folder / OVERLAY / "values.yaml"
        values = read_yaml(path.read_text(encoding="utf-8"))
        values["callers"] = [self.cluster.namespace, *values["callers"]]
        values["replicas"] = {"least": 2, "most": 2}
        values["prometheus"] = prometheus or values["prometheus"]
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        if canary and not prometheus:
            self._drop_analyses()
        self.set_broken(False)
        digest = hashlib.sha256(self._token.encode()).hexdigest()
        keys = {"api-keys": json.dumps({digest: ["predict", "view"]})}
        self.cluster.apply(to_yaml([secret(f"{self.cluster.app}-keys", keys)]))

    def _drop_analyses(self) -> None:
        """Steps without a judgement, for a cluster without Prometheus."""
        path = self._folder / STEPS
        change = read_yaml(path.read_text(encoding="utf-8"))
        canary = change[0]["value"]["canary"]
        pause = {"pause": {"duration": "10s"}}
        canary["steps"] = [pause if "analysis" in step else step for step in canary["steps"]]
        path.write_text(yaml.safe_dump(change), encoding="utf-8")

    def set_broken(self, broken: bool) -> None:
        """Let the next version's pods start, or not."""
        text = f"SERVICE_CONFIGMAP={self.cluster.namespace}/{SWAPS}\n"
        path = self._folder / OVERLAY / "settings.env"
        path.write_text(text + (BROKEN if broken else ""), encoding="utf-8")

    def version(self, number: int) -> Version:
        """A version for this run alone: the image is always the same one."""
        return Version(self.cluster.app, (0, 0, number))

    def roll_out(self, number: int, *options: str, seconds: float | None = None) -> Any:
        """Run `python -m delivery.rollout`; returns the outcome that it writes."""
        path = self._folder / f"artifacts/rollout/{STAGE}.json"
        path.unlink(missing_ok=True)
        words = self._command(number, seconds or 60 * self.minutes, *options)
        environment, pipe = self._environment(), subprocess.PIPE
        done = subprocess.run(
            words, cwd=self._folder, env=environment, stderr=pipe, text=True, check=False
        )
        print(done.stderr, end="", flush=True)
        nothing = {"result": "failed", "serving": None, "seconds": 0.0}
        found = json.loads(path.read_bytes()) if path.exists() else nothing
        said = done.stderr.strip().removeprefix("error: ")
        return found | {"code": done.returncode, "reason": said}

    def kill_rollout(self, number: int) -> bool:
        """Begin a rollout, and kill it once it has changed what runs; False if it was faster."""
        words = self._command(number, 60 * self.minutes)
        process = subprocess.Popen(
            words, cwd=self._folder, env=self._environment(), stdout=subprocess.PIPE, text=True
        )
        changed = re.compile(rf"(deployment|rollout)\S*/{re.escape(self.cluster.app)} \w+")
        with process:
            try:
                for line in process.stdout or ():
                    print(line, end="", flush=True)
                    if changed.match(line):
                        break
            finally:
                process.kill()
        return process.returncode < 0

    def _command(self, number: int, seconds: float, *options: str) -> list[str]:
        words = ["--version", self.version(number).tag, "--image", self._sandbox.image]
        words += ["--url", self.url, f"--timeout={seconds:g}", f"--limit={LIMIT:g}", *options]
        return [sys.executable, "-m", "delivery.rollout", STAGE, *words]

    def _environment(self) -> dict[str, str]:
        found = {key: value for key, value in os.environ.items() if not LEFT_OUT.fullmatch(key)}
        return found | {"SMOKE_TOKEN": self._token, "KUBE_CONTEXT": self._sandbox.context}

    def smoke(self, expected: Expected) -> str:
        """The smoke test; returns what it found.

        Raises:
            RolloutError: it does not pass.
        """
        lines = SmokeTest(self.url, expected, self._token).run(LIMIT, lambda line: None)
        return "; ".join(lines)

    def serving_sha256(self) -> str:
        """Digest of the model that serves.

        Raises:
            RolloutError: nothing answers.
        """
        try:
            found = send("GET", f"{self.url}/version", timeout=LIMIT)
            return str(found.json()["model"]["sha256"])
        except (httpx.HTTPError, *UNEXPECTED):
            raise RolloutError(f"{self.url} does not respond like the service") from None

    def pods(self) -> set[tuple[str, int]]:
        """The pods of the service, each with the number of its restarts."""
        found = self.cluster.get("pods", f"--selector={NAME_LABEL}={self.cluster.app}") or {}
        return {
            (item["metadata"]["name"], container.get("restartCount", 0))
            for item in found.get("items", [])
            for container in item["status"].get("containerStatuses", [])
        }

    def swap(self, number: int, tag: str, sha256: str, changed: str) -> None:
        """Let the pods of a version serve a model under another tag, by the ConfigMap."""
        record = {"tag": tag, "sha256": sha256, "version": 1, "changed": changed}
        record |= {"previous_tag": None, "previous_sha256": None}
        patch = json.dumps({"data": {self.version(number).release: json.dumps(record)}})
        self.cluster.call("patch", f"configmap/{SWAPS}", "--type=merge", f"--patch={patch}")

    def traffic(self) -> Document:
        """A pod that asks the Service, until it is deleted."""
        return self._sandbox.pod("traffic", TRAFFIC, self.cluster.app, KEY=self._token)

    def listen(self, cluster: Cluster) -> tuple[str, str]:
        """Run a pod in a namespace to which all may connect; returns its address and port.

        Raises:
            RolloutError: it does not run.
        """
        pod = self._sandbox.pod("listener", LISTEN, LISTENS)
        return address_of(cluster, pod, 60 * self.minutes), LISTENS

    def reach(self, cluster: Cluster, name: str, *target: str) -> bool:
        """Whether a pod in a namespace opens a connection.

        Raises:
            RolloutError: the pod does not run.
        """
        pod = self._sandbox.pod(name, REACH, *target)
        said = printed_by(cluster, pod, 60 * self.minutes)
        if said not in ("open", "closed"):
            raise RolloutError(f"pod {name}: it printed {said[:80]!a}, wanted open or closed")
        return said == "open"


LISTENS = "8000"
LISTEN = """
import socket, sys
family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
server = socket.create_server(
    ("", int(sys.argv[1])), family=family, dualstack_ipv6=family == socket.AF_INET6
)
while True:
    server.accept()[0].close()
"""
"""Of a pod: accept connections."""
REACH = """
import socket, sys, time
time.sleep(5)  # a policy may come a moment after the pod
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 5).close()
    print("open")
except OSError:
    print("closed")
"""
"""Of a pod: connect to an address."""
TRAFFIC = """
import os, sys, time, urllib.request
head = {"authorization": "Bearer " + os.environ["KEY"], "content-type": "application/octet-stream"}
def ask(path, data=None):
    request = urllib.request.Request("http://" + sys.argv[1] + path, data, head)
    return urllib.request.urlopen(request, timeout=5).read()
while True:
    time.sleep(0.1)
    try:
        ask("/predict", ask("/samples/0"))
    except OSError:
        pass
"""


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
