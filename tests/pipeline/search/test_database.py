"""A search whose history is in PostgreSQL: several machines share it without a folder."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.storages import BaseStorage, RDBStorage

from pipeline.data.prepared import read_prepared
from pipeline.errors import TrainingError
from pipeline.params import read_params
from pipeline.search import study
from pipeline.search.journal import JOURNAL, open_storage
from pipeline.search.space import parse_plan
from pipeline.search.study import Search, resume, start
from pipeline.search.workers import work
from tests.conftest import write_params
from tests.make.databases import Postgres, postgres
from tests.pipeline.search.conftest import SPACE


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as running:
        yield running


@pytest.fixture
def url(server: Postgres) -> str:
    return server.new()


def begin(storage: BaseStorage) -> Search:
    write_params({"train": {"epochs": 2, "progressive": False}, "model": {"width": 4}})
    plan = {"space": SPACE, "budget": {"trials": 2}, "pruner": "none"}
    return start(storage, *parse_plan(read_params(), plan, "search.yaml"), read_prepared())


def close(storage: BaseStorage) -> None:
    assert isinstance(storage, RDBStorage)
    storage.remove_session()
    storage.engine.dispose()


def test_a_worker_elsewhere_that_falls_silent_loses_its_trial_to_another(
    chips: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage(url)
    search = begin(storage)
    asked = search.ask()
    assert asked
    trial, point = asked
    trial.set_user_attr("worker", "elsewhere 12 1.0")
    assert isinstance(storage, RDBStorage)
    storage.record_heartbeat(trial._trial_id)
    search.reap()
    assert [t.state.name for t in search.trials()] == ["RUNNING"], "it may be alive"
    monkeypatch.setattr(storage, "grace_period", 0)
    monkeypatch.setattr(study, "PULSE", 0.01)
    with warnings.catch_warnings(action="ignore"):
        search.reap()
    assert [t.state.name for t in search.trials()] == ["FAIL", "WAITING"]
    monkeypatch.setattr(storage, "grace_period", 600)
    work(search)
    other = open_storage(url)
    found = resume(other, search.name)
    assert found.state == ("succeeded", "2 trials")
    assert found.trials()[1].params == point
    assert not JOURNAL.exists()
    close(storage)
    close(other)


def test_a_database_that_goes_away_is_a_sentence(
    chips: Path, url: str, server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage(url)
    search = begin(storage)
    server.stop()
    try:
        with pytest.raises(TrainingError, match="database of the search failed .*make search goes"):
            work(search)
    finally:
        server.start()
    work(search)
    assert search.state == ("succeeded", "2 trials")
    close(storage)
