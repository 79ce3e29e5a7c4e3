"""Brings the predictions of a replica from its spool into the database, and keeps that in bounds.

Every worker closes its own file each second. One of them, the one that holds a lock for as long as
it lives, imports what is closed, also by workers that have died; deletes what is too old or too
much; and looks how good the model is. A database that is away is asked again, more and more
rarely, and predictions wait for it in the spool. A file that can not be read stays where it is, and
is tried again now and then.

What is deleted is gone for good, and a clock can be wrong. Nothing tells a year that has gone by
from one that the clock has made up, but the second is soon set right. So a time that is days after
the last one that was believed is doubted for some hours, in which age is counted by that last one;
what a service that was off for months has to forget goes these hours later. The first that is
believed is the time of the newest prediction there is.
"""

import asyncio
import errno
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from service.errors import ServiceError
from service.feedback.accuracy import WINDOW_DAYS, AccuracyFile, AccuracySnapshot, FeedbackCounters
from service.feedback.journal import Journal, files, forget_refused, read, refuse, take
from service.feedback.recorder import JournalRecorder
from service.feedback.service import FeedbackService

TICK = 1.0  # seconds
LOOK = 5.0  # seconds between two looks how good the model is
PRUNE = 60.0  # seconds between two deletions
ASIDE = 60.0  # seconds between two tries to read a file that can not be read
LEAP = timedelta(days=2)  # a day that is so much later than the one before is doubted
DOUBTS = 360  # deletions until it is believed: 6 hours
LONGEST_PAUSE = 15.0  # seconds between two tries
PATIENCE = 5.0  # seconds that the end of a worker may take for its last predictions
LOCK = "keeper.lock"
OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # that say nothing about the file

log = logging.getLogger("service.feedback.importer")


class RetentionLimits(NamedTuple):
    """How much is kept."""

    days: int
    rows: int
    image_bytes: int


class FeedbackImporter:
    """One a worker."""

    def __init__(
        self,
        journal: Journal,
        recorder: JournalRecorder,
        answers: FeedbackService,
        accuracy_file: AccuracyFile,
        counts: FeedbackCounters,
        bounds: RetentionLimits,
    ) -> None:
        """Take the parts; see container.py."""
        self._journal = journal
        self._recorder = recorder
        self._feedback = answers
        self._accuracy_file = accuracy_file
        self._counts = counts
        self._bounds = bounds
        self._pool = ThreadPoolExecutor(1, "keeper")
        self._lock: int | None = None
        self._failures = 0
        self._retry_at = self._look_at = self._prune_at = 0.0
        self._aside: dict[Path, float] = {}  # files that can not be read, and when to try again
        self._believed: datetime | None = None
        self._doubts = 0

    async def run(self) -> None:
        """Keep until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK)
            self._recorder.tick()
            try:
                self._journal.rotate()
                await loop.run_in_executor(self._pool, self.turn)
            except Exception:  # a bug must not end the keeping, and shows in the log
                log.exception("could not keep")

    async def close(self) -> None:
        """Import what is left, as far as that is quick; the rest stays for the next start."""
        loop = asyncio.get_running_loop()
        self._journal.rotate(force=True)
        with suppress(TimeoutError, ServiceError, OSError):
            async with asyncio.timeout(PATIENCE):
                while self._journal.pending():
                    await loop.run_in_executor(self._pool, self._last_turn)
                    await asyncio.sleep(0.02)
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._lock is not None:
            os.close(self._lock)

    def turn(self) -> None:
        """Do what is due; in a thread."""
        self._measure()  # first: the database may not answer for a while
        now = time.monotonic()
        if self._lead() and now >= self._retry_at:
            try:
                self._keep(now)
            except (ServiceError, OSError) as error:
                self._failures += 1
                pause = min(LONGEST_PAUSE, 2.0 ** min(self._failures, 8) / 2)
                self._retry_at = time.monotonic() + pause
                log.warning("could not keep", extra={"detail": str(error), "again_in": pause})
            else:
                self._failures = 0
        self._accuracy_file.refresh()
        self._measure()

    def _measure(self) -> None:
        with suppress(OSError):  # the recorder meets it too, and says so
            self._journal.measure()
            self._accuracy_file.journal_bytes = self._journal.used

    def _last_turn(self) -> None:
        if self._lead():
            self._import()

    def _lead(self) -> bool:
        """Whether this worker is the one; the lock goes with its process."""
        if self._lock is None:
            path = self._journal.folder / LOCK
            with suppress(OSError):  # the disk is full or read-only: the recorder says so
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch(0o600)
                self._lock = take(path)
        return self._lock is not None

    def _keep(self, now: float) -> None:
        if self._believed is None and self._feedback.has_database():
            self._believed = self._feedback.retention().newest() or _now()
        self._import()
        if not self._feedback.has_database():
            return
        if now >= self._prune_at:
            self._prune()
            self._prune_at = time.monotonic() + PRUNE
        if now >= self._look_at:
            self._look()
            self._look_at = time.monotonic() + LOOK

    def _import(self) -> None:
        images = False
        for path in files(self._journal.folder):
            if time.monotonic() < self._aside.get(path, 0.0):
                continue
            try:
                if (descriptor := take(path)) is not None:
                    try:
                        images |= self._import_file(path)
                    finally:
                        os.close(descriptor)
            except OSError as error:
                self._set_aside(path, error)
            else:
                self._aside.pop(path, None)
        if images:
            self._feedback.retention().prune_images(self._bounds.image_bytes)

    def _set_aside(self, path: Path, error: OSError) -> None:
        """Go on with the other files; what it holds counts as lost, once."""
        if isinstance(error, FileNotFoundError):  # another keeper was quicker
            return
        if error.errno in OURS:
            raise error
        if path not in self._aside:
            log.error("can not read predictions", extra={"file": path.name, "detail": str(error)})
            self._counts.unrecorded("damaged")
        self._aside[path] = time.monotonic() + ASIDE

    def _import_file(self, path: Path) -> bool:
        """Import one closed file, then delete it; whether it held images."""
        found, damaged = read(path.read_bytes())
        if found:
            try:
                self._feedback.store().save(found)
            except ServiceError:
                raise
            except Exception:  # it would fail each time, and what comes after would wait for ever
                log.exception("the database refuses predictions", extra={"file": path.name})
                self._counts.unrecorded("refused", len(found))
                refuse(path)
                return False
        if damaged:
            self._counts.unrecorded("damaged", damaged)
        path.unlink()
        return any(seen.chip for seen in found)

    def _prune(self) -> None:
        before = self._today() - timedelta(days=self._bounds.days)
        self._feedback.retention().prune(before, self._bounds.rows, self._bounds.image_bytes)
        forget_refused(self._journal.folder, before.timestamp())

    def _today(self) -> datetime:
        """The time from which age is counted: what the clock says, unless that is doubted."""
        now = _now()
        believed = self._believed
        if believed is not None and now > believed + LEAP and self._doubts < DOUBTS:
            self._doubts += 1
            if self._doubts == 1:
                log.warning(
                    "the clock is days after what was last believed: nothing is deleted by it yet",
                    extra={"believed": str(believed), "clock": str(now)},
                )
            return believed
        self._believed, self._doubts = now, 0
        return now

    def _look(self) -> None:
        since = _now() - timedelta(days=WINDOW_DAYS)
        cells, floors = self._feedback.store().cells(since)
        kept = self._feedback.retention().kept()
        images = {kind.name.lower(): count for kind, count in kept.counts.items()}
        self._accuracy_file.write(
            AccuracySnapshot([(*cell,) for cell in cells], floors, images, kept.bytes)
        )


def _now() -> datetime:
    return datetime.now(UTC)
