"""What the cluster says of an attempt: its object, the newest pod, and Kueue's Workload."""

from typing import Any, NamedTuple

from jobs.executors import Phase, Seen
from jobs.executors.kubernetes.objects import NOT_CLONED, QUEUE
from jobs.record import Outcome
from jobs.request import Cause

Document = dict[str, Any]
TEXT = 300  # letters of a message
KILLED = (137, 143)  # exit codes of SIGKILL and SIGTERM


class Found(NamedTuple):
    """Everything that the cluster has of an attempt."""

    object: Document
    pod: Document | None = None
    """That of rank 0, the newest one."""
    failed: Document | None = None
    """One that has failed, of any rank."""
    workload: Document | None = None
    said: Outcome | None = None
    """The outcome in the log of rank 0."""
    refused: str = ""
    """Why the cluster creates no pod."""


def seen(found: Found) -> Seen:
    """Where an attempt stands."""
    at = f"in the cluster as {found.object['metadata']['name']}"
    running = found.pod is not None and found.pod["status"].get("phase") == "Running"
    if found.object["metadata"].get("deletionTimestamp"):
        return Seen(Phase.RUNNING if running else Phase.WAITING, f"{at}: it is being ended")
    if condition(found.object, "Complete"):
        return Seen(Phase.ENDED, outcome=found.said or Outcome(exit_code=0))
    if failed := condition(found.object, "Failed"):
        return Seen(Phase.ENDED, outcome=_why(found, failed))
    if found.object["spec"].get("suspend"):
        return Seen(Phase.WAITING, _of_queue(found))
    if running and found.pod:
        node = found.pod["spec"].get("nodeName", "a node")
        return Seen(Phase.RUNNING, f"on {node} {at}")
    return Seen(Phase.WAITING, f"{at}: {_of_pod(found)}")


def condition(document: Document, kind: str, status: str = "True") -> Document | None:
    """A condition that has a status."""
    rows: list[Document] = document.get("status", {}).get("conditions") or []
    wanted = (kind, status)
    return next((row for row in rows if (row.get("type"), row.get("status")) == wanted), None)


def _of_queue(found: Found) -> str:
    """Why Kueue, or a person, keeps it suspended."""
    queue = found.object["metadata"].get("labels", {}).get(QUEUE)
    if not queue:
        return "it is suspended, and in no queue of Kueue: name one in `queue`"
    if found.workload is None:
        return f"Kueue has not seen it yet (queue {queue}): does this cluster have Kueue?"
    for kind, status in (("QuotaReserved", "False"), ("Evicted", "True"), ("Admitted", "False")):
        if row := condition(found.workload, kind, status):
            return f"waits in queue {queue}: {_text(row)}"
    return f"waits in queue {queue}"


def _of_pod(found: Found) -> str:
    """Why the pod does not run yet."""
    if found.pod is None:
        return found.refused[:TEXT] or "its pod is being created"
    if row := condition(found.pod, "PodScheduled", "False"):
        return _text(row)
    for container in found.pod["status"].get("containerStatuses") or []:
        waiting = container.get("state", {}).get("waiting") or {}
        if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            return _text(waiting)
    return f"its pod is {found.pod['status'].get('phase', 'Pending').lower()}"


def _why(found: Found, failed: Document) -> Outcome:
    """Why an attempt has failed: what the cluster did to a pod counts before what the log says."""
    for pod in filter(None, (found.failed, found.pod)):
        if outcome := _of_cluster(pod):
            return outcome
    if failed.get("reason") == "DeadlineExceeded":
        return Outcome(cause=Cause.TIMED_OUT, message=_text(failed))
    if found.said:
        return found.said
    ended = _terminated(found.failed or found.pod or {"status": {}})
    if not ended:
        return Outcome(cause=Cause.INFRASTRUCTURE, message=f"its pod is gone: {_text(failed)}")
    code = ended.get("exitCode")
    lost = code in (*KILLED, NOT_CLONED)
    what = "the repository was not cloned" if code == NOT_CLONED else f"it ended with {code}"
    last = (str(ended.get("message") or "").strip().splitlines() or ["its log is empty"])[-1]
    cause = Cause.INFRASTRUCTURE if lost else Cause.BROKEN
    return Outcome(cause=cause, message=f"{what}: {last[:TEXT]}", exit_code=code)


def _of_cluster(pod: Document) -> Outcome | None:
    """What the kubelet or the scheduler has done to a pod."""
    status = pod["status"]
    if _terminated(pod).get("reason") == "OOMKilled":
        return Outcome(cause=Cause.OUT_OF_MEMORY, message="OOMKilled: it used more than its memory")
    if status.get("reason") == "DeadlineExceeded":
        return Outcome(cause=Cause.TIMED_OUT, message=_text(status))
    if row := condition(pod, "DisruptionTarget"):
        return Outcome(cause=Cause.INFRASTRUCTURE, message=_text(row))
    if status.get("phase") == "Failed" and status.get("reason"):  # Evicted, Shutdown, OutOfcpu
        return Outcome(cause=Cause.INFRASTRUCTURE, message=_text(status))
    return None


def _terminated(pod: Document) -> Document:
    containers: list[Document] = pod["status"].get("containerStatuses") or []
    states = (container.get("state", {}).get("terminated") for container in containers)
    return next(filter(None, states), {})


def _text(row: Document) -> str:
    """Reason and message, on one line."""
    words = filter(None, (row.get("reason"), row.get("message")))
    return " ".join(": ".join(words).split())[:TEXT]
