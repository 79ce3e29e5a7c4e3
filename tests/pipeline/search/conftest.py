"""Searches over chips that tests share; a training takes a fraction of a second."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from pipeline.data.prepared import read_prepared
from pipeline.params import read_params
from pipeline.search.journal import open_storage
from pipeline.search.space import parse_plan
from pipeline.search.study import Search, start
from pipeline.search.workers import work
from tests.conftest import write_params

SPACE = {
    "train.learning_rate": {"float": [0.001, 0.05], "log": True},
    "model.width": {"choice": [4, 8]},
}
Begin = Callable[..., Search]


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture
def begin(chips: Path) -> Begin:
    """Begin a search, or go on with it: `begin(budget=..., pruner=...)`."""
    write_params({"train": {"epochs": 2, "progressive": False}, "model": {"width": 4}})

    def start_search(**changes: Any) -> Search:
        document = {"space": SPACE, "budget": {"trials": 3}, "pruner": "none"} | changes
        plan, space = parse_plan(read_params(), document, "search.yaml")
        return start(open_storage(), plan, space, read_prepared())

    return start_search


@pytest.fixture
def searched(begin: Begin) -> Search:
    """A search of three trials that is over."""
    search = begin()
    work(search)
    return search
