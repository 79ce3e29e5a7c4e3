"""Measure a search on the chips of artifacts/chips: `make bench-search`.

    python -m benchmarks.search --seeds 3 --parts overhead,workers,pruning

overhead: CPU milliseconds of a trial of 40 epochs, with the training taken out. CPU seconds hold on
a busy machine, too. workers: trials an hour of two workers beside one, in turns; it says something
on two idle cores alone. pruning: trials of params.yaml's network at a third of its epochs, with the
loss as the objective: how many epochs each search spends until it has the best score of the
unpruned one, as a share of all epochs of that one.
"""

import argparse
import contextlib
import io
import os
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest import mock

import optuna
from optuna.trial import TrialState

from benchmarks import machine
from pipeline import train as stage
from pipeline.data.prepared import read_prepared
from pipeline.params import Params, read_params
from pipeline.search.journal import open_storage
from pipeline.search.space import SEARCH, parse_plan, read_plan
from pipeline.search.study import Search, outcome, start
from pipeline.search.workers import supervise, work

EPOCHS = 40
ROUNDS = 3


@contextlib.contextmanager
def elsewhere() -> Iterator[None]:
    """A folder with the chips and parameters, and a history of its own."""
    root = Path.cwd()
    with TemporaryDirectory() as name, contextlib.chdir(name):
        Path("artifacts").mkdir()
        Path("artifacts/chips").symlink_to(root / "artifacts/chips")
        for file in ("params.yaml", "search.yaml"):
            Path(file).write_bytes((root / file).read_bytes())
        yield


def begin(base: Params, **changes: Any) -> Search:
    """A search by search.yaml, with changes."""
    plan, _ = read_plan(base, SEARCH)
    document = plan.model_dump(mode="json", by_alias=True) | changes
    plan, space = parse_plan(base, document, "search.yaml")
    return start(open_storage(), plan, space, read_prepared())


def overhead(trials: int = 100) -> float:
    """CPU milliseconds of a trial beyond its training."""

    def epochs(run: Any, progress: Any, *others: Any) -> Iterator[dict[str, float]]:
        for epoch in range(EPOCHS):
            score = 0.5 + epoch / 100
            progress.best_score = (score, -1.0)
            yield {"validation_accuracy": score, "validation_loss": 1.0}

    run = SimpleNamespace(task=SimpleNamespace(QUALITY="accuracy"), steps=1)

    def progress(*_: Any) -> Any:
        return SimpleNamespace(epoch=0, history=[], best_score=None)

    with (
        elsewhere(),
        mock.patch.multiple(stage, setup=lambda *_: run, begin=progress, epochs=epochs),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        work(begin(read_params(), budget={"trials": 1}))  # opens the data, imports what it needs
        search = begin(read_params(), budget={"trials": 1 + trials})
        before = time.process_time()
        work(search)
        return 1000 * (time.process_time() - before) / trials


def trials_an_hour(workers: int, trials: int = 12) -> float:
    """Trials of a few epochs an hour, without the start of the processes."""
    space = {"train.learning_rate": {"float": [0.005, 0.05]}, "train.epochs": {"choice": [4, 5]}}
    with elsewhere(), contextlib.redirect_stdout(io.StringIO()):
        search = begin(
            read_params(), space=space, sampler="random", pruner="none", budget={"trials": trials}
        )
        supervise(search, workers)
        done = [t for t in search.trials() if t.datetime_start and t.datetime_complete]
        begun = min(t.datetime_start for t in done if t.datetime_start)
        ended = max(t.datetime_complete for t in done if t.datetime_complete)
        return 3600 * len(done) / (ended - begun).total_seconds()


def epochs_until(search: Search, goal: float | None) -> tuple[int | None, int, float]:
    """Epochs until a loss of `goal` or less (the best, if None), all epochs, and the best."""
    best = search.best()
    assert best is not None and best.value is not None
    spent, reached = 0, None
    for trial in search.trials():
        spent += outcome(trial).get("epochs", 0)
        good = trial.state == TrialState.COMPLETE and trial.value is not None
        if (
            reached is None
            and good
            and (trial.value or 0.0) <= (best.value if goal is None else goal)
        ):
            reached = spent
    return reached, spent, best.value


def pruning(seed: int, trials: int) -> str:
    """One line: what pruning saves with one seed of the sampler."""
    params = read_params()
    fewer = {"epochs": max(5, params.train.epochs // 3)}
    base = params.model_copy(update={"train": params.train.model_copy(update=fewer)})
    with elsewhere(), contextlib.redirect_stdout(io.StringIO()):
        common = {"seed": seed, "objective": "loss", "grace": 3}
        whole = begin(base, pruner="none", budget={"trials": trials}, **common)
        work(whole)
        reached, spent, best = epochs_until(whole, None)
        pruned = begin(base, pruner="asha", budget={"trials": 3 * trials}, **common)
        work(pruned)
        early, cost, other = epochs_until(pruned, best)
    share = "not reached" if early is None else f"{early / spent:.2f}"
    return (
        f"  seed {seed}: unpruned best {best:.4f} after {reached} of {spent} epochs; pruned has it "
        f"after {early} epochs: {share} (best {other:.4f} in {cost})"
    )


def main() -> None:
    """Measure the parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=20, help="of each unpruned search")
    parser.add_argument("--parts", default="overhead,workers,pruning")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    parts = options.parts.split(",")
    print(f"{machine.line()}; load {os.getloadavg()[0]:.1f}")
    if "overhead" in parts:
        figures = sorted(overhead() for _ in range(ROUNDS))
        print(f"overhead: {', '.join(f'{one:.1f}' for one in figures)} CPU ms a trial")
    if "workers" in parts:
        pairs = [(trials_an_hour(1), trials_an_hour(2)) for _ in range(ROUNDS)]
        texts = [f"{one:.0f} -> {two:.0f} ({two / one:.2f} x)" for one, two in pairs]
        print(f"trials an hour, one worker -> two: {'; '.join(texts)}")
    if "pruning" in parts:
        print("pruning: epochs to the unpruned best, as a share of all unpruned epochs")
        for seed in range(options.seeds):
            print(pruning(seed, options.trials), flush=True)


if __name__ == "__main__":
    main()
