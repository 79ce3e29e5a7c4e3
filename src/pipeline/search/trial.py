"""One trial: a training of the stage `train`, by its loop, that is judged after each epoch.

Nothing is exported and the test split is not read. Checkpoints lie in artifacts/search/, so that a
trial that was interrupted goes on.
"""

import math
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from optuna.exceptions import StorageInternalError
from optuna.trial import Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from pipeline import train as stage
from pipeline.data.prepared import Prepared, read_prepared
from pipeline.errors import DISK_CURES, DataError, ParameterError, TrainingError
from pipeline.params import Params
from pipeline.progress import EpochProgress
from pipeline.search.journal import FOLDER
from pipeline.search.space import Point
from pipeline.search.study import BROKEN, INVALID, Outcome, Search, alive, origin
from pipeline.training.checkpoint import Checkpoints
from pipeline.training.hardware import choose_device, choose_precision, describe

CHECKPOINTS = FOLDER / "checkpoints"


class Shared(NamedTuple):
    """What all trials of a worker read; it is opened once."""

    prepared: Prepared
    data: stage.Data
    device: str
    hardware: str


def share(params: Params) -> Shared:
    """Open the data."""
    prepared = read_prepared()
    device = choose_device(params.train.device)
    hardware = describe(device, choose_precision(params.train, device))
    return Shared(prepared, stage.open_data(params, prepared), device.type, hardware)


@dataclass
class _Course:
    """How far a trial is."""

    device: str
    started: float = field(default_factory=time.perf_counter)
    epochs: int = 0
    trained: int = 0
    """Epochs without those that an interrupted try had trained."""

    def failed(self, kind: str, why: object) -> Outcome:
        """The outcome of a trial that failed now."""
        return self.ended(TrialState.FAIL, kind=kind, why=str(why))

    def ended(
        self,
        state: TrialState,
        score: float | None = None,
        kind: str = "",
        why: str = "",
        loss: float = 0.0,
    ) -> Outcome:
        """The outcome of a trial that ends now."""
        seconds = time.perf_counter() - self.started
        return Outcome(state, score, kind, why, self.trained, seconds, loss, self.device)


def run(
    search: Search, trial: Trial, point: Point, shared: Shared, heed: Callable[[], None]
) -> Outcome:
    """Train a point, and tell failures apart.

    Args:
        heed: called after each epoch; what it raises ends the trial.

    Raises:
        OSError: the disk is full, for example: nothing that the point could help.
        SQLAlchemyError, StorageInternalError: the database does not answer.
    """
    course = _Course(shared.device)
    trial.set_user_attr("point", point)
    try:
        if twin := search.same(trial, point):
            loss = twin.user_attrs["outcome"]["loss"]
            return course.ended(TrialState.COMPLETE, twin.value, loss=loss)
        return _train(search, trial, point, shared, heed, course)
    except (TrainingError, ParameterError, DataError) as error:
        return course.failed(INVALID, error)
    except OSError as error:
        if error.errno in DISK_CURES:
            raise
        return course.failed(BROKEN, _last_line(error))
    except (SQLAlchemyError, StorageInternalError):
        raise
    except Exception as error:
        if any(words in str(error).lower() for words in stage.MEMORY_ERRORS):
            return course.failed(INVALID, "out of memory")
        traceback.print_exc()
        return course.failed(BROKEN, _last_line(error))


def _train(
    search: Search,
    trial: Trial,
    point: Point,
    shared: Shared,
    heed: Callable[[], None],
    course: _Course,
) -> Outcome:
    params = search.space.params(point)
    run = stage.setup(params, shared.prepared, shared.data)
    name = f"{stage.identify(params, shared.prepared)}-{origin(trial)}"
    checkpoints = Checkpoints(name, CHECKPOINTS)
    progress = stage.begin(run, checkpoints)
    measure = "loss" if search.plan.objective == "loss" else run.task.QUALITY
    state, known = TrialState.COMPLETE, progress.epoch
    with alive(search, trial), EpochProgress(params.train.epochs, run.steps, shown=False) as bar:
        records: Iterator[dict[str, float]] = chain(
            [*progress.history], stage.epochs(run, progress, checkpoints, bar)
        )
        for epoch, record in enumerate(records, start=1):
            course.epochs, course.trained = epoch, max(0, epoch - known)
            value = record[f"validation_{measure}"]
            if not math.isfinite(value):
                return course.failed(INVALID, f"validation {measure} is {value} in epoch {epoch}")
            trial.report(value, epoch)
            heed()
            if epoch < params.train.epochs and trial.should_prune():
                state = TrialState.PRUNED
                break
    checkpoints.clear()
    if state == TrialState.PRUNED:
        return course.ended(state, value)
    quality, loss = progress.best_score[0], -progress.best_score[1]
    score = loss if search.plan.objective == "loss" else quality
    return course.ended(state, score, loss=loss)


def _last_line(error: Exception) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = traceback.format_exception_only(error)[-1].strip()
    return f"{text} ({Path(place.filename).name}:{place.lineno})"
