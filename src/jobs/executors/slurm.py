"""Slurm: a cluster whose nodes share the folder of the jobs and the repository.

Slurm keeps the queue, its reasons and limits, and starts a job again whose node has died. Its
commands get words, never text that a shell reads. A job of ours is found by its name, so that one
handed over twice is there once.
"""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from jobs import attempts
from jobs.errors import EngineAway, Refused, of_disk
from jobs.executors import Phase, Seen
from jobs.record import Job, Outcome
from jobs.request import Cause, Part, Request
from jobs.settings import Settings
from jobs.store import Store

PREFIX = "conveyor-"
SCRIPT = '#!/bin/sh\nexec "$@"\n'
SECONDS = 15.0  # for one command; without its controller Slurm waits and tries again
CHECK_SECONDS = 5.0  # for the one that a person waits for
AWAY = (
    "Unable to contact",
    "Connection refused",
    "timed out",
    "Communication",
    "slurmdbd",
    "munge",
)
"""Words in the errors of its commands when Slurm itself does not answer."""
WAITS = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD")
RUNS = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")
HELD = "launch failed"
"""Reason of a job that Slurm has put back, and starts no more until an administrator lets it."""
CAUSES = {
    "OUT_OF_MEMORY": Cause.OUT_OF_MEMORY,
    "TIMEOUT": Cause.TIMED_OUT,
    "DEADLINE": Cause.TIMED_OUT,
    "NODE_FAIL": Cause.INFRASTRUCTURE,
    "BOOT_FAIL": Cause.INFRASTRUCTURE,
    "PREEMPTED": Cause.INFRASTRUCTURE,
    "REVOKED": Cause.INFRASTRUCTURE,
}
"""State at Slurm -> cause, of an attempt that has written no outcome."""
LOWEST = 1000  # the least priority of a request; only administrators may use a nice below 0


class SlurmSettings(Part):
    """The section `slurm`."""

    arguments: tuple[str, ...] = ()
    """Of sbatch, as --account=lab."""


class _Row(NamedTuple):
    """A line of squeue."""

    handle: str
    state: str
    reason: str
    nodes: str
    name: str


class Executor:
    """Hands attempts to sbatch, and asks squeue for them."""

    interval = 1.0

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._own = settings.of("slurm", SlurmSettings)
        self._store = store

    def check(self, request: Request) -> None:
        """Let Slurm itself judge: partition, memory, GPUs, nodes."""
        if shutil.which("sbatch") is None:
            raise Refused("executor: slurm needs its commands here: apt-get install slurm-client")
        with suppress(EngineAway):  # it queues here until Slurm is back
            self._sbatch(self._resources(request), "--test-only", seconds=CHECK_SECONDS)

    def room(self, active: int) -> int:
        """All of them: the queue is Slurm's."""
        return 10**6

    def launch(self, job: Job) -> str:
        """Submit the attempt, unless Slurm has it."""
        name = PREFIX + job.attempt_id
        if found := [row.handle for row in self._rows() if row.name == name]:
            return found[0]
        command = attempts.written(job, self._settings, self._store)
        log = str(self._store.log(job)).replace("%", "%%")
        words = (
            *(f"--job-name={name}", f"--output={log}", "--open-mode=append", "--requeue"),
            *(f"--chdir={self._store.root}", f"--nice={LOWEST - job.current.priority}"),
        )
        said = self._sbatch((*words, *self._resources(job.current)), "--parsable", *command)
        return said.strip().partition(";")[0]

    def look(self, jobs: Sequence[Job]) -> Mapping[str, Seen]:
        """One squeue for all; a job that it has forgotten is judged by its outcome alone."""
        rows = {row.name: row for row in self._rows()}
        return {job.id: self._seen(job, rows.get(PREFIX + job.attempt_id)) for job in jobs}

    def cancel(self, job: Job, *, kill: bool) -> None:
        """Take it from the queue, or ask the attempt to end all that it started."""
        if kill:
            _run("scancel", job.handle)
            return
        _run("scancel", "--state=PENDING", job.handle)
        with suppress(Refused):  # it has not begun
            _run("scancel", "--full", "--signal=TERM", job.handle)

    def collect(self, job: Job, log: Path) -> None:
        """Nothing: Slurm writes the log there."""

    def _seen(self, job: Job, row: _Row | None) -> Seen:
        if row and row.state in WAITS and HELD in row.reason:
            _run("scancel", row.handle)
            return _lost(f"{row.handle} could not be started on its node, Slurm says")
        if row and row.state in WAITS:
            return Seen(Phase.WAITING, f"waits at Slurm as {row.handle}: {row.reason}")
        if row and row.state in RUNS:
            return Seen(Phase.RUNNING, f"on {row.nodes} as {row.handle}")
        if said := attempts.outcome(job, self._store):
            return Seen(Phase.ENDED, outcome=said)
        if row is None:
            return _lost(f"Slurm has forgotten {job.handle}, and it has left no outcome")
        cause = CAUSES.get(row.state, Cause.BROKEN)
        message = f"Slurm says {row.state} of {row.handle}"
        return Seen(Phase.ENDED, outcome=Outcome(cause=cause, message=message))

    def _resources(self, request: Request) -> tuple[str, ...]:
        wanted = request.resources
        words = [
            f"--nodes={wanted.nodes}",
            "--ntasks-per-node=1",
            f"--cpus-per-task={wanted.cpus}",
            f"--mem={-(-wanted.bytes // 2**20)}M",
            # An attempt ends itself in time, and says so; Slurm is there if it cannot.
            f"--time={-(-wanted.seconds // 60) + 1}",
        ]
        if wanted.gpus:
            words.append(f"--gres=gpu:{wanted.gpus}")
        if request.queue:
            words.append(f"--partition={request.queue}")
        return (*words, *self._own.arguments)

    def _sbatch(
        self, words: tuple[str, ...], option: str, *command: str, seconds: float = SECONDS
    ) -> str:
        script = self._store.folder / "run.sh"
        try:
            if not script.exists():
                script.write_text(SCRIPT, encoding="ascii")
        except OSError as error:
            raise of_disk(error) from None
        return _run("sbatch", option, *words, str(script), *command, seconds=seconds)

    def _rows(self) -> list[_Row]:
        form = "--format=%i|%T|%r|%N|%j"
        said = _run("squeue", "--noheader", "--states=all", "--me", form)
        rows = (line.split("|", 4) for line in said.splitlines())
        return [_Row(*row) for row in rows if len(row) == 5 and row[4].startswith(PREFIX)]


def _lost(message: str) -> Seen:
    return Seen(Phase.ENDED, outcome=Outcome(cause=Cause.INFRASTRUCTURE, message=message))


def _run(*words: str, seconds: float = SECONDS) -> str:
    """Run a command of Slurm; returns what it prints. Raises EngineAway, Refused."""
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise EngineAway(f"{words[0]} has waited {seconds:g} s") from None
    except FileNotFoundError:
        raise EngineAway(f"{words[0]} is not installed here") from None
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["no reason"]
        if any(sign in done.stderr for sign in AWAY):
            raise EngineAway(lines[-1])
        raise Refused(f"Slurm: {lines[-1].partition('error: ')[2] or lines[-1]}")
    return done.stdout
