"""The stand-in for kubectl of tests/fakes/cluster.py, where namespaces come and go.

True to the original: a namespace is created once, selected and deleted by its labels, with all that
is in it; who may not create one is told so by `auth can-i`; a forwarded port, which lasts until
kubectl is ended; pods that run a program to its end, with a phase and a log; a NetworkPolicy, if
`enforces` is set, between namespaces and for all that leaves a pod; a ConfigMap that pods read; an
analysis, which fails where no pod asks the canary.

Not true: whatever the other one's head says; all ports that are forwarded in a namespace are the
pod's own; programs of pods are not run, but answered by what they would connect to.
"""

import json
import time
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.pods import Document, read_pod
from tests.fakes.cluster import Call, Cluster, Kubectl, Refusal
from tests.make.processes import until

ENDED = {"phase": "Succeeded"}


class ThrowawayCluster(Cluster):
    """What a test prepares and looks into."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.namespaces: dict[str, dict[str, str]] = {"default": {}, "kube-system": {}}
        """Name -> labels."""
        self.policies: dict[str, list[Document]] = {}
        self.pods: dict[tuple[str, str], Document] = {}
        self.judged: set[str] = set()
        """Namespaces whose Rollout has steps with an analysis."""
        self.enforces = True
        """Whether the network plugin enforces policies."""
        self.leaks = False
        """Whether a policy lets in who is not named in it."""
        self.pod_status: Document = {}
        """That of pods that are created by themselves, in place of a good one."""
        self.may_create = True
        self.stays = False
        """Whether a namespace stays when it is deleted."""

    def answer(self, call: Call) -> None:
        if call.argv[0] == "port-forward":
            self._forward(call)
        else:
            super().answer(call)

    def kubectl(self, call: Call) -> Kubectl:
        return Namespaced(self, call)

    def _forward(self, call: Call) -> None:
        """Pods listen on the port themselves; the call ends with its process."""
        self._calls.append({"argv": call.argv, "stdin": ""})
        (namespace,) = (it.partition("=")[2] for it in call.argv if it.startswith("--namespace="))
        port = int(call.argv[2].partition(":")[0])
        self.config["stages"].setdefault(namespace, {"settings": {}})["port"] = port
        while Path(f"/proc/{call.process}").exists():
            time.sleep(0.05)


class Namespaced(Kubectl):
    """One call."""

    cluster: ThrowawayCluster

    def auth_can_i(self) -> None:
        if not self.cluster.may_create:
            raise Refusal("")

    auth = auth_can_i

    def create(self) -> None:
        for item in self._documents():
            name = item["metadata"]["name"]
            if item["kind"] == "Namespace":
                if name in self.cluster.namespaces:
                    raise Refusal(f'Error from server (AlreadyExists): namespaces "{name}"')
                self.cluster.namespaces[name] = item["metadata"].get("labels", {})
            else:
                self.cluster.pods[self.stage_name(), name] = item
            self.say(f"{item['kind'].lower()}/{name} created")

    def _documents(self) -> list[Document]:
        return [item for item in yaml.load_all(self.call.stdin, yaml.CSafeLoader) if item]

    def apply(self) -> None:
        if self.stage_name() not in self.cluster.namespaces:
            raise Refusal(f'Error from server (NotFound): namespaces "{self.stage_name()}"')
        if "dry-run" not in self.options:
            for item in self._documents():
                self._apply(item)
        super().apply()

    def _apply(self, item: Document) -> None:
        stage = self.cluster.config["stages"].setdefault(self.stage_name(), {"settings": {}})
        if item["kind"] == "NetworkPolicy":
            self.cluster.policies.setdefault(self.stage_name(), []).append(item)
        elif item["kind"] == "Secret" and "api-keys" in item["stringData"]:
            keys = item["stringData"]["api-keys"]
            stage["settings"] |= {"SERVICE_API_KEYS": keys, "SERVICE_WORKERS": "1"}
        elif item["kind"] in ("Deployment", "Rollout"):
            if "analysis" in json.dumps(item["spec"]["strategy"]):
                self.cluster.judged.add(self.stage_name())
            until(lambda: "port" in stage)  # the pods listen on the one that is forwarded
        elif item["kind"] == "Pod":
            self.cluster.pods[self.stage_name(), item["metadata"]["name"]] = item

    def delete(self) -> None:
        if self.words[1] != "namespaces":
            self.cluster.pods.pop((self.stage_name(), self.words[1].partition("/")[2]), None)
            return
        for name in self._selected():
            if not self.cluster.stays:
                del self.cluster.namespaces[name]
            if name in self.cluster.stages:
                self.cluster.stages.pop(name).stop()
            self.say(f'namespace "{name}" deleted')

    def _selected(self) -> list[str]:
        key, _, value = self.options["selector"].partition("=")
        assert key and value, "every namespace would be deleted"
        return [name for name, it in self.cluster.namespaces.items() if it.get(key) == value]

    def get(self) -> None:
        kind, _, name = self.words[1].partition("/")
        if kind == "namespaces":
            self._list([{"metadata": {"name": name}} for name in self._selected()])
        elif kind == "namespace":
            if name in self.cluster.namespaces:
                self.say(json.dumps({"metadata": {"labels": self.cluster.namespaces[name]}}))
        elif kind == "pod":
            if found := self.cluster.pods.get((self.stage_name(), name)):
                stays = name == "listener"
                status = {"phase": "Running", "podIP": "10.0.0.7"} if stays else ENDED
                self.say(json.dumps(found | {"status": self.cluster.pod_status or status}))
        else:
            super().get()

    def _get_rollouts(self) -> Document:
        """A new template is judged by what the pods of the old one and its own are asked."""
        judged = self.stage_name() in self.cluster.judged and len(self.stage.state["revisions"]) > 1
        asked = (self.stage_name(), "traffic") in self.cluster.pods
        self.cluster.config["canary"] = "fails" if judged and not asked else ""
        return super()._get_rollouts()

    def _list(self, items: list[Document]) -> None:
        self.say(json.dumps({"items": items}))

    def _get_pods(self) -> Document:
        pod = read_pod(self.stage.folder)
        found = super()._get_pods()
        for item in found["items"]:
            item["metadata"] = {"name": f"landcover-{pod['pid'] if pod else 'none'}"}
        return found

    def logs(self) -> None:
        name = self.words[1].partition("/")[2]
        self.say("open" if self._connects(self.cluster.pods[self.stage_name(), name]) else "closed")

    def _connects(self, pod: Document) -> bool:
        """Whether the target of a pod's program can be reached."""
        if not self.cluster.enforces:
            return True
        labels = pod["metadata"]["labels"].items()
        for policy in self.cluster.policies.get(self.stage_name(), []):
            spec = policy["spec"]
            chosen = spec["podSelector"].get("matchLabels", {}).items() <= labels
            if chosen and "Egress" in spec["policyTypes"] and "egress" not in spec:
                return False
        target = pod["spec"]["containers"][0]["command"][3:]
        return not target[0].endswith(".svc") or self._is_let_in(target[0].split(".")[1])

    def _is_let_in(self, namespace: str) -> bool:
        (policy,) = self.cluster.policies[namespace][-1:]
        (source,) = policy["spec"]["ingress"][0]["from"]
        (rule,) = source["namespaceSelector"]["matchExpressions"]
        return self.cluster.leaks or self.stage_name() in rule["values"]

    def patch(self) -> None:
        change: Any = json.loads(self.options["patch"])
        if "data" not in change or None in change["data"].values():
            super().patch()
            return
        for key, value in change["data"].items():
            (self.stage.folder / "releases" / key).mkdir(parents=True, exist_ok=True)
            (self.stage.folder / "releases" / key / "wanted.json").write_text(value)
