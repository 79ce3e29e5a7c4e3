"""Connections to PostgreSQL with a bound on every wait.

A server can stop answering without closing the connection: a paused connection pool, a vanished
host. The driver would wait for ever, and a silent server does not enforce its own time limits. So
this side bounds the silence, and TCP keep-alives detect a dead host.
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
    """Drops the connection to a silent server."""

    statement = 0.0
    """Time limit of a statement in the current transaction, in seconds."""

    def wait(self, gen: Generator[Any, Any, T], *arguments: Any, **named: Any) -> T:
        """Wait within limits; the driver calls this for every wait."""
        # Beginning a transaction and checking the connection are quick.
        idle = self.pgconn.transaction_status == TransactionStatus.IDLE
        silence = WAIT_SECONDS + (0.0 if idle else self.statement)
        return super().wait(self._within(silence, gen), *arguments, **named)

    def _within(self, seconds: float, gen: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
        """Wrap the driver's generator, with a limit on seconds of silence.

        The generator asks for events of the socket, and gets 0 for each tenth of a second without.
        """
        heard = time.monotonic()
        try:
            wanted = next(gen)
            while True:
                news = yield wanted
                if news:
                    heard = time.monotonic()
                elif time.monotonic() > heard + seconds:
                    self.pgconn.finish()  # a late answer must not reach the next statement
                    raise ConnectionTimeout("the server does not answer")
                wanted = gen.send(news)
        except StopIteration as end:
            found: T = end.value
            return found


def make_engine(url: URL) -> Engine:
    """Make the engine of a database; connection options in the URL override the defaults."""
    defaults = {
        "connect_timeout": str(CONNECT_SECONDS),
        "tcp_user_timeout": f"{1000 * WAIT_SECONDS:.0f}",
        "keepalives_idle": "5",
        "keepalives_interval": "2",
        "keepalives_count": "3",
        "application_name": "conveyor",
    }
    # No prepared statements: they fail behind a connection pool such as PgBouncer.
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
    """Give the statements of this transaction the time limit of a migration."""
    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
    _driver(connection).statement = MIGRATION_SECONDS


def _driver(connection: Connection) -> BoundedConnection:
    found = connection.connection.driver_connection
    assert isinstance(found, BoundedConnection)
    return found
