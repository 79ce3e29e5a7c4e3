"""Jobs as text: the table, the details of one, and logs that follow."""

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from jobs.record import Job
from jobs.store import Store

LOOK_SECONDS = 0.2
WIDTH = 70  # letters of a reason in the table


def table(jobs: Sequence[Job]) -> str:
    """One line a job."""
    rows = [("job", "state", "priority", "executor", "commit", "since", "why")]
    for job in jobs:
        since = _time(job.history[-1].at) if job.history else ""
        state = "cancelling" if job.cancelling else str(job.state)
        rows.append(
            (
                *(job.id, state, str(job.current.priority), job.current.executor),
                *(job.commit[:8], since, job.reason[:WIDTH]),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


def details(job: Job, store: Store) -> str:
    """All that a person wants to know of a job."""
    resources = job.current.resources
    lines = [
        f"{job.id}: {job.state}",
        f"why        {job.reason}",
        f"commit     {job.commit}",
        f"executor   {job.current.executor} {job.current.queue}".rstrip(),
        f"resources  {resources.cpus} CPUs, {resources.memory}, {resources.gpus} GPUs, "
        f"{resources.nodes} nodes, {resources.time}",
    ]
    lines += [f"parameter  {name} = {value}" for name, value in job.current.parameters.items()]
    if job.outcome and job.outcome.commit:
        lines.append(f"result     {job.outcome.ref} {job.outcome.commit}")
        lines += [f"metric     {name} = {value:g}" for name, value in job.outcome.metrics.items()]
    lines.append(f"log        {store.log(job)}")
    lines += [f"{_time(event.at)}  {event.state}: {event.reason}" for event in job.history]
    return "\n".join(lines)


def followed(store: Store, name: str, follow: bool) -> Iterator[bytes]:
    """The log of a job, and with `follow` what is added to it until the job has ended."""
    job = store.find(name)
    at = 0
    while True:
        over = not follow or store.find(job.id).has_ended
        try:
            with store.log(job).open("rb") as log:
                log.seek(at)
                while part := log.read(2**16):
                    at += len(part)
                    yield part
        except FileNotFoundError:
            pass  # it has not begun
        if over:
            return
        time.sleep(LOOK_SECONDS)


def _time(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).astimezone().strftime("%m-%d %H:%M:%S")
