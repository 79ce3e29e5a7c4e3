"""Takes and lists answers, for the routes: threads around the database, which is opened late.

SQLAlchemy is imported with the first use, so that a start does not wait for it. No request waits
longer than LONGEST for the database, whatever that does; its thread is freed by `postgres.py`.
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
from service.feedback.journal import find

if TYPE_CHECKING:
    from service.feedback.retention import Retention
    from service.feedback.store import LabelResult, PredictionRow, Store

THREADS = 4
WAITING = 64  # requests that may wait for a thread
LONGEST = 10.0  # seconds; a database that is away says so sooner, one that says nothing does not

T = TypeVar("T")


class FeedbackService:
    """The answers of people about predictions."""

    def __init__(
        self, url: str, state: Path, journal: Path, keep_below: float, counts: FeedbackCounters
    ) -> None:
        """Use the database at a URL, a file in `state` if empty, and the files in `spool`."""
        self._url = url
        self._state = state
        self._journal = journal
        self._keep_below = keep_below
        self._counts = counts
        self._pool = ThreadPoolExecutor(THREADS, "answers")
        self._waiting = 0
        self._lock = threading.Lock()
        self._store: Store | None = None

    async def give(self, request_id: str, label: str) -> "LabelResult":
        """Take an answer, durable when it returns.

        It may have been taken all the same when FeedbackUnavailable is raised: give it again.

        Raises:
            NotFound: there is no such prediction.
            Unprocessable: the label is no class of the model that predicted.
            FeedbackUnavailable, StorageFull, Overloaded: not now.
        """
        now = datetime.now(UTC)
        return await self._run(lambda: self._give(request_id, label, now))

    async def page(self, after: int, limit: int, labelled: bool | None) -> "list[PredictionRow]":
        """List predictions in the order in which they came in; raises as above."""
        return await self._run(lambda: self.store().page(after, limit, labelled))

    async def image(self, request_id: str) -> bytes:
        """Give a kept image as NPY. Raises NotFound, and as above."""
        found = await self._run(lambda: self.store().image(request_id))
        if found is None:
            raise NotFound(
                "id: no image is kept for this request: SERVICE_KEEP_IMAGES says how many are"
            )
        return found

    def store(self) -> "Store":
        """The database, which is opened now if it was not; in a thread."""
        with self._lock:
            if self._store is None:
                from service.feedback.database import Database
                from service.feedback.store import Store

                self._store = Store(Database(self._url, self._state), self._keep_below)
            return self._store

    def retention(self) -> "Retention":
        """What deletes from it; in a thread."""
        from service.feedback.retention import Retention

        return Retention(self.store().database)

    def has_database(self) -> bool:
        """Whether there is one: a file is made with the first prediction."""
        return bool(self._url) or (self._state / FEEDBACK_FILE).exists()

    def close(self) -> None:
        """Begin nothing more; a thread that waits for a database is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _give(self, request_id: str, label: str, now: datetime) -> "LabelResult":
        store = self.store()
        given = store.answer(request_id, label, now)
        if given is None:
            seen = find(self._journal, request_id)
            if seen is not None:
                store.save([seen])
            # Also when it is not there: it may have been imported between the two looks.
            given = store.answer(request_id, label, now)
        if given is None:
            raise NotFound(
                "request_id: there is no prediction with this id, or not any more; the answer of "
                "/predict names it, and another replica's can take some seconds to arrive"
            )
        if given.delay is not None:
            self._counts.delay.observe(max(0.0, given.delay))
        return given

    async def _run(self, work: Callable[[], T]) -> T:
        if self._waiting >= WAITING:
            raise Overloaded("too many answers at once: try again in a second")
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            if self._store is None:  # imports, which a busy machine takes seconds for
                await loop.run_in_executor(self._pool, self.store)
            async with asyncio.timeout(LONGEST):
                return await loop.run_in_executor(self._pool, work)
        except TimeoutError:
            raise FeedbackUnavailable(
                "the feedback database did not answer in time: predictions go on and are kept for "
                "it, try again later"
            ) from None
        finally:
            self._waiting -= 1
