"""Counters in memory-mapped files: each worker writes its own file, any worker reads all of them.

    <key>.json      layout: the model and labels that the numbers stand for; one for all workers
    <key>-<n>.tally the numbers of one worker: totals since the start, then slices of time

All numbers are 8 aligned bytes, so a reader never sees half of a change; totals only grow. A file
belongs to the process that has it locked. When that process dies, the kernel releases the lock and
the next worker continues in the same file: no count is lost, and files do not pile up. A locked
file is never deleted: its owner would keep writing to an unlinked inode.
"""

import fcntl
import hashlib
import json
import mmap
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from service.files import replace_file

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
SHARES = tuple(step / 20 for step in range(1, 20))  # of a probability
SLICES = 60  # that a window consists of
RECORDS = 64  # slices that a file has room for; the next one never overwrites one of the window
MODELS = 16  # whose totals are kept, and those in use: a service that runs for years sees many
WORKERS = 1024  # that could ever count at the same time

Floats = npt.NDArray[np.float64]
Record = npt.NDArray[np.void]
Fields = list[tuple[str, str, int | tuple[int, ...]]]


class CounterLayout(NamedTuple):
    """Model and labels of the numbers. The queue has an empty layout."""

    tag: str
    sha256: str
    classes: tuple[str, ...] = ()
    inputs: tuple[tuple[str, str], ...] = ()
    """Band and statistic of every column (C,) of the input's statistics."""
    bins: tuple[int, ...] = ()
    """Bins of every signal (G,)."""
    signals: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """Name of every signal, and its counts in those bins on unseen chips of the training."""

    @property
    def key(self) -> str:
        """Return the name of the files: one per tag, model and layout."""
        return hashlib.sha256(json.dumps(self).encode()).hexdigest()[:16]

    @property
    def totals(self) -> np.dtype[np.void]:
        """Totals of one worker; a histogram has a count per bucket, the last open, and a sum."""
        shares, seconds = len(SHARES) + 2, len(SECONDS) + 2
        fields: Fields = [
            ("predictions", "f8", (len(self.classes),)),
            ("confidence", "f8", (shares,)),
            ("entropy", "f8", (shares,)),
            ("inference", "f8", (seconds,)),
            ("queue", "f8", (seconds,)),
            ("sums", "f8", (len(self.inputs),)),
            ("counts", "f8", (len(self.inputs),)),
            ("not_finite", "f8", (1,)),
        ]
        return np.dtype(fields)

    @property
    def slice(self) -> np.dtype[np.void]:
        """Observations of one worker in one slice of time; the last column is the confidence."""
        columns = len(self.inputs) + 1
        fields: Fields = [
            ("number", "f8", (1,)),
            ("low", "f8", (columns,)),
            ("high", "f8", (columns,)),
            ("not_finite", "f8", (len(self.bins),)),
            ("bins", "f8", (sum(self.bins),)),
        ]
        return np.dtype(fields)

    @property
    def size(self) -> int:
        """Bytes of a file."""
        return self.totals.itemsize + RECORDS * self.slice.itemsize


QUEUE = CounterLayout("", "")
"""Layout of the queue's counters, which belong to no model."""


class SharedCounters:
    """The counter file that this process writes."""

    def __init__(self, folder: Path, names: CounterLayout) -> None:
        """Map a file that no process has locked, or a new one.

        Raises:
            OSError: the disk is full.
        """
        self.names = names
        self._description = folder / f"{names.key}.json"
        # First: a locked file is not removed meanwhile.
        self._map = _map_free_file(folder, names)
        self.totals: Record = np.frombuffer(self._map, names.totals, 1)
        self._slices: Record = np.frombuffer(self._map, names.slice, RECORDS, names.totals.itemsize)
        if names != QUEUE and not self.described:
            self.describe()

    @property
    def described(self) -> bool:
        """Whether the layout is written, so that readers find the numbers."""
        return self._description.exists()

    def describe(self) -> None:
        """Write the layout atomically; from now on it is the latest.

        Raises:
            OSError: the disk is full.
        """
        _write_description(self._description, self.names)

    def slice(self, number: int) -> Record:
        """Return the record of a slice of time, emptied when the slice has just begun."""
        record = self._slices[number % RECORDS : number % RECORDS + 1]
        if record["number"][0, 0] != number:
            record["number"] = 0  # no slice, while it is emptied
            record["low"], record["high"] = np.inf, -np.inf
            record["not_finite"] = record["bins"] = 0
            record["number"] = number
        return record


class Window(NamedTuple):
    """Observations of all workers in the last slices of time."""

    counts: list[npt.NDArray[np.int64]]
    """(K,) of every signal."""
    not_finite: npt.NDArray[np.int64]
    """(G,)."""
    constant: bool
    """All chips had the same statistics and the same confidence: it was one image, many times."""


def read_totals(folder: Path) -> list[tuple[CounterLayout, Record]]:
    """Add up the totals of all workers, for every model that has any, the latest first."""
    found = []
    for _, path in _descriptions(folder):
        if (names := _read_layout(path)) is not None:
            found.append((names, _sum_totals(folder, names)))
    return found


def read_queue(folder: Path) -> Record:
    """Add up the queue counters of all workers."""
    return _sum_totals(folder, QUEUE)


def read_window(folder: Path, names: CounterLayout, number: int) -> Window:
    """Add up the slices of all workers, from `SLICES` before `number` to it."""
    columns, signals = len(names.inputs) + 1, len(names.bins)
    low, high = np.full(columns, np.inf), np.full(columns, -np.inf)
    not_finite, bins = np.zeros(signals), np.zeros(sum(names.bins))
    width = names.slice.itemsize // 8
    for numbers in _files(folder, names):
        region = numbers[names.totals.itemsize // 8 :].reshape(RECORDS, width)
        copy = region.copy()
        # A record without a number is empty. A machine that has just started counts from 1.
        seen = (copy[:, 0] > max(number - SLICES, 0)) & (copy[:, 0] <= number)
        seen &= copy[:, 0] == region[:, 0]  # it did not begin anew while it was read
        if seen.any():
            record = copy.view(names.slice)[seen, 0]
            low = np.minimum(low, record["low"].min(axis=0))
            high = np.maximum(high, record["high"].max(axis=0))
            not_finite += record["not_finite"].sum(axis=0)
            bins += record["bins"].sum(axis=0)
    ends = np.cumsum(names.bins)[:-1]
    return Window(
        np.split(bins.astype(np.int64), ends),
        not_finite.astype(np.int64),
        bool((low >= high).all() and (low == high).any()),
    )


def _write_description(path: Path, names: CounterLayout) -> None:
    """Make a model the latest, even after the clock was set back; remove the oldest models."""
    latest = max((moment for moment, _ in _descriptions(path.parent)), default=0)
    moment = max(time.time_ns(), latest + 1)
    try:
        os.utime(path, ns=(moment, moment))  # a full disk does not prevent it
    except FileNotFoundError:
        replace_file(path, json.dumps(names), durable=False, modified=moment)
    for _, old in _descriptions(path.parent)[MODELS:]:
        if old != path:
            _remove_model(old)


def _remove_model(path: Path) -> None:
    """Remove the numbers of a model, unless a living process has it loaded."""
    files = list(path.parent.glob(f"{path.stem}-*.tally"))
    with ExitStack() as stack:
        for item in files:
            try:
                handle = os.open(item, os.O_RDWR | os.O_CLOEXEC)
                stack.callback(os.close, handle)
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except FileNotFoundError:  # another worker removes it too
                continue
            except BlockingIOError:  # in use
                return
        for item in [path, *files]:
            item.unlink(missing_ok=True)


def _map_free_file(folder: Path, names: CounterLayout) -> mmap.mmap:
    """Map the first file that no living process has locked; the lock lasts as long as the map."""
    for number in range(WORKERS):
        path = folder / f"{names.key}-{number}.tally"
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(handle).st_nlink:  # it was removed before it was locked
                continue
            # All of it now: a disk that is full later would end the process with SIGBUS.
            os.posix_fallocate(handle, 0, names.size)
            return mmap.mmap(handle, names.size)  # holds a duplicate of the handle, and so the lock
        except BlockingIOError:
            continue
        finally:
            os.close(handle)
    raise OSError(f"{WORKERS} processes count already")


def _descriptions(folder: Path) -> list[tuple[int, Path]]:
    """List when each model was described, in ns, and its file; the latest first."""
    found = []
    for path in folder.glob("*.json"):
        with suppress(OSError):  # it has just been removed
            found.append((path.stat().st_mtime_ns, path))
    return sorted(found, reverse=True)


def _read_layout(path: Path) -> CounterLayout | None:
    try:
        return _parse_layout(path.read_bytes())
    except OSError:  # removed
        return None


@lru_cache(maxsize=MODELS)
def _parse_layout(content: bytes) -> CounterLayout:
    tag, sha256, classes, inputs, bins, signals = json.loads(content)
    pairs = tuple((band, statistic) for band, statistic in inputs)
    named = tuple((name, tuple(counts)) for name, counts in signals)
    return CounterLayout(tag, sha256, tuple(classes), pairs, tuple(bins), named)


def _files(folder: Path, names: CounterLayout) -> Iterator[Floats]:
    """Map the files of all workers, for reading."""
    for path in sorted(folder.glob(f"{names.key}-*.tally")):
        try:
            with path.open("rb") as file:
                yield np.frombuffer(mmap.mmap(file.fileno(), names.size, access=mmap.ACCESS_READ))
        except (OSError, ValueError):  # removed, or being made and still too short
            continue


def _sum_totals(folder: Path, names: CounterLayout) -> Record:
    total = np.zeros(names.totals.itemsize // 8)
    for numbers in _files(folder, names):
        total += numbers[: len(total)]
    found: Any = total.view(names.totals)
    return found  # type: ignore[no-any-return]
