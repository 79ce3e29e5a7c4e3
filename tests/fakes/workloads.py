"""A stand-in for a namespace in which a Deployment and a Rollout may run at once, without pods.

True to the original: an object is created once; an apply owns the number of replicas that it names,
and resets one that the next apply no longer names; a new workload has one pod, or as many as it was
created with, and none is available before somebody waits; a ReplicaSet a workload, with the
annotation and label of its kind; a deletion takes the pods along; an account may lack the right.

Not true: everything else that a cluster does. Arguments are not checked: the tests ask the real
kubectl about them.
"""

import json
from collections.abc import Sequence
from typing import Any

import yaml

from delivery.errors import RolloutError
from delivery.rollout.manifests import Document

ARGO = "rollouts.argoproj.io"
RESOURCES = {"Deployment": "deployment", "Rollout": ARGO}
MARKS = {
    "deployment": ("deployment.kubernetes.io/revision", "pod-template-hash"),
    ARGO: ("rollout.argoproj.io/revision", "rollouts-pod-template-hash"),
}


class Killed(Exception):
    """The job ended here."""


class Workloads:
    """The namespace; `call` takes the place of `Cluster.call`."""

    def __init__(self, kinds: Sequence[str] = (ARGO,), may_delete: bool = True) -> None:
        self.kinds, self.may_delete = kinds, may_delete
        self.running: dict[str, Document] = {}
        """Resource -> its document, with status."""
        self.refusal = ""
        """What an apply in vain is refused with."""
        self.scaled = ""
        """Kind that the autoscaler scales."""
        self.calls: list[list[str]] = []
        self.fewest = 10**6
        """Fewest available pods after any call."""
        self.kill_at = 10**6
        """Number of the call before which the job ends."""

    def serving(self) -> int:
        """Available pods, whoever runs them."""
        return sum(item["status"].get("availableReplicas", 0) for item in self.running.values())

    def call(self, *words: str, stdin: str | None = None, **_: object) -> str:
        """One call of kubectl.

        Raises:
            RolloutError: it fails.
            Killed: the job was to end before it.
        """
        if len(self.calls) == self.kill_at:
            raise Killed
        self.calls.append([*words])
        if "--dry-run=server" in words:
            if self.refusal:
                raise RolloutError(f"kubectl apply: {self.refusal}")
            return ""
        documents = [item for item in yaml.load_all(stdin or "", yaml.CSafeLoader) if item]
        said = getattr(self, words[0].replace("-", "_"))(words[1:], documents)
        self.fewest = min(self.fewest, self.serving())
        return str(said or "")

    def changes(self) -> list[str]:
        """The calls that change something, in short."""
        return [
            " ".join(words[:2]) if words[0] in ("delete", "patch", "annotate") else words[0]
            for words in self.calls
            if "--dry-run=server" not in words
            and words[0] not in ("get", "api-resources", "auth", "rollout")
        ]

    def api_resources(self, words: Sequence[str], _: list[Document]) -> str:
        return "\n".join(self.kinds)

    def auth(self, words: Sequence[str], _: list[Document]) -> None:
        if not self.may_delete:
            raise RolloutError("kubectl auth: no")

    def get(self, words: Sequence[str], _: list[Document]) -> str:
        resource = words[0].partition("/")[0]
        if resource == "replicasets":
            return json.dumps({"items": [_replica_set(*item) for item in self.running.items()]})
        if resource == ARGO and resource not in self.kinds:
            raise RolloutError("kubectl get: the server doesn't have a resource type")
        found = self.running.get(resource)
        answer = json.dumps(found) if found else ""
        if found and resource == ARGO:
            self._wait(found)  # the next look finds it done
        return answer

    def apply(self, _: Sequence[str], documents: list[Document]) -> None:
        for item in documents:
            if item["kind"] in RESOURCES:
                self._apply(item)
            if item["kind"] == "HorizontalPodAutoscaler":
                self.scaled = item["spec"]["scaleTargetRef"]["kind"]

    def _apply(self, item: Document) -> None:
        before = self.running.get(RESOURCES[item["kind"]])
        if before is None:
            self.create((), [item])
            self.running[RESOURCES[item["kind"]]]["owned"] = "replicas" in item["spec"]
            return
        replicas = 1 if before["owned"] else before["spec"]["replicas"]
        before["spec"] = {"replicas": replicas} | item["spec"]
        before["owned"] = "replicas" in item["spec"]

    def create(self, _: Sequence[str], documents: list[Document]) -> None:
        for item in documents:
            resource = RESOURCES[item["kind"]]
            if resource in self.running:
                raise RolloutError("kubectl create: AlreadyExists")
            spec = {"replicas": 1} | item["spec"]
            metadata = {"annotations": {}} | item["metadata"] | {"generation": 1}
            metadata["annotations"][MARKS[resource][0]] = "1"
            self.running[resource] = {"metadata": metadata, "spec": spec, "owned": False}
            self.running[resource]["status"] = {"observedGeneration": "1", "phase": "Progressing"}

    def patch(self, words: Sequence[str], _: list[Document]) -> None:
        found = self.running[words[0].partition("/")[0]]
        change = next(word for word in words if word.startswith("--patch=")).partition("=")[2]
        found["spec"]["replicas"] = json.loads(change)["spec"]["replicas"]
        found["status"]["phase"] = "Progressing"

    def rollout(self, words: Sequence[str], _: list[Document]) -> None:
        self._wait(self.running[words[1].partition("/")[0]])

    def _wait(self, found: Document) -> None:
        counts = ("replicas", "updatedReplicas", "availableReplicas")
        found["status"] |= dict.fromkeys(counts, found["spec"]["replicas"]) | {"phase": "Healthy"}

    def annotate(self, words: Sequence[str], _: list[Document]) -> None:
        key, _equals, value = words[1].partition("=")
        self.running[words[0].partition("/")[0]]["metadata"]["annotations"][key] = value

    def delete(self, words: Sequence[str], _: list[Document]) -> None:
        self.running.pop(words[0].partition("/")[0], None)


def _replica_set(resource: str, found: Document) -> Any:
    revision, label = MARKS[resource]
    number = found["metadata"]["annotations"][revision]
    return {"metadata": {"labels": {label: "6d4cf56db6"}, "annotations": {revision: number}}}
