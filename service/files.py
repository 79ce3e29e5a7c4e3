"""A lock over threads and processes, on a file; a process that dies lets go of it."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PAUSE = 0.005  # seconds between two tries


class StillLocked(Exception):
    """Somebody else has held the lock for all of that time."""


@contextmanager
def locked(path: Path, seconds: float) -> Iterator[None]:
    """Hold the lock of a file, which is made if need be. Raises StillLocked, OSError."""
    with path.open("ab") as file:
        deadline = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StillLocked from None
                time.sleep(PAUSE)
        yield
