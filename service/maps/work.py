"""Finished strips, in a file beside the map that survives a kill.

    bytes 0 to height x width          labels, line by line
    bytes to 2 x height x width        confidence
    then                               one line of JSON for each finished strip

A strip counts once its line is there, and the line is written once its pixels are on disk. The name
of the file holds a digest of everything that decides on the pixels: another scene, model or option
begins anew.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from contracts.bundle import NODATA
from service.errors import Conflict, StorageFull, Unavailable
from service.files import is_full, reason
from service.maps.grid import Span, Strip

Array = npt.NDArray[Any]
PLANES = 2  # labels and confidence
UNFINISHED = (".plain", ".cog")
"""Of the map while it is written, beside the work file."""
LOW = 50  # percent of confidence


class Counts(NamedTuple):
    """Pixels of a finished strip."""

    labels: list[int]
    """Of each class."""
    low: int
    """With a confidence below LOW."""
    confidence: int
    """Sum of the confidence of all with data, percent."""


def count(planes: Array, classes: int) -> Counts:
    """Count the pixels of a strip, (2, rows, columns) uint8."""
    labels, confidence = planes
    of_classes = [int(np.count_nonzero(labels == value)) for value in range(classes)]
    nodata = labels.size - sum(of_classes)
    low = int(np.count_nonzero(confidence < LOW))
    return Counts(of_classes, low, int(confidence.sum(dtype=np.int64)) - nodata * NODATA)


def total(strips: Iterable[Counts]) -> Counts:
    """Sum the counts of strips."""
    labels, low, confidence = zip(*strips, strict=True)
    return Counts(
        [sum(of_class) for of_class in zip(*labels, strict=True)], sum(low), sum(confidence)
    )


class Work:
    """The work file of one map, open and locked."""

    def __init__(self, path: Path, handle: int, height: int, width: int) -> None:
        """Read which strips are finished; a line that was cut off is forgotten."""
        self.path = path
        self._handle = handle
        self._shape = (height, width)
        self.is_needed = True
        """Whether another start may go on from here; otherwise the file is deleted."""
        self.done: dict[int, Counts] = {}
        self._end = PLANES * height * width
        if os.fstat(handle).st_size < self._end:
            os.posix_fallocate(handle, 0, self._end)  # a full disk shows now, and not in an hour
        journal = os.pread(handle, os.fstat(handle).st_size - self._end, self._end)
        for line in journal.splitlines(keepends=True):
            if not line.endswith(b"\n"):  # the process was killed while it wrote
                break
            number, *counts = json.loads(line)
            self.done[number] = Counts(*counts)
            self._end += len(line)
        os.ftruncate(handle, self._end)

    def add(self, strip: Strip, planes: Array, counts: Counts) -> None:
        """Keep a strip, (2, rows, columns) uint8.

        Raises:
            OSError: the disk is full, or fails.
        """
        height, width = self._shape
        for plane, lines in enumerate(planes):
            for row, line in enumerate(lines, strip.rows.start):
                at = (plane * height + row) * width + strip.columns.start
                _write(self._handle, memoryview(line), at)
        os.fdatasync(self._handle)
        line = json.dumps([strip.number, *counts]).encode() + b"\n"
        _write(self._handle, line, self._end)
        self._end += len(line)
        self.done[strip.number] = counts

    def lines(self, plane: int, rows: Span) -> Array:
        """Rows of labels (plane 0) or confidence (1), (rows, width) uint8."""
        height, width = self._shape
        count = rows.stop - rows.start
        content = os.pread(self._handle, count * width, (plane * height + rows.start) * width)
        return np.frombuffer(content, np.uint8).reshape(count, width)


@contextmanager
def work_on(target: Path, digest: str, height: int, width: int) -> Iterator[Work]:
    """Open the work file of a map; it stays where it is unless it is needed no more.

    Then those of other options go too, but for what another process works on.

    Raises:
        Conflict: another process makes this map.
        StorageFull: there is no room for it.
        Unavailable: it cannot be written.
    """
    path = name_of(target, digest)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise refusal(error, target) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(
                f"another process makes {target.name}: wait for it, or take another -o"
            ) from None
        try:
            work = Work(path, handle, height, width)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise refusal(error, target) from None
        try:
            yield work
        finally:
            if not work.is_needed:
                delete(path)
                _delete_others(target)
    finally:
        os.close(handle)


def name_of(target: Path, digest: str) -> Path:
    """The work file of a map."""
    return target.with_name(f".{target.name}.{digest[:16]}.work")


def _delete_others(target: Path) -> None:
    for path in target.parent.glob(f".{target.name}.*.work"):
        with path.open("rb+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            delete(path)


def delete(path: Path) -> None:
    """Delete a work file, and what a process that was killed left beside it."""
    for suffix in (*UNFINISHED, ".work"):
        path.with_suffix(suffix).unlink(missing_ok=True)


def refusal(error: OSError, target: Path) -> StorageFull | Unavailable:
    """Explain why nothing can be written beside the map."""
    if is_full(error):
        return StorageFull(
            f"the disk of {target.name} is full: free some space, then start again: what is "
            "finished is kept"
        )
    return Unavailable(f"-o {target.name} cannot be written: {reason(error)}: take another folder")


def _write(handle: int, content: bytes | memoryview, at: int) -> None:
    while content:
        written = os.pwrite(handle, content, at)
        content, at = content[written:], at + written
