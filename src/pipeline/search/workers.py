"""Processes that share the trials of a search; a killed one is replaced, and loses no trial."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from optuna.exceptions import StorageInternalError
from optuna.trial import Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from pipeline.errors import TrainingError
from pipeline.search import trial as trials
from pipeline.search.space import Point
from pipeline.search.study import BROKEN, INTERRUPTED, Outcome, Search, counts, outcome

WAIT = 0.2  # seconds between two looks at the workers
PATIENCE = 3  # seconds for workers to end by themselves
DEATHS = 5  # of workers, without a trial in between, before the search gives up
RESUME = "make search goes on from there"


class Stopped(BaseException):
    """The search was cancelled, or the process that started this worker is gone."""


def work(search: Search) -> None:
    """Be a worker: take trials until there is none to begin.

    Raises:
        TrainingError: the code is broken, or the database does not answer.
    """
    parent = os.getppid()

    def heed() -> None:
        if os.getppid() != parent or search.study.user_attrs["state"][0] == "cancelled":
            raise Stopped

    shared = trials.share(search.space.base)
    try:
        search.study.set_user_attr("hardware", shared.hardware)
        with interruptible():
            while asked := search.ask():
                trial, point = asked
                try:
                    found = trials.run(search, trial, point, shared, heed)
                except (Stopped, KeyboardInterrupt):
                    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
                    signal.signal(signal.SIGINT, signal.SIG_IGN)
                    search.tell(trial, Outcome(TrialState.FAIL, kind=INTERRUPTED))
                    raise
                search.tell(trial, found)
                print(line(search, trial, point, found), flush=True)
                if found.kind == BROKEN:
                    search.set_state("paused", found.why)
                    raise TrainingError(
                        f"the search is paused, trial {trial.number} met an error of the code: "
                        f"{found.why}: mend it, then {RESUME}"
                    )
    except (SQLAlchemyError, StorageInternalError) as error:
        reason = str(error).partition("\n")[0]
        raise TrainingError(f"the database of the search failed ({reason}): {RESUME}") from None
    except Stopped:
        print("search: this worker was told to stop", file=sys.stderr)


def line(search: Search, trial: Trial, point: Point, found: Outcome) -> str:
    """What a trial gave, in one line."""
    word = {TrialState.COMPLETE: "", TrialState.PRUNED: " pruned"}.get(found.state, " failed")
    score = "-" if found.score is None else f"{found.score:.4f}"
    facts = "  ".join(f"{name}={show(value)}" for name, value in point.items())
    best = search.best()
    tail = f"best {best.value:.4f} of trial {best.number}" if best else "none is complete yet"
    why = f"  {found.why}" if found.state == TrialState.FAIL else ""
    return (
        f"trial {trial.number}{word}: {score}  {found.epochs} epochs  {found.seconds:.1f} s  "
        f"{facts or 'params.yaml'}{why}  ({tail})"
    )


def show(value: object) -> str:
    """A value of a parameter, short."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM, by which schedulers and GitLab end a job, acts as Ctrl-C in this block.

    Afterwards both signals do what they did before it, also where the block ignores them.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def supervise(search: Search, workers: int) -> None:
    """Run workers until the search is over, and replace those that are killed.

    Raises:
        TrainingError: it cannot go on; says how it does later.
    """
    processes: list[subprocess.Popen[bytes]] = []
    try:
        with interruptible():
            _run(search, workers, processes)
    except KeyboardInterrupt:
        done = sum(map(counts, search.trials()))
        print(f"\nsearch: stopped after {done} trials; {RESUME}", file=sys.stderr)
        raise
    finally:
        _end(processes)


def _run(search: Search, workers: int, processes: list["subprocess.Popen[bytes]"]) -> None:
    deaths, done = 0, sum(map(counts, search.trials()))
    while search.state[0] == "running":
        wanted, running = _left(search)
        new = min(workers - len(processes), wanted)
        if not (new or running or processes):
            return
        processes += [_spawn(search) for _ in range(new)]
        time.sleep(WAIT)
        for process in [one for one in processes if one.poll() is not None]:
            processes.remove(process)
            if process.returncode > 0:  # it has told why
                raise TrainingError(f"a worker ended with an error, see above: {RESUME}")
            if process.returncode < 0:
                deaths += 1
                print(f"search: a worker was killed (signal {-process.returncode})", flush=True)
        search.reap()
        if (now := sum(map(counts, search.trials()))) > done:
            deaths, done = 0, now
        if deaths >= DEATHS:
            raise TrainingError(f"{deaths} workers were killed, out of memory perhaps: {RESUME}")
    for process in processes:
        process.wait()


def _left(search: Search) -> tuple[int, int]:
    """How many trials there are to begin, and how many run, those of other machines included."""
    trials_, most = search.trials(), search.plan.budget.trials
    waiting = sum(t.state == TrialState.WAITING for t in trials_)
    running = sum(t.state == TrialState.RUNNING for t in trials_)
    if search.plan.sampler == "grid":
        return waiting, running
    left = most - sum(map(counts, trials_)) - running if most else 2**16
    return max(waiting, left), running


def _spawn(search: Search) -> "subprocess.Popen[bytes]":
    threads = str(search.plan.threads)
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.search", "work", "--name", search.name],
        env=os.environ | {"OMP_NUM_THREADS": threads},
    )


def _end(processes: list["subprocess.Popen[bytes]"]) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and any(process.poll() is None for process in processes):
        time.sleep(WAIT)  # a terminal has sent Ctrl-C to all
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def why_failed(search: Search) -> str:
    """What the last trial that failed met."""
    failed = [t for t in search.trials() if t.state == TrialState.FAIL and outcome(t).get("why")]
    return str(outcome(failed[-1])["why"]) if failed else ""
