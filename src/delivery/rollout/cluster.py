"""One namespace of a cluster, through kubectl: its state, and the few changes that a rollout makes.

Arguments are lists, and every value follows a `=` or is part of a document on stdin, so that no
value is read as an option or by a shell.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from delivery.errors import RolloutError, ToolError, explain
from delivery.rollout.manifests import NAME_LABEL

SWAPS = "wanted-model"
"""The ConfigMap in which the pods of each release store the tag that they were swapped to."""
SHORT = 60  # seconds for a call that does not wait for the cluster
SPARE = 30  # seconds that kubectl gets beyond its own time limit
CURES = {
    "no configuration has been provided|localhost:8080|context .* does not exist|no context": (
        "name one of `kubectl config get-contexts`, in KUBE_CONTEXT or CONTEXT; a job has those of "
        "the cluster's agents (docs/gitlab-setup.md, step 6)"
    ),
    "ErrImagePull|ImagePullBackOff|InvalidImageName": (
        "let the nodes pull it: compare the registry's name, and the secret ...-registry of the "
        "namespace (docs/kubernetes.md)"
    ),
    "Unschedulable|nodes are available": (
        "add a node or free one, or lower the requests or replicas.least of the overlay"
    ),
    "Evicted|DiskPressure|low on resource|no space left": (
        "free space on the node, or let it leave the cluster"
    ),
    "exceeded quota|must specify (limits|requests)": (
        "raise the quota of the namespace, or run fewer replicas; one on limits.cpu needs the "
        "component cpu-limit"
    ),
    "violates PodSecurity|security context constraint": (
        "compare the labels of the namespace with k8s/setup/namespaces.yaml; on OpenShift take the "
        "component openshift"
    ),
    "admission webhook|admission plugin|ValidatingAdmissionPolicy|denied the request": (
        "change the overlay as it says, or ask whoever runs this policy of the cluster"
    ),
    "failed calling webhook": (
        "ask whoever runs this webhook: the cluster takes no such object until it answers"
    ),
    "no matches for kind": (
        "install what defines the kind, or take its component out of the overlay"
    ),
    "CreateContainerConfigError|CreateContainerError": (
        "create what it names (docs/kubernetes.md, Install)"
    ),
    "OOMKilled": "raise the limit of memory in the overlay",
    'secrets "?[^ ]*"? is forbidden|resource "secrets"': (
        "name an administrator's context in KUBE_CONTEXT: the pipeline's account writes no secrets"
    ),
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
"""Words in kubectl's errors, or about pods -> what to do. The first match counts."""


class Cluster:
    """kubectl, for one namespace and the model that is served in it."""

    def __init__(self, namespace: str, app: str, context: str = "") -> None:
        """`app` is the model's name. With an empty context, kubectl uses its current one."""
        self.namespace, self.app = namespace, app
        self._where = [f"--namespace={namespace}", *([f"--context={context}"] if context else [])]

    def command(self, *words: str) -> list[str]:
        """The command line of a call."""
        return ["kubectl", *words, *self._where]

    def call(
        self, *words: str, stdin: str | None = None, timeout: float = SHORT, show: bool = False
    ) -> str:
        """Run kubectl; returns its output, or with `show` prints it.

        Raises:
            RolloutError: it failed; the message has its errors.
            ToolError: it is not installed.
        """
        command = self.command(*words)
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
            raise ToolError("kubectl: not found: install kubectl 1.24 or newer") from None
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

    def pod_errors(self, workload: str, selector: str = "") -> str:
        """Why pods do not start, in a few words with the cure; empty if kubectl does not know.

        They are those of the model, or of a selector.
        """
        status = (self.get(workload) or {}).get("status", {})
        conditions = status.get("conditions", [])
        unmade = [
            item.get("message")
            for item in conditions  # no pod was made at all
            if item.get("type") == "ReplicaFailure" and item.get("status") == "True"
        ]
        return self.reasons(selector or f"{NAME_LABEL}={self.app}", unmade)

    def reasons(self, selector: str, others: Sequence[str | None] = ()) -> str:
        """Why the pods of a selector do not run, and other reasons, with the cure."""
        pods = self.get("pods", f"--selector={selector}") or {}
        found = [fact for pod in pods.get("items", []) for fact in _facts(pod.get("status", {}))]
        found += others
        text = "; ".join(dict.fromkeys(filter(None, found)))[:500]
        said = "; ".join(dict.fromkeys(_last_words(pods.get("items", []))))[:500]
        if said:  # by the service itself, with the cure
            return f"{text}: {said}" if text else said
        return explain(text, CURES) if text else ""

    def _swaps(self) -> dict[str, str]:
        return dict((self.get(f"configmap/{SWAPS}") or {}).get("data") or {})


def _facts(status: dict[str, Any]) -> Iterator[str | None]:
    """Reasons in the status of a pod: gone from its node, on no node, or its container waits."""
    if status.get("reason"):
        yield from (status["reason"], status.get("message"))
    for condition in status.get("conditions", []):
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            yield from (condition.get("reason"), condition.get("message"))
    for container in status.get("containerStatuses", []):
        waiting = container.get("state", {}).get("waiting") or {}
        ended = container.get("lastState", {}).get("terminated") or {}
        yield from (waiting.get("reason"), waiting.get("message"), ended.get("reason"))


def _last_words(pods: list[Any]) -> Iterator[str]:
    """The last line of each container that ended: FallbackToLogsOnError keeps it in the status."""
    for pod in pods:
        for container in pod.get("status", {}).get("containerStatuses", []):
            ended = container.get("lastState", {}).get("terminated") or {}
            if lines := str(ended.get("message") or "").strip().splitlines():
                yield lines[-1]
