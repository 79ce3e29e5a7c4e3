"""Command: search the parameters of search.yaml, and propose the best.

    python -m pipeline.search run --workers 2       search, or go on with it
    python -m pipeline.search status                the state, the best trials, what it cost
    python -m pipeline.search list                  all searches of this storage
    python -m pipeline.search cancel                end it; `run` takes it up again
    python -m pipeline.search work                  be one worker of a scheduler's array
    python -m pipeline.search winner                train the best by dvc repro, check, commit

The history lies in artifacts/search/, or in the PostgreSQL database that SEARCH_STORAGE names.
docs/search.md describes search.yaml.
"""

import logging
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

import optuna

from contracts import commands
from pipeline.data.prepared import read_prepared
from pipeline.errors import ParameterError, TrainingError, command
from pipeline.params import read_params
from pipeline.search import results, study, winner, workers
from pipeline.search.journal import open_storage
from pipeline.search.space import SEARCH, read_plan
from pipeline.training.launch import local_processes


@command
def main(arguments: Sequence[str] = ()) -> None:
    """Run one verb."""
    optuna.logging.set_verbosity(logging.ERROR)
    options = _parser().parse_args(arguments)
    verbs = {"run": _run, "status": _status, "list": _list, "cancel": _cancel, "work": _work}
    (verbs | {"winner": _winner})[options.verb](options)


def _parser() -> ArgumentParser:
    parser = commands.parser("pipeline.search", __doc__)
    parser.add_argument(
        "verb", choices=("run", "status", "list", "cancel", "work", "winner"), help="see above"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes of run (default: 1)")
    parser.add_argument("--file", type=Path, default=SEARCH, help="of run (default: search.yaml)")
    parser.add_argument("--name", default="", help="of the search (default: the last one here)")
    parser.add_argument("--json", action="store_true", help="of status: for programs")
    return parser


def _open(options: Namespace) -> study.Search:
    return study.resume(open_storage(os.environ.get("SEARCH_STORAGE", "")), options.name)


def _run(options: Namespace) -> None:
    url = os.environ.get("SEARCH_STORAGE", "")
    if options.workers < 1:
        raise ParameterError(f"WORKERS is {options.workers}, wanted at least 1")
    if int(os.environ.get("CI_NODE_TOTAL") or 1) > 1 and not url:
        raise ParameterError(
            "several jobs share a search by a database: set the variable SEARCH_STORAGE to "
            "postgresql://..., or the input search-jobs to 1"
        )
    params = read_params()
    if params.train.nodes * local_processes(params.train) > 1:
        raise ParameterError(
            "params.yaml: train.processes and train.nodes want several processes, and a trial of a "
            "search is one: set both to 1, and give the search more workers"
        )
    plan, space = read_plan(params, options.file)
    search = study.start(open_storage(url), plan, space, read_prepared())
    print(f"search: {search.name}, {len(space.axes)} parameters, {plan.sampler}, {plan.pruner}")
    try:
        workers.supervise(search, options.workers)
    finally:
        results.write(search)
    word, why = search.state
    if word == "paused":
        raise TrainingError(f"the search is paused: {why}: mend it, then {workers.RESUME}")
    print(f"search: {word} ({why})" if why else f"search: {word}")
    if word == "failed":
        raise TrainingError(f"no trial is complete: {workers.why_failed(search)}")
    print(results.summary(search))


def _status(options: Namespace) -> None:
    search = _open(options)
    print(results.document(search).model_dump_json(indent=2) if options.json else "", end="")
    if not options.json:
        print(results.summary(search))


def _list(options: Namespace) -> None:
    storage = open_storage(os.environ.get("SEARCH_STORAGE", ""))
    for name in optuna.get_all_study_names(storage):
        print(results.headline(study.resume(storage, name)))


def _cancel(options: Namespace) -> None:
    search = _open(options)
    search.set_state("cancelled", "by a person")
    print(f"search: {search.name} is cancelled; its workers end after their epoch")


def _work(options: Namespace) -> None:
    workers.work(_open(options))


def _winner(options: Namespace) -> None:
    winner.propose(_open(options))


if __name__ == "__main__":
    main(sys.argv[1:])
