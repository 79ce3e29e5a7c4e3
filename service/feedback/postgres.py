"""Connections to PostgreSQL, which never wait without limit.

A server can stop answering without an end of the connection: a paused pool of connections, a host
that vanished. The driver would wait for ever, and nobody keeps the limits that the server was told.
So silence is bounded on this side, and the kernel looks whether the host still lives.
"""

import time
from collections.abc import Generator
from typing import Any, TypeVar

import psycopg
from psycopg.errors import ConnectionTimeout
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL

from service.feedback.database import WAIT_SECONDS

CONNECT_SECONDS = 3
STATEMENT_SECONDS = 20
MIGRATION_SECONDS = 3600  # of silence; the server itself does not bound it

T = TypeVar("T")


class BoundedConnection(psycopg.Connection[Any]):
    """Gives up a server that says nothing."""

    statement = 0.0
    """Seconds that a statement of the present transaction may take."""

    def wait(self, gen: Generator[Any, Any, T], *arguments: Any, **named: Any) -> T:
        """Wait for what the driver does; all of its waiting goes through here."""
        # What begins a transaction, or asks whether the server is still there, is quick.
        idle = self.pgconn.transaction_status == TransactionStatus.IDLE
        silence = WAIT_SECONDS + (0.0 if idle else self.statement)
        return super().wait(self._within(silence, gen), *arguments, **named)

    def _within(self, seconds: float, gen: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
        """Do the same within so many seconds of silence.

        The driver asks for news of the socket, and is told 0 for each tenth of a second without.
        """
        heard = time.monotonic()
        try:
            wanted = next(gen)
            while True:
                news = yield wanted
                if news:
                    heard = time.monotonic()
                elif time.monotonic() > heard + seconds:
                    self.pgconn.finish()  # what the server says later belongs to nobody
                    raise ConnectionTimeout("the server does not answer")
                wanted = gen.send(news)
        except StopIteration as end:
            found: T = end.value
            return found


def make_engine(url: URL) -> Engine:
    """Make the engine of a database; what the URL says about its connections counts."""
    defaults = {
        "connect_timeout": str(CONNECT_SECONDS),
        "tcp_user_timeout": f"{1000 * WAIT_SECONDS:.0f}",
        "keepalives_idle": "5",
        "keepalives_interval": "2",
        "keepalives_count": "3",
        "application_name": "conveyor",
    }
    # Statements are not prepared: behind a pool of connections that fails.
    engine = create_engine(
        url.update_query_dict({key: defaults[key] for key in defaults if key not in url.query}),
        hide_parameters=True,
        pool_pre_ping=True,
        pool_timeout=WAIT_SECONDS,
        connect_args={"prepare_threshold": None},
    )

    @event.listens_for(engine, "do_connect")
    def connect(_: object, __: object, arguments: Any, named: Any) -> BoundedConnection:
        return BoundedConnection.connect(*arguments, **named)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(
            f"SET LOCAL statement_timeout = '{STATEMENT_SECONDS}s'; "
            f"SET LOCAL lock_timeout = '{1000 * WAIT_SECONDS:.0f}ms'"
        )
        _driver(connection).statement = STATEMENT_SECONDS

    return engine


def allow_migration(connection: Connection) -> None:
    """Let the statements of this transaction take as long as those of a migration may."""
    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
    _driver(connection).statement = MIGRATION_SECONDS


def _driver(connection: Connection) -> BoundedConnection:
    found = connection.connection.driver_connection
    assert isinstance(found, BoundedConnection)
    return found
