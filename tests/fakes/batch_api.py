"""A fake of the Kubernetes API for Jobs: batch/v1, TrainJobs, pods with logs, Kueue's Workloads.

True to the original: paths, lists with labels and fields, Status bodies, 409 for a name that is
there, 401 for another token, 403 for a verb that is not allowed, 422 for a name or a label that is
not one (with the words of apimachinery's validation), 429 with Retry-After, 404; deletion in the
foreground, which leaves the object with a deletionTimestamp until its pods are gone; logs by
`timestamps`, `sinceTime` (whole seconds) and `tailLines`, 400 before the container has started, 404
for a pod that is gone. Conditions, reasons and messages are those of Kubernetes 1.36, Kueue 0.15.
A pod that a test runs is the container's command in a process here, with its variables and HOME in
a folder. Left out: controllers (a test says what they do), watches, versions of objects, admission,
defaults and most of the validation: tests hold the manifests against the schemas instead.
"""

import json
import os
import re
import signal
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.fakes import http
from tests.fakes.kubernetes import status

Document = dict[str, Any]
NAMESPACE = "training"
PATH = re.compile(
    r"/(?:api/v1|apis/[\w.-]+/\w+)/namespaces/(?P<namespace>[^/]+)/(?P<plural>\w+)"
    r"(?:/(?P<name>[^/]+)(?:/(?P<sub>log))?)?"
)
LABEL = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
DNS = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
REASONS = {400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound"}
REASONS |= {409: "AlreadyExists", 422: "Invalid", 429: "TooManyRequests", 503: "ServiceUnavailable"}


class Pod:
    """A pod, and the process that is its container."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.lines: list[str] = []
        self.process: subprocess.Popen[str] | None = None
        self.copier: threading.Thread | None = None

    def write(self, text: str, at: datetime | None = None) -> None:
        """Add a line to its log."""
        stamp = (at or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
        self.lines.append(f"{stamp} {text}\n")


class FakeCluster:
    """The state of one namespace, which tests look into and disturb."""

    def __init__(self) -> None:
        self.url = ""
        self.objects: dict[tuple[str, str], Document] = {}  # plural, name
        self.pods: dict[str, Pod] = {}
        self.token = ""  # the only one that is taken; empty: no credentials are asked for
        self.has_kueue = True
        self.forbidden: set[tuple[str, str]] = set()  # method, plural
        self.broken: tuple[int, Document] | None = None  # of every answer
        self.retry_after = ""
        self.stays = False  # pods outlive the deletion of their owner
        self.requests: list[tuple[str, str]] = []
        self.lock = threading.RLock()
        self._number = 0

    def named(self, name: str, plural: str = "jobs") -> Document:
        """An object."""
        return self.objects[plural, name]

    def start_pod(self, name: str, plural: str = "jobs", **fields: Any) -> Pod:
        """Do what the Job controller does: a pod of the template, which waits for a node."""
        with self.lock:
            owner = self.named(name, plural)
            owner["spec"]["suspend"] = False
            spec = owner["spec"].get("template", {"metadata": {}, "spec": {}})
            self._number += 1
            pod = f"{name}-{self._number:05d}"
            labels = {**owner["metadata"]["labels"], **spec["metadata"].get("labels", {})}
            labels.pop("kueue.x-k8s.io/queue-name", None)
            metadata = self._metadata(pod, labels)
            metadata["ownerReferences"] = [{"uid": owner["metadata"]["uid"]}]
            document = {"kind": "Pod", "metadata": metadata, "spec": dict(spec["spec"])}
            document["status"] = {"phase": "Pending", **fields}
            self.pods[pod] = Pod(document)
            return self.pods[pod]

    def run_pod(self, name: str, home: Path, **variables: str) -> Pod:
        """Do what a kubelet does: run the container's command, with its variables."""
        pod = self.start_pod(name)
        container = pod.document["spec"]["containers"][0]
        given = {row["name"]: row["value"].replace("$$(", "$(") for row in container["env"]}
        environment = {**os.environ, **given, "HOME": str(home), **variables}
        pod.document["spec"]["nodeName"] = "node-1"
        pod.document["status"] = {"phase": "Running"}
        pod.process = subprocess.Popen(
            container["command"],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        pod.copier = threading.Thread(target=self._follow, args=(name, pod))
        pod.copier.start()
        return pod

    def _follow(self, name: str, pod: Pod) -> None:
        assert pod.process and pod.process.stdout
        with pod.process.stdout as output:
            for line in output:
                with self.lock:
                    pod.write(line.rstrip("\n"))
        code = pod.process.wait()
        with self.lock:
            self.end(name, pod, code if code >= 0 else 128 - code)

    def end(self, name: str, pod: Pod, code: int, why: str = "", **fields: Any) -> None:
        """Let the container end; the Job controller marks the Job."""
        with self.lock:
            words = why or ("Completed" if code == 0 else "Error")
            last = [line.partition(" ")[2] for line in pod.lines[-5:]]
            ended = {"exitCode": code, "reason": words, "message": "".join(last)}
            pod.document["status"] = {
                "phase": "Succeeded" if code == 0 else "Failed",
                "containerStatuses": [{"name": "node", "state": {"terminated": ended}}],
                **fields,
            }
            if code == 0:
                self.mark(name, "Complete", "CompletionsReached", "Reached expected completions")
            else:
                reached = "Job has reached the specified backoff limit"
                self.mark(name, "Failed", "BackoffLimitExceeded", reached)

    def mark(
        self,
        name: str,
        kind: str,
        reason: str,
        message: str,
        value: str = "True",
        plural: str = "jobs",
    ) -> None:
        """Set a condition of an object."""
        row = {"type": kind, "status": value, "reason": reason, "message": message}
        with self.lock:
            if (plural, name) in self.objects:
                rows = (
                    self.named(name, plural).setdefault("status", {}).setdefault("conditions", [])
                )
                rows[:] = [old for old in rows if old["type"] != kind] + [row]

    def workload(self, name: str, plural: str = "jobs") -> str:
        """Do what Kueue does when it has seen an object; returns the name of its Workload."""
        owner = self.named(name, plural)
        made = f"job-{name}-19797"
        metadata = self._metadata(made, {})
        metadata["ownerReferences"] = [{"uid": owner["metadata"]["uid"]}]
        self.objects["workloads", made] = {"kind": "Workload", "metadata": metadata, "spec": {}}
        return made

    def _metadata(self, name: str, labels: Document) -> Document:
        self._number += 1
        stamp = f"2026-11-30T06:{self._number // 60:02d}:{self._number % 60:02d}Z"
        found = {"name": name, "namespace": NAMESPACE, "uid": f"uid-{self._number}"}
        return {**found, "labels": labels, "creationTimestamp": stamp}

    def answer(
        self, method: str, plural: str, name: str, query: Document, body: Document
    ) -> tuple[int, Document]:
        """Handle a request that is allowed."""
        if method == "POST":
            return self._create(plural, body)
        rows = (
            self.objects
            if plural != "pods"
            else {("pods", n): p.document for n, p in self.pods.items()}
        )
        if not name:
            items = [row for (kind, _), row in rows.items() if kind == plural]
            chosen = [row for row in items if _matches(row, query)]
            return 200, {"kind": "List", "items": chosen}
        if (plural, name) not in rows:
            return failure(404, f'{plural} "{name}" not found')
        if method == "DELETE":
            self._delete(plural, name, body)
        return 200, rows.get((plural, name), {"kind": "Status", "status": "Success"})

    def _create(self, plural: str, body: Document) -> tuple[int, Document]:
        name, labels = body["metadata"]["name"], body["metadata"].get("labels", {})
        if (plural, name) in self.objects:
            return failure(409, f'{plural}.batch "{name}" already exists')
        wrong = [
            value for value in labels.values() if not LABEL.fullmatch(value) or len(value) > 63
        ]
        if wrong or not DNS.fullmatch(name) or len(name) > 63:
            what = f'metadata.labels: Invalid value: "{wrong[0]}"' if wrong else "metadata.name"
            return failure(422, f'Job.batch "{name}" is invalid: {what}: a valid label must be')
        metadata = {**self._metadata(name, labels), **body["metadata"]}
        self.objects[plural, name] = {**body, "metadata": metadata}
        return 201, self.objects[plural, name]

    def _delete(self, plural: str, name: str, options: Document) -> None:
        if plural == "pods":
            self._kill(self.pods[name], options.get("gracePeriodSeconds") == 0)
            return
        row = self.objects[plural, name]
        uid = row["metadata"]["uid"]
        mine = [pod for pod in self.pods.values() if _owner(pod.document) == uid]
        row["metadata"]["deletionTimestamp"] = "2026-11-30T06:59:59Z"
        assert options["propagationPolicy"] == "Foreground"
        for pod in mine:
            if not self.stays:
                self._kill(pod, False)
        self.settle()

    def _kill(self, pod: Pod, at_once: bool) -> None:
        if pod.process and pod.process.poll() is None:
            os.killpg(pod.process.pid, signal.SIGKILL if at_once else signal.SIGTERM)
        else:
            self.pods.pop(pod.document["metadata"]["name"], None)

    def settle(self) -> None:
        """Do what the garbage collector does: what is deleted goes when its pods are gone."""
        for key, row in list(self.objects.items()):
            if row["metadata"].get("deletionTimestamp"):
                uid = row["metadata"]["uid"]
                for name, pod in list(self.pods.items()):
                    if (
                        _owner(pod.document) == uid
                        and pod.process
                        and pod.process.poll() is not None
                    ):
                        del self.pods[name]
                if not any(_owner(pod.document) == uid for pod in self.pods.values()):
                    del self.objects[key]

    def log(self, name: str, query: Document) -> tuple[int, str]:
        """The log of a pod."""
        if name not in self.pods:
            return 404, ""
        pod = self.pods[name]
        if pod.document["status"]["phase"] == "Pending":
            return 400, f'container "node" in pod "{name}" is waiting to start: ContainerCreating'
        lines = pod.lines
        if since := query.get("sinceTime"):
            lines = [line for line in lines if line[:19] >= since[:19]]
        if tail := query.get("tailLines"):
            lines = lines[-int(tail) :]
        if query.get("timestamps") != "true":
            lines = [line.partition(" ")[2] for line in lines]
        return 200, "".join(lines)


def failure(code: int, message: str) -> tuple[int, Document]:
    """A Status."""
    return code, {**status(code, REASONS[code])[1], "message": message}


def _owner(document: Document) -> str:
    return str(document["metadata"]["ownerReferences"][0]["uid"])


def _matches(row: Document, query: Document) -> bool:
    labels = row["metadata"].get("labels", {})
    wanted = dict(part.split("=") for part in query.get("labelSelector", "").split(",") if part)
    fields = dict(part.split("=") for part in query.get("fieldSelector", "").split(",") if part)
    has = {"involvedObject.name": row.get("involvedObject", {}).get("name")}
    has |= {"reason": row.get("reason")}
    return wanted.items() <= labels.items() and fields.items() <= has.items()


class Handler(http.Handler[FakeCluster]):
    """Looks at rights and faults, then lets the state answer."""

    def handle_any(self) -> None:
        api, address = self.state, urlsplit(self.path)
        body = self.content()
        query = dict(parse_qsl(address.query))
        with api.lock:
            api.requests.append((self.command, address.path))
            api.settle()
            if api.token and self.headers.get("Authorization") != f"Bearer {api.token}":
                return self.document(*failure(401, "Unauthorized"))
            if api.broken:
                headers = {"Retry-After": api.retry_after} if api.retry_after else {}
                return self.document(*api.broken, headers)
            if address.path == "/apis/kueue.x-k8s.io":
                group = {"kind": "APIGroup", "preferredVersion": {}}
                group["preferredVersion"] = {"groupVersion": "kueue.x-k8s.io/v1beta2"}
                return self.document(*((200, group) if api.has_kueue else failure(404, "none")))
            found = PATH.fullmatch(address.path)
            if not found or found["namespace"] != NAMESPACE:
                return self.reply(404, b"404 page not found")
            if (self.command, found["plural"]) in api.forbidden:
                verb = {"POST": "create", "GET": "list", "DELETE": "delete"}[self.command]
                said = f'{found["plural"]} is forbidden: User "ana" cannot {verb} resource'
                return self.document(*failure(403, said))
            if found["sub"]:
                code, text = api.log(found["name"], query)
                return self.reply(code, text.encode(), "text/plain")
            document = json.loads(body) if body else {}
            name = found["name"] or ""
            self.document(*api.answer(self.command, found["plural"], name, query, document))

    do_GET = do_POST = do_DELETE = handle_any

    def document(
        self, code: int, document: Document, headers: dict[str, str] | None = None
    ) -> None:
        self.reply(code, json.dumps(document).encode(), headers=headers)


@contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[FakeCluster]:
    """Run the fake in a thread, with TLS if a context is given; it kills what runs in the end."""
    api = FakeCluster()
    with http.serving(Handler, api, context) as api.url:
        try:
            yield api
        finally:
            for pod in list(api.pods.values()):
                if pod.process and pod.process.poll() is None:
                    os.killpg(pod.process.pid, signal.SIGKILL)
                if pod.copier:
                    pod.copier.join(10)
