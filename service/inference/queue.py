"""A bounded first-in, first-out queue of inferences on the event loop.

Inference runs on the event loop: with one thread a worker and one worker a core, a thread pool
only adds hops. Between two images the loop reads and writes, so that a health check waits for one
image, not for the whole queue; a request that does not fit into the queue is refused at once.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from service.errors import Overloaded

T = TypeVar("T")


class InferenceQueue:
    """Runs one job in each iteration of the event loop."""

    def __init__(self, limit: int) -> None:
        """Let at most `limit` jobs wait."""
        self._limit = limit
        self._waiting: deque[tuple[asyncio.Future[object], Callable[[], object]]] = deque()
        self._busy = False
        self.mark: Callable[[int], object] = lambda busy: None
        """Called with 1 when the queue becomes busy, and with 0 when it is idle again."""

    def __len__(self) -> int:
        """Count the jobs that wait."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        """Whether a job runs, or has just run, or waits."""
        return self._busy

    async def submit(self, job: Callable[[], T]) -> T:
        """Run a job: at once when the queue is empty, else after the jobs before it.

        Raises:
            Overloaded: the queue is full.
        """
        loop = asyncio.get_running_loop()
        if not self._busy:
            self._busy = True
            self.mark(1)
            loop.call_soon(self._run_next)
            return job()
        if len(self._waiting) >= self._limit:
            raise Overloaded(f"{self._limit} chips are waiting: try again in a second")
        future: asyncio.Future[T] = loop.create_future()
        self._waiting.append((future, job))  # type: ignore[arg-type]
        return await future

    def _run_next(self) -> None:
        while self._waiting:
            future, job = self._waiting.popleft()
            if future.done():  # the client has left
                continue
            asyncio.get_running_loop().call_soon(self._run_next)
            try:
                future.set_result(job())
            except Exception as error:
                future.set_exception(error)
            return
        self._busy = False
        self.mark(0)
