"""What runs the pods of a stage: a Deployment, or a Rollout of Argo Rollouts.

A Rollout is spoken to as `kubectl argo rollouts` does, through its resource, without that plugin:
`status` waits until status.observedGeneration is the generation, then for the phase Healthy or
Degraded; `abort` patches status.abort; `undo` replaces spec.template by that of a ReplicaSet
(pkg/kubectl-argo-rollouts/cmd/{status,abort,undo} and utils/rollout/rolloututil.go, v1.9.1).
"""

import json
import time
from datetime import UTC, datetime
from typing import NamedTuple

from contracts.tags import Version
from delivery.errors import RolloutError, TagError
from delivery.rollout.cluster import SPARE, Cluster
from delivery.rollout.manifests import APPLIED, CONTAINER, NAME_LABEL, TAG, Document
from delivery.tags import parse_version

GOOD = "conveyor/good"
"""Annotation: hash of the last pod template that passed its smoke test."""
OBSERVED = 60  # seconds that a controller may take to observe a change
PAUSE = 2.0  # seconds between two looks


class Running(NamedTuple):
    """The state of a stage."""

    version: Version | None
    image: str
    applied: str
    """Digest of the objects applied with it; empty if another tool applied them."""
    good: str
    """Hash of the last pod template that passed its smoke test; empty if none did."""
    revision: str
    replicas: int
    """Pods that it should have."""
    complete: bool
    """Every pod has this template and is available."""


class Workload:
    """The pods of a stage, whatever runs them."""

    resource: str
    """Its kind, for kubectl."""
    revision: str
    """Annotation: number of a template."""
    template_hash: str
    """Label of a ReplicaSet: hash of its template."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.name = f"{self.resource}/{cluster.app}"

    def running(self) -> Running | None:
        """The state of the stage; None if nothing of this kind runs it."""
        found = self._cluster.get(self.name)
        if found is None:
            return None
        annotations = found["metadata"].get("annotations", {})
        container = _container(found)
        return Running(
            version=_version(container),
            image=str(container.get("image", "")),
            applied=annotations.get(APPLIED, ""),
            good=annotations.get(GOOD, ""),
            revision=annotations.get(self.revision, ""),
            replicas=found["spec"].get("replicas", 1),
            complete=_is_observed(found) and self._is_complete(found),
        )

    def mark_good(self) -> None:
        """Record that the running template has passed its smoke test."""
        if current := self._template(self._current()):
            self._cluster.call("annotate", self.name, f"{GOOD}={current}", "--overwrite")

    def undo(self, before: Running) -> bool:
        """Restore the last good template; False if it is the current one."""
        current = self._current()
        target = self._revision_of(before.good) if before.good else ""
        if current in (target, before.revision if not target else ""):
            return False
        self._restore(target)
        return True

    def restart(self) -> None:
        """Replace the pods one by one, by the same template."""
        raise NotImplementedError

    def wait(self, seconds: float) -> None:
        """Wait until every pod is new and available.

        Raises:
            RolloutError: it takes longer, or the controller gave up.
        """
        raise NotImplementedError

    def _is_complete(self, found: Document) -> bool:
        raise NotImplementedError

    def _restore(self, revision: str) -> None:
        """Go back to a revision; to the one before if it is empty."""
        raise NotImplementedError

    def _current(self) -> str:
        """The revision, once the controller has observed the last change."""
        deadline = time.monotonic() + OBSERVED
        while True:
            found = self._cluster.get(self.name) or {"metadata": {}}
            if _is_observed(found) or time.monotonic() > deadline:
                return str(found["metadata"].get("annotations", {}).get(self.revision, ""))
            time.sleep(PAUSE)

    def _template(self, revision: str) -> str:
        """Hash of the pod template of a revision: a hash is stable, revisions are renumbered."""
        for item in self._replica_sets():
            if item["metadata"]["annotations"][self.revision] == revision:
                return str(item["metadata"].get("labels", {}).get(self.template_hash, ""))
        return ""

    def _revision_of(self, template: str) -> str:
        for item in self._replica_sets():
            if item["metadata"].get("labels", {}).get(self.template_hash) == template:
                return str(item["metadata"]["annotations"][self.revision])
        return ""

    def _replica_sets(self) -> list[Document]:
        """Those of this kind of workload."""
        selector = f"--selector={NAME_LABEL}={self._cluster.app}"
        found = (self._cluster.get("replicasets", selector) or {}).get("items", [])
        return [item for item in found if self.revision in item["metadata"].get("annotations", {})]


class Deployment(Workload):
    """Kubernetes' own rolling update."""

    resource = "deployment"
    revision = "deployment.kubernetes.io/revision"
    template_hash = "pod-template-hash"

    def restart(self) -> None:
        """Let kubectl change an annotation of the template."""
        self._cluster.call("rollout", "restart", self.name)

    def wait(self, seconds: float) -> None:
        """Let kubectl wait, and show what it reports."""
        words = ("rollout", "status", self.name, f"--timeout={seconds:g}s")
        self._cluster.call(*words, timeout=seconds + SPARE, show=True)

    def _is_complete(self, found: Document) -> bool:
        status, desired = found.get("status", {}), found["spec"].get("replicas", 1)
        counts = {status.get(f"{kind}eplicas", 0) for kind in ("r", "updatedR", "availableR")}
        return desired > 0 and counts == {desired}

    def _restore(self, revision: str) -> None:
        words = [f"--to-revision={revision}"] if revision else []
        self._cluster.call("rollout", "undo", self.name, *words)


class ArgoRollout(Workload):
    """A canary or blue-green of Argo Rollouts."""

    resource = "rollouts.argoproj.io"
    revision = "rollout.argoproj.io/revision"
    template_hash = "rollouts-pod-template-hash"

    def restart(self) -> None:
        """Let the controller replace the pods that are older than now."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._patch({"spec": {"restartAt": now}}, "--type=merge")

    def wait(self, seconds: float) -> None:
        """Read the phase until it is final, and show each change."""
        start = time.monotonic()
        last = ""
        while True:
            found = self._cluster.get(self.name) or {"metadata": {}}
            status = found.get("status", {})
            phase, said = str(status.get("phase", "")), str(status.get("message", ""))
            passed = time.monotonic() - start
            if not _is_observed(found):
                if passed > OBSERVED:
                    raise RolloutError(
                        f"Argo Rollouts has not observed the change after {OBSERVED} s: is its "
                        "controller running?"
                    )
            elif phase == "Healthy":
                return
            elif phase == "Degraded":
                raise RolloutError(f"Argo Rollouts: {said or phase}")
            elif (line := f"{phase}: {said}") != last:
                print(line, flush=True)
                last = line
            if passed > seconds:
                raise RolloutError(f"Argo Rollouts is not done after {seconds:g} s: {last}")
            time.sleep(PAUSE)

    def _is_complete(self, found: Document) -> bool:
        return bool(found.get("status", {}).get("phase") == "Healthy")

    def _restore(self, revision: str) -> None:
        if not self._is_complete(self._cluster.get(self.name)):
            # First of all: from now on the stable pods answer, even if this job is killed.
            self._patch({"status": {"abort": True}}, "--type=merge", "--subresource=status")
        numbered = {
            int(item["metadata"]["annotations"][self.revision]): item["spec"]["template"]
            for item in self._replica_sets()
        }
        earlier = sorted(numbered)[:-1]
        template = numbered.get(int(revision) if revision else max(earlier, default=0))
        if template is None:
            raise RolloutError(f"{self.name}: there is no earlier template to go back to")
        template["metadata"]["labels"].pop(self.template_hash, None)
        self._patch([{"op": "replace", "path": "/spec/template", "value": template}], "--type=json")

    def _patch(self, change: object, *options: str) -> None:
        self._cluster.call("patch", self.name, *options, f"--patch={json.dumps(change)}")


WORKLOADS: dict[str, type[Workload]] = {"Deployment": Deployment, "Rollout": ArgoRollout}
"""By the kind of the object that has the pods."""


def _container(found: Document) -> Document:
    for item in found["spec"]["template"]["spec"]["containers"]:
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


def _is_observed(found: Document) -> bool:
    """Argo Rollouts writes the number as a text."""
    observed = found.get("status", {}).get("observedGeneration") or 0
    return int(observed) >= int(found["metadata"].get("generation", 0))
