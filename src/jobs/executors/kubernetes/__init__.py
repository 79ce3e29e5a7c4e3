"""Kubernetes: an attempt is a Job, or a TrainJob for several nodes; Kueue has the queues.

The cluster keeps the state: it is asked by label, and an object that is there is not created again.
Whatever has ended is deleted there when its outcome and its log are here.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from jobs import attempts
from jobs.errors import Refused
from jobs.executors import Phase, Seen
from jobs.executors.kubernetes import follow
from jobs.executors.kubernetes.api import Api, Document
from jobs.executors.kubernetes.objects import (
    ATTEMPT,
    SELECTOR,
    KubernetesSettings,
    manifest,
    name_of,
    priority_class,
)
from jobs.executors.kubernetes.states import Found, condition, seen
from jobs.record import Job, Outcome, outcome_in
from jobs.repository import RESULTS, Repository
from jobs.request import Request
from jobs.settings import Settings
from jobs.store import Store

KUEUE = "/apis/kueue.x-k8s.io"
RANK = "batch.kubernetes.io/job-completion-index"


class Executor:
    """Creates objects, and asks for all of them at once."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._own = settings.of("kubernetes", KubernetesSettings)
        self.interval = self._own.interval
        self._store = store
        self._api = Api(self._own.api, self._own.credentials, self._own.namespace)
        self._core = f"/api/v1/namespaces/{self._own.namespace}"
        self._pods: dict[str, str] = {}

    def check(self, request: Request) -> None:
        """Refuse what the pods could not fetch, and what no object can say."""
        wanted = request.resources
        priority_class(request.priority, self._own)
        if wanted.nodes > 1 and wanted.processes > 1:
            raise Refused(
                f"resources.processes: {wanted.processes}, and executor kubernetes runs one on "
                "each of several nodes: ask for more nodes"
            )
        if not Repository(self._store.root).is_pushed(request.commit):
            raise Refused(
                f"commit: {request.commit[:12]} is on no branch of a remote, and pods clone it "
                "from there: git push"
            )

    def room(self, active: int) -> int:
        """All of them: the queue is the cluster's."""
        return 10**6

    def launch(self, job: Job) -> str:
        """Create the object of the attempt, unless the cluster has it."""
        attempt = attempts.described(job, self._settings, "")
        attempt.push = "origin"  # of the pod's own clone
        made = self._api.create(self._collection(job), manifest(job, attempt, self._own))
        if made["metadata"].get("labels", {}).get(ATTEMPT) != job.attempt_id:
            raise Refused(f"Kubernetes: {name_of(job)} is there and not ours: delete it")
        return name_of(job)

    def look(self, jobs: Sequence[Job]) -> Mapping[str, Seen]:
        """One list of each kind for all; an outcome is kept here before the cluster forgets it."""
        kept = {job.id: said for job in jobs if (said := attempts.outcome(job, self._store))}
        found = {job_id: Seen(Phase.ENDED, outcome=said) for job_id, said in kept.items()}
        left = [job for job in jobs if job.id not in kept]
        if not left:
            return found
        collections = {self._collection(job) for job in left}
        objects = {_attempt(item): item for path in collections for item in self._listed(path)}
        pods: dict[str, list[Document]] = {}
        for pod in self._listed(f"{self._core}/pods"):
            pods.setdefault(_attempt(pod), []).append(pod)
        workloads = self._workloads() if any(job.current.queue for job in left) else {}
        for job in left:
            mine = sorted(pods.get(job.attempt_id, []), key=_age)
            if (item := objects.get(job.attempt_id)) is None:
                found[job.id] = Seen(Phase.RUNNING, "its pods end") if mine else Seen(Phase.ENDED)
                continue
            found[job.id] = self._seen(job, item, mine, workloads)
        return found

    def cancel(self, job: Job, *, kill: bool) -> None:
        """Delete the object; the cluster ends its pods first, or kills them."""
        self._api.delete(f"{self._collection(job)}/{name_of(job)}")
        if kill:
            for pod in self._listed(f"{self._core}/pods", f"{ATTEMPT}={job.attempt_id}"):
                path = f"{self._core}/pods/{pod['metadata']['name']}"
                self._api.delete(path, gracePeriodSeconds=0)

    def collect(self, job: Job, log: Path) -> None:
        """Bring the log here, and delete what has ended."""
        path = attempts.note(job, self._store)
        note = follow.read_note(path)
        if pod := self._pods.get(job.attempt_id, note.pod):
            since = {"sinceTime": f"{note.second}Z"} if note.pod == pod else {}
            address = f"{self._core}/pods/{pod}/log"
            lines = self._api.text(address, timestamps="true", **since)
            follow.add(lines, pod, note, path, log)
        if attempts.outcome(job, self._store):
            self._api.delete(f"{self._collection(job)}/{name_of(job)}")
            self._pods.pop(job.attempt_id, None)

    def _seen(
        self, job: Job, item: Document, pods: list[Document], workloads: Mapping[str, Document]
    ) -> Seen:
        first = [pod for pod in pods if pod["metadata"]["labels"].get(RANK, "0") == "0"]
        failed = [pod for pod in pods if pod["status"].get("phase") == "Failed"]
        found = Found(
            item,
            first[-1] if first else None,
            failed[-1] if failed else None,
            workloads.get(item["metadata"]["uid"]),
        )
        if found.pod:
            self._pods[job.attempt_id] = str(found.pod["metadata"]["name"])
        if condition(item, "Complete") or condition(item, "Failed"):
            return self._ended(job, found)
        if not pods and not item["spec"].get("suspend"):
            found = found._replace(refused=self._refused(item["metadata"]["name"]))
        return seen(found)

    def _ended(self, job: Job, found: Found) -> Seen:
        """Read the outcome in its log, and keep it here."""
        if found.pod:
            path = f"{self._core}/pods/{found.pod['metadata']['name']}/log"
            found = found._replace(said=outcome_in(self._api.text(path, tailLines="20")))
        result = seen(found)
        outcome = result.outcome or Outcome()
        if outcome.cause is None and not outcome.ref:  # its log is lost, its exit code is not
            outcome.ref = f"{RESULTS}{job.id}"
        outcome.gpus = outcome.gpus or job.current.resources.gpus * job.current.resources.nodes
        attempts.keep(job, self._store, outcome)
        return Seen(Phase.ENDED, outcome=outcome)

    def _collection(self, job: Job) -> str:
        kind = "batch/v1" if job.current.resources.nodes == 1 else "trainer.kubeflow.org/v1alpha1"
        plural = "jobs" if job.current.resources.nodes == 1 else "trainjobs"
        return f"/apis/{kind}/namespaces/{self._own.namespace}/{plural}"

    def _listed(self, path: str, selector: str = SELECTOR) -> list[Document]:
        return self._api.items(path, labelSelector=selector)

    def _workloads(self) -> dict[str, Document]:
        """Kueue's objects, by the uid of what they stand for."""
        group = self._api.find(KUEUE)
        if group is None:
            return {}
        version = group["preferredVersion"]["groupVersion"]
        path = f"/apis/{version}/namespaces/{self._own.namespace}/workloads"
        return {
            owner["uid"]: item
            for item in self._api.items(path)
            for owner in item["metadata"].get("ownerReferences") or []
        }

    def _refused(self, name: str) -> str:
        """Why the cluster creates no pod, such as a quota or a policy."""
        selector = f"involvedObject.name={name},reason=FailedCreate"
        events = self._api.items(f"{self._core}/events", fieldSelector=selector)
        return str(events[-1].get("message", "")) if events else ""


def _attempt(item: Document) -> str:
    return str(item["metadata"].get("labels", {}).get(ATTEMPT, ""))


def _age(pod: Document) -> str:
    return str(pod["metadata"].get("creationTimestamp", ""))
