"""This machine: one attempt after the other, in a process that outlives the runner."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import Field

from contracts.files import is_alive
from jobs import attempts, processes
from jobs.errors import Refused
from jobs.executors import Phase, Seen
from jobs.record import Job, Outcome
from jobs.request import Cause, Part, Request
from jobs.settings import Settings
from jobs.store import Store

STARTS = 3  # of the process of one attempt, before this machine is to blame
NOBODY = "0 none"
"""The claim of a process that never was."""


class LocalSettings(Part):
    """The section `local`."""

    slots: int = Field(default=1, ge=1, le=64)
    """Attempts at the same time."""


class Executor:
    """Starts `python -m jobs.attempt`, which claims the attempt: started twice, it runs once."""

    interval = 0.1

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._own = settings.of("local", LocalSettings)
        self._store = store
        self._started: dict[str, list[subprocess.Popen[bytes]]] = {}

    def check(self, request: Request) -> None:
        """Refuse more than this machine has."""
        wanted = request.resources
        if wanted.nodes > 1:
            raise Refused(f"resources.nodes: {wanted.nodes}, and executor local is one machine")
        if wanted.cpus > (there := len(os.sched_getaffinity(0))):
            raise Refused(f"resources.cpus: {wanted.cpus}, and this machine has {there}")
        if wanted.bytes > (total := os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")):
            has = f"{total / 1e9:.1f}GB"
            raise Refused(f"resources.memory: {wanted.memory}, and this machine has {has}")
        if wanted.gpus > (cards := len(list(Path("/dev").glob("nvidia[0-9]*")))):
            raise Refused(f"resources.gpus: {wanted.gpus}, and this machine has {cards}")

    def room(self, active: int) -> int:
        """One after the other, or as many as `slots` says."""
        return self._own.slots - active

    def launch(self, job: Job) -> str:
        """Start the process of the attempt."""
        words = attempts.written(job, self._settings, self._store)
        with self._store.log(job).open("ab") as log:
            process = subprocess.Popen(
                words,
                cwd=self._store.root,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started.setdefault(job.attempt_id, []).append(process)
        return "this machine"

    def look(self, jobs: Sequence[Job]) -> Mapping[str, Seen]:
        """By the claim of each attempt: number and birth of the process that runs it."""
        return {job.id: self._look(job) for job in jobs}

    def cancel(self, job: Job, *, kill: bool) -> None:
        """Ask the attempt to end all that it started, or kill all that has its mark."""
        claim = attempts.claim(job, self._store)
        with suppress(FileExistsError), claim.open("x", encoding="ascii") as file:
            file.write(NOBODY)  # it has not begun, and now never will
        pid, born = _read(claim)
        if is_alive(pid, born):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if kill else signal.SIGTERM)
        if kill:
            processes.end(str(claim), 0)

    def collect(self, job: Job, log: Path) -> None:
        """Nothing: attempts write their logs there."""

    def _look(self, job: Job) -> Seen:
        claim = attempts.claim(job, self._store)
        started = self._started.get(job.attempt_id, [])
        alive = [process for process in started if process.poll() is None]
        if not claim.exists():
            if not alive and len(started) >= STARTS:
                return Seen(Phase.ENDED, outcome=_lost("it cannot be started here: see its log"))
            if not alive:  # the runner that started it is gone; perhaps it never came to it
                self.launch(job)
            return Seen(Phase.WAITING, "it is being started")
        if is_alive(*_read(claim)):
            return Seen(Phase.RUNNING, f"on this machine since attempt {job.attempt}")
        processes.end(str(claim), 0)
        self._started.pop(job.attempt_id, None)
        said = attempts.outcome(job, self._store)
        return Seen(Phase.ENDED, outcome=said or _lost("it was killed, or this machine stopped"))


def _read(claim: Path) -> tuple[int, str]:
    pid, _, born = claim.read_text(encoding="ascii").partition(" ")
    return int(pid), born


def _lost(message: str) -> Outcome:
    return Outcome(cause=Cause.INFRASTRUCTURE, message=message)
