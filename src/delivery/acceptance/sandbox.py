"""What an acceptance makes in a cluster: namespaces with a random name and a label, and pods.

It deletes what has the label of its run, and nothing else.
"""

import json
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from delivery.errors import RolloutError
from delivery.rollout.cluster import Cluster
from delivery.rollout.manifests import Document, to_yaml

LABEL = "conveyor/acceptance"
"""Of a namespace: the run that made it."""
PREFIX = "conveyor-acceptance"
ENDS = 300.0  # seconds that a namespace may take to go
ENDED = ("Succeeded", "Failed")
"""Phases of a pod whose program has ended."""
POLL = 1.0  # seconds between two looks at a pod
AGAIN = 0.5  # seconds until a connection to a pod is opened again


class Sandbox:
    """The namespaces of one run."""

    image = ""
    """Of the pods: name@sha256:..."""

    def __init__(self, app: str, context: str, pull_secret: Path | None) -> None:
        """`pull_secret` is a config.json of Docker, if the nodes need one to pull the image.

        Raises:
            RolloutError: that file cannot be read, or has no registry.
        """
        self.app, self.context = app, context
        self.run = secrets.token_hex(4)
        self._pull_secret = _registries(pull_secret.expanduser()) if pull_secret else ""
        self._whole = Cluster("default", app, context)

    def server(self) -> str:
        """Version of the cluster.

        Raises:
            RolloutError: it cannot be reached, or the account may not make namespaces.
        """
        found = json.loads(self._whole.call("version", "--output=json"))
        try:
            self._whole.call("auth", "can-i", "create", "namespaces")
        except RolloutError:
            raise RolloutError(
                f"context {self.context!a}: its account may not create namespaces: take that of an "
                "administrator, best of a throw-away cluster; nothing was changed"
            ) from None
        return str(found.get("serverVersion", {}).get("gitVersion", "unknown"))

    def knows(self, group: str, plural: str) -> bool:
        """Whether the cluster knows a kind."""
        return self._whole.knows(group, plural)

    def make(self, purpose: str = "") -> Cluster:
        """Create a namespace, with what the pods in it need.

        Raises:
            RolloutError: it is there already, or may not be made.
        """
        name = "-".join(filter(None, (PREFIX, self.run, purpose)))
        labels = {LABEL: self.run, "pod-security.kubernetes.io/enforce": "restricted"}
        metadata = {"name": name, "labels": labels}
        document: Document = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
        try:
            self._whole.call("create", "--filename=-", stdin=to_yaml([document]))
        except RolloutError as error:
            if "AlreadyExists" not in str(error):
                raise
            raise RolloutError(
                f"namespace {name}: it is there, and this run has not made it: nothing in it was "
                "touched; run it again, which takes another name"
            ) from None
        cluster = Cluster(name, self.app, self.context)
        if self._pull_secret:
            kind, data = "kubernetes.io/dockerconfigjson", {".dockerconfigjson": self._pull_secret}
            cluster.apply(to_yaml([secret(f"{self.app}-registry", data, kind)]))
        return cluster

    def clean(self) -> list[str]:
        """Delete the namespaces of this run; returns the names of those that are left."""
        return self._delete(self.run)

    def clean_other(self, name: str) -> None:
        """Delete what the run of a namespace has left.

        Raises:
            RolloutError: no acceptance has made it, or it does not go.
        """
        found = self._whole.get(f"namespace/{name}")
        if found is None:
            raise RolloutError(f"namespace {name!a}: it is not there: compare it with the report")
        run = found["metadata"].get("labels", {}).get(LABEL)
        if not run:
            raise RolloutError(
                f"namespace {name!a}: it has no label {LABEL}: no acceptance has made it, and it "
                "is left alone"
            )
        if left := self._delete(run):
            raise RolloutError(f"namespaces {', '.join(left)}: they do not go: kubectl describe")

    def _delete(self, run: str) -> list[str]:
        selector = f"--selector={LABEL}={run}"
        self._whole.call("delete", "namespaces", selector, timeout=ENDS)
        found = self._whole.get("namespaces", selector) or {}
        return [item["metadata"]["name"] for item in found.get("items", [])]

    def pod(self, name: str, program: str, *arguments: str, **environment: str) -> Document:
        """A pod that runs a program of Python with the image; it keeps the restricted standard."""
        container = {
            "name": name,
            "image": self.image,
            "command": ["python", "-c", program, *arguments],
            "env": [{"name": key, "value": value} for key, value in environment.items()],
            "resources": {
                "requests": {"cpu": "50m", "memory": "64Mi"},
                "limits": {"cpu": "500m", "memory": "128Mi"},
            },
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
        }
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"acceptance": name}},
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": False,
                "imagePullSecrets": [{"name": f"{self.app}-registry"}],
                "securityContext": {
                    "runAsNonRoot": True,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [container],
            },
        }


def _registries(path: Path) -> str:
    """The text of a config.json that names a registry."""
    try:
        text = path.read_text("utf-8")
        document = json.loads(text)
    except OSError as error:
        raise RolloutError(f"PULL_SECRET: {path}: {error.strerror}") from None
    except ValueError:
        document = None
    if not isinstance(document, dict) or not isinstance(document.get("auths"), dict):
        raise RolloutError(
            f"PULL_SECRET: {path}: it has no `auths`: take the config.json that `docker login` "
            "writes, without a credsStore"
        )
    return text


def secret(name: str, data: dict[str, str], kind: str = "Opaque") -> Document:
    """A Secret."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "type": kind,
        "stringData": data,
    }


def printed_by(cluster: Cluster, pod: Document, seconds: float) -> str:
    """Run a pod to its end; returns what it printed.

    Raises:
        RolloutError: it does not end in time, or fails.
    """
    name, status = pod["metadata"]["name"], _run(cluster, pod, ENDED, seconds)
    text = cluster.call("logs", f"pod/{name}").strip()
    if status["phase"] == "Failed":
        raise RolloutError(f"pod {name}: {text.splitlines()[-1] if text else 'it failed'}")
    return text


def address_of(cluster: Cluster, pod: Document, seconds: float) -> str:
    """Run a pod that stays; returns its address.

    Raises:
        RolloutError: it does not run in time, or ends.
    """
    status = _run(cluster, pod, ("Running", *ENDED), seconds)
    if status["phase"] in ENDED or not status.get("podIP"):
        raise RolloutError(
            f"pod {pod['metadata']['name']}: it is {status['phase']}, wanted Running"
        )
    return str(status["podIP"])


def _run(cluster: Cluster, pod: Document, phases: Sequence[str], seconds: float) -> Document:
    """Create a pod, and wait for one of these phases; returns its status."""
    name = pod["metadata"]["name"]
    cluster.call("create", "--filename=-", stdin=to_yaml([pod]))
    deadline = time.monotonic() + seconds
    while True:
        status: Document = (cluster.get(f"pod/{name}") or {}).get("status", {})
        if status.get("phase") in phases:
            return status
        if time.monotonic() > deadline:
            why = cluster.reasons(f"acceptance={name}") or f"it is {status.get('phase')}"
            raise RolloutError(f"pod {name}: not {phases[0]} within {seconds:g} s: {why}")
        time.sleep(POLL)


class Forward:
    """`kubectl port-forward` to the Service; opened again whenever the pod behind it goes."""

    def __init__(self, cluster: Cluster, port: int) -> None:
        """Forward a port of this machine."""
        words = ("port-forward", f"service/{cluster.app}", f"{port}:80", "--address=127.0.0.1")
        self._command = cluster.command(*words)
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_open, daemon=True)

    def __enter__(self) -> Self:
        """Begin; it is open once a pod runs."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it, and wait for it."""
        self._ended.set()
        while self._thread.is_alive():
            if self._process:
                self._process.send_signal(signal.SIGTERM)
            self._thread.join(0.1)

    def _keep_open(self) -> None:
        nowhere = subprocess.DEVNULL
        while not self._ended.is_set():
            self._process = subprocess.Popen(
                self._command, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True
            )
            self._process.wait()
            self._ended.wait(AGAIN)
