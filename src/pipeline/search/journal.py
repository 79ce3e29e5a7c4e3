"""Where the history of searches lies: Optuna's journal in a file, or PostgreSQL by its URL.

A process that is killed, or a full disk, may leave half a line at the end of the file. Optuna would
append the next record to it, and lose both (optuna #5138). Here each writer first cuts the file at
its last newline. The lock is the kernel's, which a killed process cannot keep.
"""

import fcntl
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from pipeline.errors import ParameterError

FOLDER = Path("artifacts/search")
JOURNAL = FOLDER / "journal.log"
HEARTBEAT, GRACE = 60, 600  # seconds; of workers on other machines


class Journal(JournalFileBackend):
    """Optuna's file, whose torn end is cut before anything is appended."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        super().__init__(str(path), Mending(path))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append records; an error names the file."""
        with naming(self._path):
            super().append_logs(logs)


class Mending(JournalFileOpenLock):
    """The lock of the journal: whoever gets it finds a file of whole lines."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._journal = path
        self._file: BinaryIO | None = None

    def acquire(self) -> bool:
        """Wait for the lock, then cut what a killed writer has left."""
        file = self._journal.with_suffix(".lock").open("ab")
        fcntl.flock(file, fcntl.LOCK_EX)
        mend(self._journal)
        self._file = file
        return True

    def release(self) -> None:
        """Give it back."""
        if self._file:
            self._file.close()
            self._file = None


def mend(path: Path) -> None:
    """Cut a file at its last newline."""
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        whole = end
        while whole:
            begin = max(0, whole - 65536)
            file.seek(begin)
            found = file.read(whole - begin).rfind(b"\n")
            if found >= 0:
                whole = begin + found + 1
                break
            whole = begin
        if whole != end:
            file.truncate(whole)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an error of the disk name the file."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def open_storage(url: str = "") -> BaseStorage:
    """Open the history: the journal of this folder, or a database.

    Raises:
        ParameterError: the URL is not PostgreSQL's, or the database does not answer.
    """
    if not url:
        return JournalStorage(Journal(JOURNAL))
    scheme, mark, rest = url.partition("://")
    if scheme not in ("postgresql", "postgres", "postgresql+psycopg") or not mark:
        raise ParameterError(
            f"SEARCH_STORAGE is {scheme}://...: use postgresql://user:password@host/database, or "
            "leave it empty for a file (SQLite cannot serve several workers)"
        )
    try:
        with warnings.catch_warnings(action="ignore"):  # heartbeats may change with a version
            return RDBStorage(
                f"postgresql+psycopg://{rest}",
                engine_kwargs={"pool_pre_ping": True},
                heartbeat_interval=HEARTBEAT,
                grace_period=GRACE,
            )
    except Exception as error:  # SQLAlchemy's and psycopg's, each with classes of its own
        reason = str(getattr(error, "orig", error)).strip().partition("\n")[0]
        raise ParameterError(
            f"SEARCH_STORAGE: the database does not answer ({reason}): check host, name, password"
        ) from None
