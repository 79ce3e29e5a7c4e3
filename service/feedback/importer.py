"""Imports a replica's predictions from the journal into the database, and deletes old ones.

Every worker closes its journal file each second. One worker, the leader, holds a lock for as long
as it lives: it imports all closed files, also those of dead workers, deletes what retention no
longer keeps, and publishes live accuracy. While the database is unavailable, predictions stay in
the journal and the leader retries at growing intervals. An unreadable file stays where it is and is
retried every minute.

Each run deletes only a small share of the expired predictions (`retention.py`): if the clock is
wrong, there is time to set it right.
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
from service.feedback.journal import (
    Journal,
    journal_files,
    lock_file,
    prune_refused,
    read_frames,
    set_aside,
)
from service.feedback.recorder import JournalRecorder
from service.feedback.service import FeedbackService

TICK = 1.0  # seconds
PUBLISH = 5.0  # seconds between two publications of live accuracy
PRUNE = 60.0  # seconds between two deletions
UNREADABLE_RETRY = 60.0  # seconds between two tries to read an unreadable file
LONGEST_PAUSE = 15.0  # seconds between two tries
PATIENCE = 5.0  # seconds for a stopping worker to import its last predictions
LOCK = "keeper.lock"
PROCESS_ERRORS = (
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
)  # errors that say nothing about the file

log = logging.getLogger("service.feedback.importer")


class RetentionLimits(NamedTuple):
    """Limits of what is kept."""

    days: int
    rows: int
    image_bytes: int


class FeedbackImporter:
    """Imports, prunes and publishes; one per worker, of which one leads."""

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
        self._pool = ThreadPoolExecutor(1, "importer")
        self._lock: int | None = None
        self._failures = 0
        self._retry_at = self._publish_at = self._prune_at = 0.0
        self._unreadable: dict[Path, float] = {}  # unreadable files, and when to retry
        self._behind = False  # retention: more has expired than one run deletes

    async def import_periodically(self) -> None:
        """Import once a second, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK)
            self._recorder.reset_image_quota()
            try:
                self._journal.rotate_file()
                await loop.run_in_executor(self._pool, self.run_once)
            except Exception:  # a bug must not end the import; the log shows it
                log.exception("feedback import failed")

    async def close(self) -> None:
        """Import the remaining files within PATIENCE; the others stay for the next start.

        It does not wait for threads that still wait for a silent database.
        """
        loop = asyncio.get_running_loop()
        self._journal.rotate_file(force=True)
        with suppress(TimeoutError, ServiceError, OSError):
            async with asyncio.timeout(PATIENCE):
                while self._journal.has_pending_files():
                    await loop.run_in_executor(self._pool, self._import_remaining)
                    await asyncio.sleep(0.02)
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._feedback.close()
        if self._lock is not None:
            os.close(self._lock)

    def run_once(self) -> None:
        """Import, prune and publish what is due; runs in a thread."""
        self._measure_journal()  # before the database, which may not respond for a while
        now = time.monotonic()
        if self._is_leader() and now >= self._retry_at:
            try:
                self._import_prune_publish(now)
            except (ServiceError, OSError) as error:
                self._failures += 1
                pause = min(LONGEST_PAUSE, 2.0 ** min(self._failures, 8) / 2)
                self._retry_at = time.monotonic() + pause
                log.warning(
                    "feedback import failed", extra={"detail": str(error), "again_in": pause}
                )
            else:
                self._failures = 0
        self._accuracy_file.refresh()
        self._measure_journal()

    def _measure_journal(self) -> None:
        with suppress(OSError):  # the recorder gets the same error and logs it
            self._journal.measure_size()
            self._accuracy_file.journal_bytes = self._journal.used

    def _import_remaining(self) -> None:
        if self._is_leader():
            self._import_files()

    def _is_leader(self) -> bool:
        """Whether this worker leads; the lock is released when its process ends."""
        if self._lock is None:
            path = self._journal.folder / LOCK
            with suppress(OSError):  # the disk is full or read-only: the recorder logs it
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch(0o600)
                self._lock = lock_file(path)
        return self._lock is not None

    def _import_prune_publish(self, now: float) -> None:
        self._import_files()
        if not self._feedback.has_database():
            return
        if now >= self._prune_at:
            self._prune()
            self._prune_at = time.monotonic() + PRUNE
        if now >= self._publish_at:
            self._publish_accuracy()
            self._publish_at = time.monotonic() + PUBLISH

    def _import_files(self) -> None:
        images = False
        for path in journal_files(self._journal.folder):
            if time.monotonic() < self._unreadable.get(path, 0.0):
                continue
            try:
                if (descriptor := lock_file(path)) is not None:
                    try:
                        images |= self._import_file(path)
                    finally:
                        os.close(descriptor)
            except OSError as error:
                self._retry_later(path, error)
            else:
                self._unreadable.pop(path, None)
        if images:
            self._feedback.retention().prune_images(self._bounds.image_bytes)

    def _retry_later(self, path: Path, error: OSError) -> None:
        """Retry the file later and count it once as damaged; the other files are imported."""
        if isinstance(error, FileNotFoundError):  # another leader was quicker
            return
        if error.errno in PROCESS_ERRORS:
            raise error
        if path not in self._unreadable:
            log.error(
                "unreadable predictions file", extra={"file": path.name, "detail": str(error)}
            )
            self._counts.count_unrecorded("damaged")
        self._unreadable[path] = time.monotonic() + UNREADABLE_RETRY

    def _import_file(self, path: Path) -> bool:
        """Import one closed file and delete it; returns whether it held images."""
        found, damaged = read_frames(path.read_bytes())
        if found:
            try:
                self._feedback.store().save_predictions(found)
            except ServiceError:
                raise
            except Exception:  # it would fail every time and block the files after it
                log.exception("database refused predictions", extra={"file": path.name})
                self._counts.count_unrecorded("refused", len(found))
                set_aside(path)
                return False
        if damaged:
            self._counts.count_unrecorded("damaged", damaged)
        path.unlink()
        return any(seen.chip for seen in found)

    def _prune(self) -> None:
        before = _now() - timedelta(days=self._bounds.days)
        left = self._feedback.retention().prune(before, self._bounds.rows, self._bounds.image_bytes)
        if left and not self._behind:
            log.warning(
                "predictions expire faster than they are deleted: check the clock",
                extra={"left": left, "older_than": str(before)},
            )
        self._behind = left > 0
        prune_refused(self._journal.folder, before.timestamp())

    def _publish_accuracy(self) -> None:
        since = _now() - timedelta(days=WINDOW_DAYS)
        cells, floors = self._feedback.store().count_confusion(since)
        kept = self._feedback.retention().kept()
        images = {kind.name.lower(): count for kind, count in kept.counts.items()}
        objects = [(*sums,) for sums in self._feedback.store().count_objects(since)]
        self._accuracy_file.write(
            AccuracySnapshot([(*cell,) for cell in cells], floors, images, kept.bytes, objects)
        )


def _now() -> datetime:
    return datetime.now(UTC)
