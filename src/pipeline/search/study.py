"""One search: its history, its state and its budget.

How trials count: one that is complete, pruned or invalid (it diverged, or needs more memory than
there is) counts against the budget. One that was interrupted does not: the same point is trained
again, from its checkpoint, TRIES times at most. An error of our own code pauses the search.
"""

import hashlib
import json
import os
import socket
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import psutil
from optuna.storages import BaseStorage, RDBStorage, fail_stale_trials
from optuna.trial import FrozenTrial, Trial, TrialState

from pipeline.data.prepared import Prepared
from pipeline.errors import DataError
from pipeline.params import Params
from pipeline.search.journal import FOLDER
from pipeline.search.sampling import Seeded, pruner_of
from pipeline.search.space import Plan, Point, Space, parse_plan
from pipeline.train import identify

LAST = FOLDER / "last.txt"
"""Name of the search that ran last."""
PULSES = FOLDER / "workers"
PULSE, SILENCE = 20, 300  # seconds; a worker on another machine that is silent so long is dead
UNNAMED = 60  # seconds that a trial may run before its worker has signed it
TRIES = 3
INVALID, BROKEN, INTERRUPTED, SURPLUS = "invalid", "broken", "interrupted", "surplus"


class Outcome(NamedTuple):
    """How a trial ended."""

    state: TrialState
    score: float | None = None
    kind: str = ""
    """Why it failed: INVALID, BROKEN, INTERRUPTED or SURPLUS."""
    why: str = ""
    epochs: int = 0
    seconds: float = 0.0
    loss: float = 0.0
    """Of the best epoch on the validation split."""
    device: str = "cpu"


def outcome(trial: FrozenTrial) -> dict[str, Any]:
    """What `Search.tell` wrote about a trial; empty for one that was killed."""
    found: dict[str, Any] = trial.user_attrs.get("outcome", {})
    return found


def counts(trial: FrozenTrial) -> bool:
    """Whether a trial counts against the budget."""
    if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
        return True
    gave_up = trial.user_attrs.get("try", 1) >= TRIES and _is_interrupted(trial)
    return trial.state == TrialState.FAIL and (outcome(trial).get("kind") == INVALID or gave_up)


def _is_interrupted(trial: FrozenTrial) -> bool:
    kind = outcome(trial).get("kind", INTERRUPTED)
    return trial.state == TrialState.FAIL and kind in (INTERRUPTED, BROKEN, "")


class Search:
    """A plan and its history."""

    def __init__(self, study: optuna.Study, plan: Plan, space: Space, storage: BaseStorage) -> None:
        self.study, self.plan, self.space, self.storage = study, plan, space, storage
        study.sampler = Seeded(plan.sampler, plan.seed)
        study.pruner = pruner_of(plan, self.most_epochs)

    @property
    def name(self) -> str:
        """The name of the search in its storage."""
        return str(self.study.study_name)

    @property
    def most_epochs(self) -> int:
        """Epochs of the longest trial."""
        searched = self.plan.space.get("train.epochs")
        return max(map(int, searched.ends())) if searched else self.space.base.train.epochs

    @property
    def state(self) -> tuple[str, str]:
        """running, paused or cancelled, and why; succeeded or failed when the budget is used."""
        word, why = self.study.user_attrs.get("state", ("running", ""))
        if word == "cancelled" or (word == "paused" and not self.over()):
            return word, why
        if not (ended := self.over()):
            return "running", why
        return ("succeeded" if self.best() else "failed"), ended

    def set_state(self, word: str, why: str = "") -> None:
        """Let all workers know."""
        self.study.set_user_attr("state", (word, why))

    def trials(self) -> list[FrozenTrial]:
        """All trials, oldest first."""
        return self.study.get_trials(deepcopy=False)

    def best(self) -> FrozenTrial | None:
        """The best complete trial; of equal ones that with the lower loss, then the older."""
        complete = [t for t in self.trials() if t.state == TrialState.COMPLETE]
        return min(complete, key=self.rank, default=None)

    def rank(self, trial: FrozenTrial) -> tuple[float, float, int]:
        """Sort key: the best first."""
        assert trial.value is not None
        sign = 1 if self.plan.objective == "loss" else -1
        return sign * trial.value, outcome(trial).get("loss", 0.0), trial.number

    def over(self) -> str:
        """What of the budget is used up; empty while there is some left."""
        budget, counted = self.plan.budget, [t for t in self.trials() if counts(t)]
        spent = seconds_of(self.trials())
        best = self.best()
        if budget.trials and len(counted) >= budget.trials:
            return f"{len(counted)} trials"
        if budget.hours and spent.all >= 3600 * budget.hours:
            return f"{spent.all / 3600:.2f} hours"
        if budget.gpu_minutes and spent.gpu >= 60 * budget.gpu_minutes:
            return f"{spent.gpu / 60:.1f} GPU minutes"
        if best and budget.target is not None and self._reaches(best, budget.target):
            return f"the target {budget.target:g}"
        since = sum(best is None or t.number > best.number for t in counted)
        if budget.patience and since >= budget.patience:
            return f"{since} trials without a better one"
        if self.plan.sampler == "grid" and self.trials() and not self._left():
            return "the whole grid"
        return ""

    def _reaches(self, trial: FrozenTrial, target: float) -> bool:
        assert trial.value is not None
        return trial.value <= target if self.plan.objective == "loss" else trial.value >= target

    def _left(self) -> int:
        return sum(not t.state.is_finished() for t in self.trials())

    def ask(self) -> tuple[Trial, Point] | None:
        """Begin the next trial; None when there is none to begin."""
        while self.state[0] == "running":
            trials, most = self.trials(), self.plan.budget.trials
            waiting = any(t.state == TrialState.WAITING for t in trials)
            begun = sum(counts(t) or t.state == TrialState.RUNNING for t in trials)
            if not waiting and (self.plan.sampler == "grid" or (most and begun >= most)):
                return None
            with warnings.catch_warnings(action="ignore"):  # heartbeats outside of optimize()
                trial = self.study.ask()
            trial.set_user_attr("worker", signature())
            if self._is_surplus(trial):
                self.tell(trial, Outcome(TrialState.FAIL, kind=SURPLUS))
                continue
            if trial.user_attrs.get("outside"):  # of the space: no sampler learns of it
                return trial, {}
            return trial, self.space.suggest(trial)
        return None

    def _is_surplus(self, trial: Trial) -> bool:
        """Two workers that ask at once may begin one trial too many, or the same one twice."""
        earlier = [t for t in self.trials() if t.number < trial.number]
        entry, most = trial.user_attrs.get("entry"), self.plan.budget.trials
        begun = sum(counts(t) or t.state == TrialState.RUNNING for t in earlier)
        twice = entry and any(t.user_attrs.get("entry") == entry for t in earlier)
        return bool(twice or (most and begun >= most))

    def same(self, trial: Trial, point: Point) -> FrozenTrial | None:
        """An earlier trial of the same point: one seed gives one model, so it need not run."""
        for other in self.trials():
            if other.number < trial.number and other.state == TrialState.COMPLETE:
                if other.user_attrs.get("point") == point:
                    return other
        return None

    def tell(self, trial: Trial, found: Outcome) -> None:
        """Record how a trial ended."""
        facts = {key: value for key, value in found._asdict().items() if key != "state"}
        trial.set_user_attr("outcome", facts)
        value = found.score if found.state == TrialState.COMPLETE else None
        self.study.tell(trial, value, state=found.state)

    def reap(self) -> int:
        """Find trials whose worker is dead, and let their points be trained again."""
        with warnings.catch_warnings(action="ignore"):
            fail_stale_trials(self.study)
        for trial in self.trials():
            if trial.state == TrialState.RUNNING and self._is_orphan(trial):
                with _finished_by_another():
                    self.study.tell(trial.number, state=TrialState.FAIL)
        trials = self.trials()
        entries = {t.user_attrs.get("entry") for t in trials}
        lost = [
            trial
            for trial in trials
            if _is_interrupted(trial)
            and f"again-{trial.number}" not in entries
            and trial.user_attrs.get("try", 1) < TRIES
        ]
        for trial in lost:
            again = 0 if outcome(trial).get("kind") == BROKEN else 1  # our error, not the point's
            facts = {
                "entry": f"again-{trial.number}",
                "origin": origin(trial),
                "try": trial.user_attrs.get("try", 1) + again,
                "outside": trial.user_attrs.get("outside", False),
            }
            self.enqueue(trial.params, facts)
        return len(lost)

    def _is_orphan(self, trial: FrozenTrial) -> bool:
        if isinstance(self.storage, RDBStorage):
            return is_dead(trial.user_attrs.get("worker", ""), elsewhere=False)
        if "worker" in trial.user_attrs:
            return is_dead(trial.user_attrs["worker"], elsewhere=True)
        begun = trial.datetime_start
        return begun is None or abs(time.time() - begun.timestamp()) > UNNAMED

    def enqueue(self, point: Point, facts: dict[str, Any]) -> None:
        """Let a worker train this point."""
        self.study.enqueue_trial(point, user_attrs=facts)


def origin(trial: FrozenTrial | Trial) -> int:
    """Number of the first try of the same trial; its checkpoints are under this number."""
    return int(trial.user_attrs.get("origin", trial.number))


class Spent(NamedTuple):
    """Seconds of training."""

    all: float
    gpu: float


def seconds_of(trials: Sequence[FrozenTrial]) -> Spent:
    """What trials have cost so far, failed ones included."""
    facts = [outcome(trial) for trial in trials]
    total = sum(fact.get("seconds", 0.0) for fact in facts)
    return Spent(total, sum(f["seconds"] for f in facts if f.get("device", "cpu") != "cpu"))


def start(storage: BaseStorage, plan: Plan, space: Space, prepared: Prepared) -> Search:
    """Begin a search, or go on with the one of the same space, parameters, data and code.

    A change of the budget goes on with the same search.
    """
    document = plan.model_dump(mode="json", by_alias=True)
    study = optuna.create_study(
        study_name=name_of(plan, space, prepared),
        storage=storage,
        direction="minimize" if plan.objective == "loss" else "maximize",
        load_if_exists=True,
    )
    if study.user_attrs.get("plan") != document:
        study.set_user_attr("plan", document)
        study.set_user_attr("base", space.base.model_dump(mode="json"))
    search = Search(study, plan, space, storage)
    search.set_state("running")
    _fill(search)
    search.reap()
    LAST.parent.mkdir(parents=True, exist_ok=True)
    LAST.write_text(search.name + "\n", encoding="utf-8")
    return search


def name_of(plan: Plan, space: Space, prepared: Prepared) -> str:
    """The name of a search: another space, data, code or base is another search."""
    facts = plan.model_dump(mode="json", by_alias=True, exclude={"budget"})
    text = json.dumps([facts, identify(space.base, prepared)], sort_keys=True)
    return f"search-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def _fill(search: Search) -> None:
    """Queue what is known beforehand: the point of params.yaml, and those of a grid."""
    known = {trial.user_attrs.get("entry") for trial in search.trials()}
    default = search.space.default()
    points: dict[str, Point] = {"default": default or {}}
    if search.plan.sampler == "grid":
        for index, point in enumerate(search.space.grid()):
            if index == search.plan.budget.trials:
                break
            points[f"grid-{index}"] = point
    for entry, point in points.items():
        if entry not in known:
            search.enqueue(point, {"entry": entry, "outside": default is None and not point})


def resume(storage: BaseStorage, name: str = "") -> Search:
    """Open a search by its name, or the one that ran last here.

    Raises:
        DataError: there is none.
    """
    try:
        name = name or LAST.read_text(encoding="utf-8").strip()
    except OSError:
        raise DataError("no search has run here: make search") from None
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        raise DataError(f"there is no search {name}: python -m pipeline.search list") from None
    base = Params.model_validate(study.user_attrs["base"])
    plan, space = parse_plan(base, study.user_attrs["plan"], f"the plan of {name}")
    return Search(study, plan, space, storage)


def signature() -> str:
    """Who this process is: machine, number and start, as numbers are used again."""
    return f"{socket.gethostname()} {os.getpid()} {psutil.Process().create_time():.2f}"


def is_dead(worker: str, elsewhere: bool) -> bool:
    """Whether a worker has ended.

    Args:
        elsewhere: judge also those of other machines, by their pulse.
    """
    host, _, rest = worker.partition(" ")
    if host == socket.gethostname():
        number, _, started = rest.partition(" ")
        try:
            return f"{psutil.Process(int(number)).create_time():.2f}" != started
        except (psutil.Error, ValueError):
            return True
    if not elsewhere or not host:
        return False
    probe = PULSES / ".now"  # its time is that of the file system, as the pulse's
    probe.parent.mkdir(parents=True, exist_ok=True)
    probe.touch()
    try:
        return probe.stat().st_mtime - _pulse(worker).stat().st_mtime > SILENCE
    except FileNotFoundError:
        return True


def _pulse(worker: str) -> Path:
    return PULSES / hashlib.sha256(worker.encode()).hexdigest()[:16]


@contextmanager
def alive(search: Search, trial: Trial) -> Iterator[None]:
    """Show other machines, during this block, that this worker lives."""
    ended, storage, path = threading.Event(), search.storage, _pulse(signature())
    path.parent.mkdir(parents=True, exist_ok=True)

    def beat() -> None:
        while True:
            if isinstance(storage, RDBStorage):
                storage.record_heartbeat(trial._trial_id)
            else:
                path.touch()
            if ended.wait(PULSE):
                return

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        path.unlink(missing_ok=True)


@contextmanager
def _finished_by_another() -> Iterator[None]:
    """Two processes may find the same dead worker."""
    try:
        yield
    except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
        pass
