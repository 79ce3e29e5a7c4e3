"""A PostgreSQL that stops answering and ends no connection: every wait for it has a limit."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from prometheus_client import CollectorRegistry
from sqlalchemy import text

from service.errors import FeedbackUnavailable, ServiceError
from service.feedback.accuracy import FeedbackCounters
from service.feedback.database import Database
from service.feedback.journal import FOLDER
from service.feedback.service import THREADS, FeedbackService
from service.feedback.store import Store
from service.http.feedback import add_feedback
from tests.make.databases import Postgres, Proxy, proxy
from tests.make.predictions import seen

ENDS_WITHIN = 60.0  # seconds; generous, the machine may be busy
NOW = datetime(2026, 11, 21, tzinfo=UTC)


@pytest.fixture
def way(cluster: Postgres) -> Iterator[Proxy]:
    with proxy(cluster) as running:
        yield running


@pytest.fixture
def database(
    cluster: Postgres, way: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Database]:
    """A database behind the proxy, of which everybody expects a sign of life soon."""
    found = Database(way.before(cluster.new()), tmp_path)
    found.migrate()
    monkeypatch.setattr("service.feedback.postgres.WAIT_SECONDS", 1.0)
    monkeypatch.setattr("service.feedback.postgres.STATEMENT_SECONDS", 0.5)
    yield found
    way.go_on()
    found.close()


@pytest.fixture
def answers(tmp_path: Path) -> FeedbackService:
    counters = FeedbackCounters(CollectorRegistry())
    return FeedbackService("", tmp_path, tmp_path / FOLDER, 0.6, counters)


def in_a_thread(work: object) -> None:
    """Do it where a call that never ends fails the test."""
    assert callable(work)
    pool = ThreadPoolExecutor(1)
    try:
        pool.submit(work).result(ENDS_WITHIN)
    finally:
        pool.shutdown(wait=False)


def test_a_statement_that_is_never_answered_ends(database: Database, way: Proxy) -> None:
    def ask() -> None:
        with database.read() as connection:
            connection.execute(text("SELECT 1"))
            way.stop()
            connection.execute(text("SELECT 2"))

    with pytest.raises(FeedbackUnavailable, match="predictions continue"):
        in_a_thread(ask)


def test_a_commit_that_is_never_confirmed_ends_with_an_error(
    database: Database, way: Proxy
) -> None:
    def change() -> None:
        with database.write() as connection:
            connection.execute(text("CREATE TABLE mine (id INTEGER)"))
            way.stop()

    with pytest.raises(FeedbackUnavailable):
        in_a_thread(change)


def test_a_long_statement_of_a_server_that_lives_is_waited_for(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.feedback.postgres.STATEMENT_SECONDS", 60)
    with database.read() as connection:
        assert connection.scalar(text("SELECT 7 FROM pg_sleep(1.5)")) == 7


def test_a_silent_server_is_asked_once_and_then_skipped_for_a_while(
    database: Database, way: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.feedback.database.SKIP_SECONDS", 3600.0)
    way.stop()
    store = Store(database)

    def ask() -> None:
        with pytest.raises(FeedbackUnavailable):
            store.list_predictions(0, 10, None)
        met = way.connections
        for _ in range(100):
            with pytest.raises(FeedbackUnavailable, match="predictions continue"):
                store.add_label("a", "Forest", NOW)
        assert way.connections == met

    in_a_thread(ask)


def test_failed_connections_do_not_delay_other_requests(database: Database, way: Proxy) -> None:
    # Each try takes the two seconds that the driver allows at least; in turn they were a minute.
    database.close()
    way.stop()

    def ask(_: int) -> None:
        with pytest.raises(FeedbackUnavailable):
            database.migrate()

    met = way.connections
    pool = ThreadPoolExecutor(2)
    try:
        for asked in [pool.submit(ask, number) for number in range(30)]:
            asked.result(ENDS_WITHIN)
    finally:
        pool.shutdown(wait=False)
    assert way.connections - met <= 2


def application(answers: FeedbackService) -> FastAPI:
    app = FastAPI()
    add_feedback(app, answers)

    @app.exception_handler(ServiceError)
    async def problem(_: Request, error: ServiceError) -> Response:
        return Response(error.detail, error.status)

    return app


def test_posts_and_gets_are_refused_while_it_is_silent_and_taken_again_after_it(
    database: Database, way: Proxy, answers: FeedbackService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.feedback.service.LONGEST", 1.0)
    monkeypatch.setattr("service.feedback.database.SKIP_SECONDS", 0.5)
    answers._store = Store(database)
    answers._store.save_predictions([seen("a")])

    async def ask(client: httpx.AsyncClient, method: str) -> httpx.Response:
        body = {"request_id": "a", "label": "Forest"} if method == "POST" else None
        return await client.request(method, "/feedback", json=body)

    async def until_taken(client: httpx.AsyncClient) -> None:
        async with asyncio.timeout(ENDS_WITHIN):
            for method in ("POST", "GET"):
                while (await ask(client, method)).status_code != 200:
                    await asyncio.sleep(0.05)

    async def run() -> None:
        transport = httpx.ASGITransport(application(answers))
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            await until_taken(client)
            way.stop()
            for _ in range(2):
                methods = ["POST", "GET"] * 2 * THREADS
                given = await asyncio.gather(*(ask(client, method) for method in methods))
                assert {answer.status_code for answer in given} == {503}
                assert all("predictions continue" in answer.text for answer in given)
            way.go_on()
            await until_taken(client)

    asyncio.run(asyncio.wait_for(run(), 3 * ENDS_WITHIN))
    answers._pool.shutdown()  # those who asked in vain log so


def test_a_request_is_refused_while_its_thread_still_waits(
    answers: FeedbackService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.feedback.service.LONGEST", 0.1)
    release = threading.Event()
    store = answers.store()
    monkeypatch.setattr(store, "list_predictions", lambda *_: release.wait(ENDS_WITHIN))
    with pytest.raises(FeedbackUnavailable, match="did not answer in time"):
        asyncio.run(answers.list_predictions(0, 10, None))
    release.set()
    answers.close()


def test_a_thread_of_the_service_is_free_again_while_the_server_is_still_silent(
    database: Database, way: Proxy, answers: FeedbackService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.feedback.service.LONGEST", 0.2)
    answers._store = Store(database)
    way.stop()

    async def ask() -> None:
        pages = [answers.list_predictions(0, 10, None) for _ in range(2 * THREADS)]
        found = await asyncio.gather(*pages, return_exceptions=True)
        assert {type(item) for item in found} == {FeedbackUnavailable}

    asyncio.run(ask())
    in_a_thread(answers._pool.shutdown)  # waits for all of them
