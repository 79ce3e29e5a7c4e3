"""The multiprocess directory of prometheus_client: allocation, lock, leftovers of killed services.

prometheus_client creates its files on demand and sparse: once the disk is full, the first number on
a new page kills the process with SIGBUS. So the supervisor allocates all files of every slot before
it forks. A worker counts in the files of its slot (metrics.py) and its successor continues in them:
counters never fall, and dead workers leave no files behind.
"""

import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from service.errors import UnsafeSettings

PREFIX = "conveyor-metrics-"
# Bytes of a file, by prometheus_client's name: room for all routes, methods and statuses that
# clients can cause, and for the gauges of 600 models in the life of a worker.
FILE_BYTES = {
    "counter": 512 << 10,
    "gauge_livesum": 128 << 10,
    "histogram": 1 << 20,
    "summary": 64 << 10,
}
GAUGES = ("gauge_livesum",)  # true only while the worker lives
HEADER = 8  # bytes of a file that say how much of it is used
MARK = "counter_0.db"  # a folder with this file is locked if its service lives

log = logging.getLogger("service.telemetry.multiprocess")


class MultiprocessDir:
    """The files of the workers, by slot."""

    def __init__(self, path: Path) -> None:
        """Use an existing folder."""
        self.path = path

    def allocate(self, workers: int) -> None:
        """Allocate the files of all workers; none has to grow later, when the disk may be full.

        Raises:
            OSError: the disk is full.
        """
        for slot in range(workers):
            for kind, size in FILE_BYTES.items():
                handle = os.open(self._file(kind, slot), os.O_RDWR | os.O_CREAT, 0o600)
                try:
                    os.posix_fallocate(handle, 0, size)
                finally:
                    os.close(handle)

    def reset_gauges(self, slot: int) -> None:
        """Reset the gauges of a dead worker; its counters stay.

        In place: a new file may find the disk full.
        """
        for kind in GAUGES:
            with suppress(OSError):  # a removed file must not end the supervisor
                handle = os.open(self._file(kind, slot), os.O_WRONLY)
                try:
                    os.pwrite(handle, bytes(HEADER), 0)
                finally:
                    os.close(handle)

    def _file(self, kind: str, slot: int) -> Path:
        return self.path / f"{kind}_{slot}.db"


@contextmanager
def multiprocess_dir(workers: int) -> Iterator[MultiprocessDir]:
    """Create a locked folder with room for so many workers, and remove it at the end.

    The supervisor and, after the fork, its workers hold the lock: the folder is in use until the
    last of them has ended, however that happens.

    Raises:
        UnsafeSettings: the disk has too little space.
    """
    folder, lock = _create(workers)
    try:
        yield folder
    finally:
        shutil.rmtree(folder.path, ignore_errors=True)
        os.close(lock)


def _create(workers: int) -> tuple[MultiprocessDir, int]:
    where = ""
    try:
        place = tempfile.gettempdir()  # raises without a writable folder
        where = f"{place}: "
        _remove_leftovers(Path(place))
        folder = MultiprocessDir(Path(tempfile.mkdtemp(prefix=PREFIX, dir=place)))
        lock = os.open(folder.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with suppress(OSError):  # some network disks have no locks; leftovers stay there
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            folder.allocate(workers)
        except OSError:
            shutil.rmtree(folder.path, ignore_errors=True)
            os.close(lock)
            raise
    except OSError as error:
        size = -(-workers * sum(FILE_BYTES.values()) >> 20)
        raise UnsafeSettings(
            f"TMPDIR: no space for the counter files of {workers} workers ({size} MiB): "
            f"{where}{error.strerror or error}; free some space there, or name another folder"
        ) from None
    return folder, lock


def _remove_leftovers(place: Path) -> None:
    """Remove the folders of killed services: a restart can find the same temporary disk."""
    for path in place.glob(f"{PREFIX}*"):
        with suppress(OSError):  # in use, another user's, or another service removes it just now
            _remove_leftover(path)


def _remove_leftover(path: Path) -> None:
    """Remove a folder of this user that no service uses.

    Raises:
        OSError: a service uses it, or it is not a folder.
    """
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(handle).st_uid == os.geteuid() and (path / MARK).exists():
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path)
            log.info("removed leftovers of a killed service", extra={"folder": path.name})
    finally:
        os.close(handle)
