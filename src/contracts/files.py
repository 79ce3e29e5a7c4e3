"""Files that processes share: atomic writes, locks, and whether a process is alive."""

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PAUSE = 0.005  # seconds between two attempts to lock


class StillLocked(Exception):
    """Another thread or process has held the lock for all of that time."""


@contextmanager
def locked(path: Path, seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock of a file, over threads and processes; a process that dies releases it.

    The file is created if need be, its folder too, and never deleted: another process could hold
    the lock of the deleted one. Raises StillLocked after `seconds`, OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise StillLocked from None
                time.sleep(PAUSE)
        yield
    finally:
        os.close(handle)


def replace_file(
    path: Path, content: str | bytes, durable: bool = True, modified: int | None = None
) -> None:
    """Write a file in one step: readers find the old content or the new one, never a part.

    With `durable` that holds after a power cut too; it costs two fsyncs. `modified` is the time of
    the new file, in ns. Raises OSError; then the old content stays and nothing is left behind.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with fresh.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        if modified is not None:
            os.utime(fresh, ns=(modified, modified))
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    if durable:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def birth(pid: int) -> str:
    """When a process started, in clock ticks since the machine did; empty if it does not run.

    Number and birth together name a process for good: in a container that starts again, a new
    worker has the number of an old one.
    """
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    state, *rest = status.rpartition(")")[2].split()  # the name before it may hold anything
    return "" if state in "ZX" else rest[18]


def is_alive(pid: int, born: str) -> bool:
    """Whether the process with this number and birth still runs."""
    return bool(born) and birth(pid) == born
