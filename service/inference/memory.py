"""Memory budget for images, and the one thread that works on large images."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from contracts.images import Buffer
from service.errors import Overloaded

LARGE = 1 << 20
"""Bytes of an upload, or values of an image, above which a thread decodes it."""

T = TypeVar("T")


class ImageMemory:
    """A budget in bytes for unfinished uploads and for large images that wait."""

    def __init__(self, limit: int) -> None:
        """Hold nothing yet, and never more than `limit` bytes."""
        self._limit = limit
        self.held = 0
        self._one_at_a_time = asyncio.Semaphore(1)

    def hold(self, size: int) -> None:
        """Take `size` bytes of the budget.

        Raises:
            Overloaded: the budget is used up.
        """
        if self.held + size > self._limit:
            raise Overloaded("too many uploads at once: try again in a second")
        self.held += size

    def release(self, size: int) -> None:
        """Give `size` bytes back."""
        self.held -= size

    async def run_in_thread(self, content: Buffer, work: Callable[[], T]) -> T:
        """Work on a large image in a thread, one image at a time; until then it counts as held.

        Raises:
            Overloaded: the budget is used up.
        """
        self.hold(len(content))
        try:
            async with self._one_at_a_time:
                return await asyncio.to_thread(work)
        finally:
            self.release(len(content))
