"""One chip at a time in a process, first come, first served; a bounded line.

Inference runs on the event loop: with one thread a worker and one worker a core, a thread pool
only adds hops. Between two chips the loop reads and answers, so that a health check waits for one
chip, not for all of them, and what can not be served in time is told at once.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from service.errors import Overloaded

T = TypeVar("T")


class Turns:
    """Runs jobs one a turn of the event loop."""

    def __init__(self, limit: int) -> None:
        """Let at most `limit` jobs wait."""
        self._limit = limit
        self._waiting: deque[tuple[asyncio.Future[object], Callable[[], object]]] = deque()
        self._taken = False

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    async def run(self, job: Callable[[], T]) -> T:
        """Run a job when it is its turn; at once when nobody waits.

        Raises:
            Overloaded: too many wait.
        """
        loop = asyncio.get_running_loop()
        if not self._taken:
            self._taken = True
            loop.call_soon(self._next)
            return job()
        if len(self._waiting) >= self._limit:
            raise Overloaded(f"{self._limit} chips are waiting: try again in a second")
        future: asyncio.Future[T] = loop.create_future()
        self._waiting.append((future, job))  # type: ignore[arg-type]
        return await future

    def _next(self) -> None:
        while self._waiting:
            future, job = self._waiting.popleft()
            if future.done():  # the client has left
                continue
            asyncio.get_running_loop().call_soon(self._next)
            try:
                future.set_result(job())
            except Exception as error:
                future.set_exception(error)
            return
        self._taken = False
