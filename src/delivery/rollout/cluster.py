"""One namespace of a cluster, through kubectl: its state, and the few changes that a rollout makes.

Arguments are lists, and every value follows a `=` or is part of a document on stdin, so that no
value is read as an option or by a shell.
"""

import json
import subprocess
import sys
import time
from typing import Any, NamedTuple

from contracts.tags import Version
from delivery.errors import RolloutError, TagError, ToolError, explain
from delivery.rollout.manifests import APPLIED, CONTAINER, NAME_LABEL, TAG, Document
from delivery.tags import parse_version

GOOD = "conveyor/good"
"""Annotation of the Deployment: hash of the last pod template that passed its smoke test."""
REVISION = "deployment.kubernetes.io/revision"
SWAPS = "wanted-model"
"""The ConfigMap in which the pods of each release store the tag that they were swapped to."""
SHORT = 60  # seconds for a call that does not wait for the cluster
SPARE = 30  # seconds that kubectl gets beyond its own time limit
CURES = {
    "no configuration has been provided|localhost:8080|context .* does not exist|no context": (
        "connect the cluster's agent, and name its context in KUBE_CONTEXT (docs/kubernetes.md)"
    ),
    "exceeded quota": "raise the quota of the namespace, or run fewer replicas",
    "Unauthorized|must be logged in|credentials": "renew the credentials of the context",
    "Forbidden|forbidden|cannot (get|list|create|patch)": (
        "give this account the role of k8s/setup/deployer.yaml"
    ),
    "namespaces? .*not found": "create the namespace first (docs/kubernetes.md)",
    "x509|certificate": "give the context the certificate of the cluster's authority",
    "no such host|i/o timeout|handshake timeout|refused|Unable to connect": (
        "check the network, and the address of the context"
    ),
}
"""Words in kubectl's errors -> what to do. The first match counts."""
OBSERVED = 60  # seconds that a controller may take to observe a change
PAUSE = 1.0


class Running(NamedTuple):
    """The state of a stage."""

    version: Version | None
    image: str
    applied: str
    """Digest of the objects applied with it; empty if another tool applied them."""
    good: str
    """Hash of the last pod template that passed its smoke test; empty if none did."""
    revision: str
    complete: bool
    """Every pod has this template and is available."""


class Cluster:
    """kubectl, for one namespace and the model that is served in it."""

    def __init__(self, namespace: str, app: str, context: str = "") -> None:
        """`app` is the model's name. With an empty context, kubectl uses its current one."""
        self.namespace, self.app = namespace, app
        # They follow the words: kubectl accepts no option before the name of a plugin.
        self._where = [f"--namespace={namespace}", *([f"--context={context}"] if context else [])]

    def call(
        self, *words: str, stdin: str | None = None, timeout: float = SHORT, show: bool = False
    ) -> str:
        """Run kubectl; returns its output, or with `show` prints it.

        Raises:
            RolloutError: it failed; the message has its errors.
            ToolError: it is not installed.
        """
        command = ["kubectl", *words, *self._where]
        sys.stdout.flush()
        try:
            done = subprocess.run(
                command,
                input=stdin,
                stdout=None if show else subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                timeout=timeout,
                check=False,
            )
        except FileNotFoundError:
            raise ToolError("kubectl: not found: install kubectl 1.21 or newer") from None
        except subprocess.TimeoutExpired:
            raise RolloutError(f"kubectl {words[0]}: did not end within {timeout:g} s") from None
        if done.returncode != 0:
            raise RolloutError(f"kubectl {words[0]}: {explain(done.stderr, CURES)}")
        return done.stdout or ""

    def get(self, *what: str) -> Any:
        """An object, or a list of them; None if it does not exist."""
        found = self.call("get", *what, "--ignore-not-found", "--output=json")
        return json.loads(found) if found.strip() else None

    def knows(self, group: str, plural: str) -> bool:
        """Whether the cluster knows a kind that is not built in."""
        found = self.call("api-resources", f"--api-group={group}", "--output=name")
        return f"{plural}.{group}" in found.split()

    def running(self, canary: bool = False) -> Running | None:
        """The state of the stage; None if it has no Deployment yet."""
        deployment = self.get(f"deployment/{self.app}")
        if deployment is None:
            return None
        annotations = deployment["metadata"].get("annotations", {})
        container = _container(deployment)
        if canary:
            complete = self._phase() == "Healthy" and self._is_observed_by_argo(deployment)
        else:
            complete = _is_complete(deployment)
        return Running(
            version=_version(container),
            image=str(container.get("image", "")),
            applied=annotations.get(APPLIED, ""),
            good=annotations.get(GOOD, ""),
            revision=annotations.get(REVISION, ""),
            complete=complete,
        )

    def apply(self, text: str) -> None:
        """Create or change the objects of a stream of documents."""
        self.call("apply", "--filename=-", stdin=text, timeout=2 * SHORT, show=True)

    def desired_tag(self, release: str) -> str:
        """Tag that the pods of a release were swapped to; empty if they serve their own."""
        record = self._swaps().get(release, "")
        try:
            return str(json.loads(record)["tag"]) if record else ""
        except (ValueError, KeyError, TypeError):
            return ""

    def clear_swap(self, release: str) -> bool:
        """Let a release serve its own model again; False if it was not swapped."""
        if release not in self._swaps():
            return False
        patch = json.dumps({"data": {release: None}})
        self.call("patch", f"configmap/{SWAPS}", "--type=merge", f"--patch={patch}")
        return True

    def restart(self) -> None:
        """Replace the pods one by one, by the same template."""
        self.call("rollout", "restart", f"deployment/{self.app}")

    def wait(self, seconds: float, canary: bool) -> None:
        """Wait until every pod is new and available.

        Raises:
            RolloutError: it takes longer, or the controller gave up.
        """
        if canary:
            self._wait_until_observed()
            words = ["argo", "rollouts", "status", self.app, f"--timeout={seconds:g}s"]
        else:
            words = ["rollout", "status", f"deployment/{self.app}", f"--timeout={seconds:g}s"]
        self.call(*words, timeout=seconds + SPARE, show=True)

    def mark_good(self) -> None:
        """Record that the running template has passed its smoke test."""
        if current := self._template(self._revision()):
            self.call("annotate", f"deployment/{self.app}", f"{GOOD}={current}", "--overwrite")

    def undo(self, before: Running, canary: bool) -> bool:
        """Restore the last good template; False if it is the current one."""
        if canary and self._phase() not in ("", "Healthy"):
            self.call("argo", "rollouts", "abort", self.app)
        current = self._revision()
        target = self._revision_of(before.good) if before.good else ""
        if current in (target, before.revision if not target else ""):
            return False
        words = [f"--to-revision={target}"] if target else []
        self.call("rollout", "undo", f"deployment/{self.app}", *words)
        return True

    def pod_errors(self) -> str:
        """Why pods do not start, in a few words; empty if kubectl does not know."""
        pods = self.get("pods", f"--selector={NAME_LABEL}={self.app}") or {}
        found: list[str] = []
        for pod in pods.get("items", []):
            for status in pod.get("status", {}).get("containerStatuses", []):
                waiting = status.get("state", {}).get("waiting") or {}
                ended = status.get("lastState", {}).get("terminated") or {}
                for fact in (waiting.get("reason"), waiting.get("message"), ended.get("reason")):
                    if fact and fact not in found:
                        found.append(fact)
        return "; ".join(found)[:500]

    def _swaps(self) -> dict[str, str]:
        return dict((self.get(f"configmap/{SWAPS}") or {}).get("data") or {})

    def _revision(self) -> str:
        """Revision of the Deployment, once its controller has observed the last change."""
        deadline = time.monotonic() + OBSERVED
        while True:
            found = self.get(f"deployment/{self.app}") or {"metadata": {}}
            if _is_observed(found) or time.monotonic() > deadline:
                return str(found["metadata"].get("annotations", {}).get(REVISION, ""))
            time.sleep(PAUSE)

    def _template(self, revision: str) -> str:
        """Hash of the pod template of a revision: a hash is stable, revisions are renumbered."""
        for item in self._replica_sets():
            if item["metadata"].get("annotations", {}).get(REVISION) == revision:
                return str(item["metadata"].get("labels", {}).get("pod-template-hash", ""))
        return ""

    def _revision_of(self, template: str) -> str:
        for item in self._replica_sets():
            if item["metadata"].get("labels", {}).get("pod-template-hash") == template:
                return str(item["metadata"].get("annotations", {}).get(REVISION, ""))
        return ""

    def _replica_sets(self) -> list[Document]:
        found = self.get("replicasets", f"--selector={NAME_LABEL}={self.app}") or {}
        return list(found.get("items", []))

    def _wait_until_observed(self) -> None:
        """Wait until Argo Rollouts has observed the change; until then its status is outdated."""
        deadline = time.monotonic() + OBSERVED
        while time.monotonic() < deadline:
            deployment = self.get(f"deployment/{self.app}")
            if deployment and self._is_observed_by_argo(deployment):
                return
            time.sleep(PAUSE)
        raise RolloutError(
            f"Argo Rollouts has not observed the change after {OBSERVED} s: is it running?"
        )

    def _phase(self) -> str:
        return str(self._rollout().get("phase", ""))

    def _is_observed_by_argo(self, deployment: Document) -> bool:
        observed = str(self._rollout().get("workloadObservedGeneration", ""))
        return observed == str(deployment["metadata"].get("generation"))

    def _rollout(self) -> Document:
        """Status of Argo's Rollout; empty if it does not exist."""
        return dict((self.get(f"rollouts.argoproj.io/{self.app}") or {}).get("status", {}))


def _container(deployment: Document) -> Document:
    for item in deployment["spec"]["template"]["spec"]["containers"]:
        if item["name"] == CONTAINER:
            return dict(item)
    return {}


def _version(container: Document) -> Version | None:
    """The version that a pod was created for; None for a pod of another tool."""
    values = {item["name"]: item.get("value", "") for item in container.get("env", [])}
    try:
        return parse_version(values.get(TAG, ""))
    except TagError:
        return None


def _is_observed(deployment: Document) -> bool:
    observed = deployment.get("status", {}).get("observedGeneration", 0)
    return bool(observed >= deployment["metadata"].get("generation", 0))


def _is_complete(deployment: Document) -> bool:
    status = deployment.get("status", {})
    desired = deployment["spec"].get("replicas", 1)
    counts = {status.get(f"{kind}eplicas", 0) for kind in ("r", "updatedR", "availableR")}
    return _is_observed(deployment) and desired > 0 and counts == {desired}
