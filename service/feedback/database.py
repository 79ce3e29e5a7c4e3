"""The connection to the database of predictions and answers: SQLite or PostgreSQL.

Everything here blocks: it runs in threads. The tables are made, or brought up to date, when the
database is first used; Alembic is imported only where there is something to do.

A PostgreSQL that says nothing any more is given up (`postgres.py`). Those who come right after that
fail at once, so that no thread waits for what another one has just waited for in vain.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError

from service.errors import FeedbackUnavailable, StorageFull
from service.feedback import FEEDBACK_FILE
from service.feedback.tables import HEAD, REVISIONS
from service.files import StillLocked, locked

WAIT_SECONDS = 5.0  # for a lock of another process, for a connection, or for a sign of life
SKIP_SECONDS = 5.0  # in which a server that did not answer is not asked again
POSTGRES = ("postgres", "postgresql", "postgresql+psycopg")
TURNS = 7_203_611_934  # key of the advisory lock of those who write many rows, or migrate
FULL = ("SQLITE_FULL", "53100")  # of SQLite, and PostgreSQL's SQLSTATE
SILENT = "ConnectionTimeout"  # psycopg's error of a server that does not answer

log = logging.getLogger("service.feedback.store")


class Database:
    """One a process; made when it is first needed, never before a fork."""

    def __init__(self, url: str, folder: Path) -> None:
        """Use the database at a URL; a file in the folder if it is empty."""
        self._folder = folder
        self._url = parse(url, folder)
        self._engine: Engine | None = None
        self._ready = False
        self._skip_until = 0.0
        self._lock = threading.Lock()

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a file."""
        return self._url.get_backend_name() == "sqlite"

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Give a connection that sees one moment.

        Raises:
            FeedbackUnavailable: it can not be reached, or is of a newer version.
        """
        with self._sentences(), self._current().connect() as connection:
            yield connection

    @contextmanager
    def write(self, many: bool = False) -> Iterator[Connection]:
        """Give a connection whose changes are durable when the block ends, or undone.

        Those who write many rows do so in turn, so that they become visible in their order.

        Raises:
            FeedbackUnavailable: as above.
            StorageFull: its disk is full.
        """
        with self._sentences(), self._writing(self._current(), many) as connection:
            yield connection

    def migrate(self) -> None:
        """Bring the tables up to date. Raises as `read` does."""
        with self._sentences():
            self._current()

    def close(self) -> None:
        """Close all connections."""
        if self._engine is not None:
            self._engine.dispose()
        self._engine, self._ready = None, False

    @contextmanager
    def _writing(self, engine: Engine, many: bool) -> Iterator[Connection]:
        engine = engine.execution_options(writes=True)
        with engine.begin() as connection:
            if many and not self.is_sqlite:  # SQLite has only one writer anyway
                connection.execute(text(f"SELECT pg_advisory_xact_lock({TURNS})"))
            yield connection

    def _current(self) -> Engine:
        """The engine, after the tables have been brought up to date."""
        if time.monotonic() < self._skip_until:
            raise _unusable(SILENT)
        with self._lock:  # not while it connects, or all would wait for it one after another
            if self._engine is None:
                self._engine = self._make_engine()
            engine = self._engine
        if not self._ready:  # several may do it at once: it has locks of its own
            self._make_ready(engine)
            self._ready = True
        return engine

    def _make_engine(self) -> Engine:
        if self.is_sqlite:
            return _sqlite(self._url)
        from service.feedback.postgres import make_engine  # which imports the driver

        return make_engine(self._url)

    def _make_ready(self, engine: Engine) -> None:
        if self.is_sqlite:
            self._folder.mkdir(parents=True, exist_ok=True)
            # Also for the change to write-ahead logging, for which SQLite does not wait.
            try:
                with locked(self._folder / f".{FEEDBACK_FILE}.lock", WAIT_SECONDS):
                    self._bring_up_to_date(engine)
            except StillLocked:
                raise FeedbackUnavailable(
                    "another process migrates the feedback database: try again later"
                ) from None
        else:
            self._bring_up_to_date(engine)

    def _bring_up_to_date(self, engine: Engine) -> None:
        with engine.connect() as connection:
            found = _revision(connection)
        if found == HEAD:
            return
        with self._writing(engine, many=True) as connection:
            found = _revision(connection)  # another replica may have done it meanwhile
            if found is not None and found not in REVISIONS:
                raise FeedbackUnavailable(
                    f"the feedback database is of a newer version ({found!a}) than this service "
                    f"({HEAD!a}): serve the newer release, or give this one a database of its own"
                )
            if found != HEAD:
                _upgrade(connection)
                log.info("feedback database migrated", extra={"before": found, "now": HEAD})

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        """Turn what a driver raises into one of our errors, without the address."""
        try:
            yield
        except (IntegrityError, DataError):
            raise
        except (SQLAlchemyError, OSError) as error:
            self._ready = False  # it may come back as another one
            code = _code(error)
            log.warning("feedback database", extra={"code": code, "detail": self._redacted(error)})
            if code in FULL:
                raise StorageFull(
                    "the disk of the feedback database is full: make room there"
                ) from None
            if code == SILENT:
                self._skip_until = time.monotonic() + SKIP_SECONDS
            raise _unusable(code) from None

    def _redacted(self, error: Exception) -> str:
        said = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
        if password := self._url.password:
            said = said.replace(str(password), "***").replace(quote_plus(str(password)), "***")
        return said


def parse(url: str, folder: Path) -> URL:
    """Read SERVICE_FEEDBACK. Raises FeedbackUnavailable, without what it says."""
    if not url:
        return URL.create("sqlite", database=str(folder / FEEDBACK_FILE))
    try:
        found = make_url(url)
    except (SQLAlchemyError, ValueError):
        raise FeedbackUnavailable("SERVICE_FEEDBACK is no URL of a database") from None
    return found.set(drivername="postgresql+psycopg") if found.drivername in POSTGRES else found


def _sqlite(url: URL) -> Engine:
    engine = create_engine(
        url, hide_parameters=True, pool_timeout=WAIT_SECONDS, connect_args={"timeout": WAIT_SECONDS}
    )

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _: object) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")  # with it a commit outlives a power cut
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A writer that began as a reader could not wait for the other writers.
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _unusable(code: str) -> FeedbackUnavailable:
    return FeedbackUnavailable(
        f"the feedback database can not be used ({code}): predictions go on and are kept for it, "
        "try again later"
    )


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return found


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells how it is made
    if connection.dialect.name == "postgresql":
        from service.feedback.postgres import allow_migration

        allow_migration(connection)
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "service:migrations")
    command.upgrade(config, HEAD)


def _code(error: Exception) -> str:
    """The driver's own name of an error: SQLITE_..., an SQLSTATE, or its class."""
    original = error.orig if isinstance(error, DBAPIError) else error
    with suppress(AttributeError):
        return str(original.sqlite_errorname)  # type: ignore[union-attr]
    return str(getattr(original, "sqlstate", None) or type(original).__name__)
