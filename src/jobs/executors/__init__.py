"""Executors: engines behind one interface. Each is a module here that can be deleted."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from importlib import import_module, util
from pathlib import Path
from typing import NamedTuple, Protocol

from jobs.errors import Refused
from jobs.record import Job, Outcome
from jobs.request import Request
from jobs.settings import Settings
from jobs.store import Store

KNOWN = {
    "local": "this machine, one job after the other",
    "slurm": "a cluster with Slurm, over a file system that its nodes share",
    "kubernetes": "a cluster with Kubernetes, queues by Kueue",
    "gitlab": "runners of GitLab",
}
"""Module -> what it is. The class in it is called Executor."""


class Phase(StrEnum):
    """What an engine says of an attempt."""

    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"


class Seen(NamedTuple):
    """An attempt, as its engine sees it now."""

    phase: Phase
    reason: str = ""
    """Why it waits, or where it runs."""
    outcome: Outcome | None = None
    """Of one that has ended. An attempt that is nowhere to be found has ended: infrastructure."""


class Executor(Protocol):
    """An engine. Calls may be repeated: the runner can be killed between any two lines.

    Every method may raise EngineAway; then nothing changes, and the runner asks again. The class
    is made by `Executor(settings, store)`, which reads `settings.of(name, OwnSettings)`.
    """

    interval: float
    """Seconds between two looks at the engine."""

    def check(self, request: Request) -> None:
        """Refuse what can never run there. Raises Refused."""

    def room(self, active: int) -> int:
        """How many attempts may be handed over now, while it has `active` of them."""

    def launch(self, job: Job) -> str:
        """Hand the newest attempt over; returns its handle, which `look` and `cancel` find in job.

        An attempt that the engine already has, by `job.attempt_id`, is not handed over twice.
        Raises Refused: the engine will never take it.
        """

    def look(self, jobs: Sequence[Job]) -> Mapping[str, Seen]:
        """What the engine says of the newest attempts of these jobs, by id of the job."""

    def cancel(self, job: Job, *, kill: bool) -> None:
        """End the newest attempt; `kill` without asking its processes. `look` says when it has."""

    def collect(self, job: Job, log: Path) -> None:
        """Bring `log` up to date where the engine does not write it itself, and, of a job that has
        ended, delete what the engine still keeps of it."""


def executor(name: str, settings: Settings, store: Store) -> Executor:
    """The executor with this name.

    Raises:
        Refused: there is none here, or its settings are missing.
    """
    if name not in KNOWN or util.find_spec(f"{__name__}.{name}") is None:
        there = [known for known in KNOWN if util.find_spec(f"{__name__}.{known}")]
        raise Refused(f"executor: {name!r} is not one here: use {', '.join(there)}")
    made: Executor = import_module(f"{__name__}.{name}").Executor(settings, store)
    return made
