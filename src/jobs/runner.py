"""The runner: hands jobs to their engines, follows them, and decides what comes after a failure.

One runner at a time holds `runner.lock`. It can be killed between any two lines: everything it
knows is in the records, attempts outlive it, and an attempt is claimed by whoever runs it. It ends
when no job is left; whoever submits starts another.
"""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack

from contracts.files import StillLocked, locked
from jobs import attempts, processes
from jobs.admission import Admission
from jobs.budget import Budget
from jobs.errors import EngineAway, JobsError, Refused
from jobs.executors import Executor, Phase, Seen, executor
from jobs.failure import ValueOf, after, next_rule
from jobs.record import ACTIVE, WAITING, Job, Outcome, State
from jobs.repository import Repository
from jobs.request import Cause, Request, of_time
from jobs.settings import Settings
from jobs.store import Store

LOCK = "runner.lock"
LOG = "runner.log"
PAUSE = 0.1  # seconds between two looks at the records
AWAY = 1.0  # seconds until an engine is asked again that does not answer
log = logging.getLogger(__name__)


def start(store: Store) -> None:
    """Start a runner that outlives this process, unless one runs."""
    try:
        with locked(store.folder / LOCK):
            pass
    except StillLocked:
        return
    with (store.folder / LOG).open("ab") as output:
        # setsid returns at once: the runner is no child of this process, and not of its terminal.
        subprocess.run(
            ("setsid", "--fork", sys.executable, "-m", "jobs", "run"),
            cwd=store.root,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            check=True,
        )


class Runner:
    """Moves jobs on, one step of each a turn."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._admission = Admission(store, settings)
        self._executors: dict[str, Executor] = {}
        self._looked: dict[str, float] = {}
        self._away: dict[str, float] = {}
        self._asked: dict[str, float] = {}
        self._since: dict[str, float] = {}
        self._told: list[subprocess.Popen[bytes]] = []

    def run(self) -> bool:
        """Run until no job is left; False if another runner has the lock."""
        with ExitStack() as held:
            try:
                held.enter_context(locked(self._store.folder / LOCK))
            except StillLocked:
                return False
            while self._store.records.is_dir():  # else somebody has deleted everything
                try:
                    self.turn()
                except JobsError as error:  # such as a full disk: jobs stay as they are
                    log.error("%s", error)
                    time.sleep(1)
                # Under the lock of the records: whoever submits afterwards finds no runner.
                with self._store.locked():
                    jobs = self._store.jobs()
                    self._forget([job for job in jobs if job.has_ended])
                    if all(job.has_ended for job in jobs):
                        held.close()
                        break
                time.sleep(PAUSE)
        for process in self._told:
            process.wait()
        return True

    def turn(self) -> None:
        """One look at everything."""
        open_jobs = [job for job in self._store.jobs() if not job.has_ended]
        for name in {job.current.executor for job in open_jobs}:
            if time.monotonic() < self._away.get(name, 0):
                continue
            mine = [job for job in open_jobs if job.current.executor == name]
            try:
                self._serve(name, self._executor(name), mine)
            except EngineAway as error:
                self._away[name] = time.monotonic() + AWAY
                for job in mine:
                    self._explain(job, f"{name} does not answer, the job stays as it is: {error}")
            except Refused as error:  # an executor that was deleted, or settings that broke
                for job in mine:
                    self._explain(job, str(error))
        self._told = [process for process in self._told if process.poll() is None]

    def _forget(self, ended: Sequence[Job]) -> None:
        """Forget the oldest of those that have ended; what they committed stays."""
        for job in ended[: -self._settings.keep]:
            try:
                Repository(self._store.root).remove(self._store.work(job))
                self._store.forget(job)
            except JobsError as error:
                log.warning("%s: it is not forgotten: %s", job.id, error)

    def _executor(self, name: str) -> Executor:
        if name not in self._executors:
            self._executors[name] = executor(name, self._settings, self._store)
        return self._executors[name]

    def _serve(self, name: str, engine: Executor, jobs: Sequence[Job]) -> None:
        now = time.monotonic()
        active = [job for job in jobs if job.state in ACTIVE]
        waiting = sorted((job for job in jobs if job.state in WAITING), key=lambda job: job.order)
        if active and now - self._looked.get(name, -engine.interval) >= engine.interval:
            self._looked[name] = now
            for job in active:
                if not job.handle:  # the runner before this one was killed while it launched
                    self._launch(engine, job)
                elif job.cancelling:
                    self._cancel(engine, job)
            seen = engine.look(active)
            for job in active:
                if found := seen.get(job.id):
                    self._follow(engine, job, found)
        room = engine.room(len(active))
        for job in waiting[: max(0, room)]:
            self._begin(engine, job)
        for place, job in enumerate(waiting[max(0, room) :], 1):
            if not self._give_up_waiting(engine, job):
                self._wait(job, place)

    def _begin(self, engine: Executor, job: Job) -> None:
        with self._store.locked():
            job = self._store.find(job.id)
            if job.state not in WAITING:  # cancelled meanwhile
                return
            attempt = job.attempt + 1
            reason = f"attempt {attempt} is handed over"
            job = job.moved(State.LAUNCHING, reason, attempt=attempt, handle="")
            self._store.save(job)
        self._launch(engine, job)

    def _launch(self, engine: Executor, job: Job) -> None:
        try:
            self._store.change(job, handle=engine.launch(job))
        except Refused as error:
            self._settle(engine, job, Outcome(cause=Cause.BROKEN, message=str(error)))

    def _cancel(self, engine: Executor, job: Job) -> None:
        asked = self._asked.setdefault(job.attempt_id, time.monotonic())
        kill = time.monotonic() - asked > 2 * self._settings.grace
        engine.cancel(job, kill=kill)

    def _follow(self, engine: Executor, job: Job, seen: Seen) -> None:
        engine.collect(job, self._store.log(job))
        if seen.phase is Phase.ENDED:
            gone = Outcome(cause=Cause.INFRASTRUCTURE, message="its engine does not know it")
            self._settle(engine, job, seen.outcome or gone)
        elif seen.phase is Phase.RUNNING and job.state is not State.RUNNING:
            with self._store.locked():
                self._store.save(self._store.find(job.id).moved(State.RUNNING, seen.reason))
        elif seen.phase is Phase.WAITING and job.state is State.RUNNING:
            with self._store.locked():  # the engine has put it back, as after a node's death
                self._store.save(self._store.find(job.id).moved(State.LAUNCHING, seen.reason))
        elif not (seen.phase is Phase.WAITING and self._give_up_waiting(engine, job)):
            self._explain(job, seen.reason)

    def _settle(self, engine: Executor, job: Job, outcome: Outcome) -> None:
        """An attempt has ended: what comes next, and who is told."""
        engine.collect(job, self._store.log(job))
        with self._store.locked():
            job = self._store.find(job.id)
            Budget(self._store, self._settings.budget).book(job, outcome)
            job = after(job, outcome, self._value_of(job), self._possible)
            if job.has_ended:
                clean(job, self._store)
            self._store.save(job)
        if job.state is State.RETRYING:
            self._tell("job-retrying", job)
        elif job.state in (State.FAILED, State.TIMED_OUT):
            self._tell("job-failed", job)

    def _wait(self, job: Job, place: int) -> None:
        ahead = "the next one" if place == 1 else f"{place - 1} are before it"
        if job.state is State.QUEUED:  # a retrying one keeps the reason of its failure
            self._explain(job, f"{ahead} on {job.current.executor}")

    def _explain(self, job: Job, reason: str) -> None:
        if reason and reason != job.reason:
            with self._store.locked():
                now = self._store.find(job.id)
                if now.state is job.state:
                    self._store.save(now.model_copy(update={"reason": reason}))

    def _give_up_waiting(self, engine: Executor, job: Job) -> bool:
        """Use the rule for jobs that wait too long; says whether one was used."""
        since = self._since.setdefault(job.attempt_id, time.monotonic())
        rule = next_rule(job, Cause.WAITING)
        if rule is None or time.monotonic() - since < of_time(rule.after):
            return False
        if job.state is State.LAUNCHING:
            engine.cancel(job, kill=False)
        with self._store.locked():
            job = self._store.find(job.id)
            if job.state in (State.QUEUED, State.LAUNCHING):
                why = f"it has waited {rule.after}"
                outcome = Outcome(cause=Cause.WAITING, message=why)
                job = after(job, outcome, self._value_of(job), self._possible)
                self._store.save(job)
        self._tell("job-retrying", job)
        return True

    def _value_of(self, job: Job) -> ValueOf:
        return lambda name: self._admission.value_of(job.commit, name)

    def _possible(self, request: Request) -> None:
        self._admission.require_possible(request)

    def _tell(self, event: str, job: Job) -> None:
        if self._settings.notify:
            words = (*self._settings.notify, event, f"--text={job.id}: {job.reason}")
            try:
                environment = os.environ | {"PATH": processes.path()}
                told = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, cwd=self._store.root, env=environment
                )
                self._told.append(told)
            except OSError as error:
                log.error("notify: %s cannot be started: %s", words[0], error.strerror)


def clean(job: Job, store: Store) -> None:
    """Delete what a job that has ended leaves; the checkout of a failed one stays for `retry`."""
    if job.state in (State.SUCCEEDED, State.CANCELLED):
        try:
            Repository(store.root).remove(store.work(job))
        except JobsError as error:
            log.warning("%s: its checkout stays: %s", job.id, error)
    attempts.forget(job, store)
