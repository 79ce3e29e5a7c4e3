"""Feedback service: adds labels and lists predictions, in threads around the database.

The first use imports SQLAlchemy and opens the database, so that the start does not wait for them.
No request waits longer than LONGEST for the database; `postgres.py` frees the thread behind it.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from service.errors import FeedbackUnavailable, NotFound, Overloaded
from service.feedback import FEEDBACK_FILE
from service.feedback.accuracy import FeedbackCounters
from service.feedback.journal import find_prediction

if TYPE_CHECKING:
    from service.feedback.retention import Retention
    from service.feedback.store import Label, LabelResult, PredictionRow, Store

THREADS = 4
WAITING = 64  # requests that may wait for a thread
LONGEST = 10.0  # seconds that a request waits for a silent database

T = TypeVar("T")


class FeedbackService:
    """Labels of people for recorded predictions."""

    def __init__(
        self,
        url: str,
        state: Path,
        journal: Path,
        keep_below: float,
        counts: FeedbackCounters,
        current: Callable[[], str] | None = None,
    ) -> None:
        """Use the database at a URL (a file in `state` if empty) and the files in `journal`.

        `current` gives the URL of the moment, if it can change.
        """
        self._url = url
        self._current_url = current
        self._state = state
        self._journal = journal
        self._keep_below = keep_below
        self._counts = counts
        self._pool = ThreadPoolExecutor(THREADS, "answers")
        self._waiting = 0
        self._lock = threading.Lock()
        self._store: Store | None = None

    async def add_label(self, request_id: str, label: "Label") -> "LabelResult":
        """Store a label, durable when it returns.

        After FeedbackUnavailable the label may be stored nevertheless: adding it again is safe.

        Raises:
            NotFound: no prediction has this id.
            Unprocessable: the label is not a class, or not objects, of the model that predicted.
            FeedbackUnavailable, StorageFull, Overloaded: try again later.
        """
        now = datetime.now(UTC)
        return await self._run(lambda: self._add_label(request_id, label, now))

    async def list_predictions(
        self, after: int, limit: int, labelled: bool | None
    ) -> "list[PredictionRow]":
        """List predictions in the order of their arrival; raises as above."""
        return await self._run(lambda: self.store().list_predictions(after, limit, labelled))

    async def read_image(self, request_id: str) -> bytes:
        """Read a stored image as NPY. Raises NotFound, and as above."""
        found = await self._run(lambda: self.store().read_image(request_id))
        if found is None:
            raise NotFound(
                "id: no image of this request is stored: SERVICE_KEEP_IMAGES limits how many are"
            )
        return found

    def store(self) -> "Store":
        """Return the store, opened with the first call; call it in a thread."""
        with self._lock:
            if self._store is None:
                from service.feedback.database import Database
                from service.feedback.store import Store

                database = Database(self._url, self._state, self._current_url)
                self._store = Store(database, self._keep_below)
            return self._store

    def retention(self) -> "Retention":
        """Return the retention of the store; call it in a thread."""
        from service.feedback.retention import Retention

        return Retention(self.store().database)

    def has_database(self) -> bool:
        """Return whether a database exists: the first prediction creates the file of SQLite."""
        return bool(self._url) or (self._state / FEEDBACK_FILE).exists()

    def close(self) -> None:
        """Start no more work; threads that wait for the database are left alone."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _add_label(self, request_id: str, label: "Label", now: datetime) -> "LabelResult":
        store = self.store()
        given = store.add_label(request_id, label, now)
        if given is None:
            seen = find_prediction(self._journal, request_id)
            if seen is not None:
                store.save_predictions([seen])
            # Try again in any case: the importer may have stored it between the two look-ups.
            given = store.add_label(request_id, label, now)
        if given is None:
            raise NotFound(
                "request_id: no prediction with this id is stored: copy the id from the answer of "
                "/predict; another replica's take seconds to arrive, and old ones are deleted"
            )
        if given.delay is not None:
            self._counts.delay.observe(max(0.0, given.delay))
        return given

    async def _run(self, work: Callable[[], T]) -> T:
        if self._waiting >= WAITING:
            raise Overloaded("too many feedback requests at once: try again in a second")
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            if (
                self._store is None
            ):  # outside of the time limit: a busy machine takes seconds to import it
                await loop.run_in_executor(self._pool, self.store)
            async with asyncio.timeout(LONGEST):
                return await loop.run_in_executor(self._pool, work)
        except TimeoutError:
            raise FeedbackUnavailable(
                "the feedback database did not answer in time: predictions continue and wait for "
                "it, try again later"
            ) from None
        finally:
            self._waiting -= 1
