"""The connection to the database of predictions and answers: SQLite or PostgreSQL.

Everything here blocks: it runs in threads. The tables are made, or brought up to date, when the
database is first used; Alembic is imported only where there is something to do.

The connection to a silent PostgreSQL is dropped (`postgres.py`). For some seconds after that, every
call fails at once: no thread waits for a server that has just kept another thread waiting.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
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
SKIP_SECONDS = 5.0  # without another try after a server did not answer
POSTGRES = ("postgres", "postgresql", "postgresql+psycopg")
BULK_LOCK = 7_203_611_934  # key of the advisory lock for bulk writes and migrations
FULL = ("SQLITE_FULL", "53100")  # of SQLite, and PostgreSQL's SQLSTATE
SILENT = "ConnectionTimeout"  # psycopg's error of a server that does not answer

log = logging.getLogger("service.feedback.store")


class Database:
    """The database of one process, opened with the first use and never before a fork."""

    def __init__(self, url: str, folder: Path, current: Callable[[], str] | None = None) -> None:
        """Use the database at a URL; a file in the folder if it is empty.

        `current` gives the URL of the moment, if it can change, such as with its password.
        """
        self._folder = folder
        self._given = url
        self._current_url = current or (lambda: url)
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
            FeedbackUnavailable: the database cannot be reached, or a newer release migrated it.
        """
        with self._translated_errors(), self._current().connect() as connection:
            yield connection

    @contextmanager
    def write(self, many: bool = False) -> Iterator[Connection]:
        """Give a connection whose changes are durable when the block ends, or undone.

        With `many`, writers take turns, so that rows become visible in the order of their numbers.

        Raises:
            FeedbackUnavailable: as above.
            StorageFull: its disk is full.
        """
        with self._translated_errors(), self._writing(self._current(), many) as connection:
            yield connection

    def migrate(self) -> None:
        """Bring the tables up to date. Raises as `read` does."""
        with self._translated_errors():
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
                connection.execute(text(f"SELECT pg_advisory_xact_lock({BULK_LOCK})"))
            yield connection

    def _current(self) -> Engine:
        """Return the engine, after bringing the tables up to date."""
        with self._lock:  # released before it connects, or all would wait one after another
            self._follow()
            if time.monotonic() < self._skip_until:
                raise _unusable(SILENT)
            if self._engine is None:
                self._engine = self._make_engine()
            engine = self._engine
        if not self._ready:  # several threads may do it at once: it has its own locks
            self._make_ready(engine)
            self._ready = True
        return engine

    def _follow(self) -> None:
        """Use another URL from now on, if it has changed; running statements end with the old."""
        if (url := self._current_url()) != self._given:
            self._given = url
            try:
                self._url = parse(url, self._folder)
            except FeedbackUnavailable as error:
                log.error("feedback database not changed", extra={"detail": error.detail})
            else:
                self._skip_until = 0.0
                self.close()

    def _make_engine(self) -> Engine:
        if self.is_sqlite:
            return _sqlite(self._url)
        from service.feedback.postgres import make_engine  # which imports the driver

        return make_engine(self._url)

    def _make_ready(self, engine: Engine) -> None:
        if self.is_sqlite:
            self._folder.mkdir(parents=True, exist_ok=True)
            # The lock also covers the change to write-ahead logging: SQLite does not wait for that.
            try:
                with locked(self._folder / f".{FEEDBACK_FILE}.lock", WAIT_SECONDS):
                    self._bring_up_to_date(engine)
            except StillLocked:
                raise FeedbackUnavailable(
                    "another process is migrating the feedback database: try again later"
                ) from None
        else:
            self._bring_up_to_date(engine)

    def _bring_up_to_date(self, engine: Engine) -> None:
        with engine.connect() as connection:
            found = _revision(connection)
        if found == HEAD:
            return
        with self._writing(engine, many=True) as connection:
            found = _revision(connection)  # another replica may have migrated it meanwhile
            if found is not None and found not in REVISIONS:
                raise FeedbackUnavailable(
                    f"the feedback database has a newer version ({found!a}) than this service "
                    f"({HEAD!a}): serve the newer release, or give this one a database of its own"
                )
            if found != HEAD:
                _upgrade(connection)
                log.info("feedback database migrated", extra={"before": found, "now": HEAD})

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Turn errors of a driver into errors of the service, without the address."""
        try:
            yield
        except (IntegrityError, DataError):
            raise
        except (SQLAlchemyError, OSError) as error:
            self._ready = False  # another database may answer next time
            code = _code(error)
            log.warning(
                "feedback database error", extra={"code": code, "detail": self._redacted(error)}
            )
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
    """Read SERVICE_FEEDBACK. Raises FeedbackUnavailable, whose message never shows the value."""
    if not url:
        return URL.create("sqlite", database=str(folder / FEEDBACK_FILE))
    try:
        found = make_url(url)
    except (SQLAlchemyError, ValueError):
        raise FeedbackUnavailable("SERVICE_FEEDBACK is not the URL of a database") from None
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
        cursor.execute("PRAGMA synchronous=FULL")  # so that a commit survives a power cut
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
        f"the feedback database is unavailable ({code}): predictions continue and wait for it, "
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

    logging.getLogger("alembic").setLevel(logging.WARNING)  # its INFO records describe each step
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
