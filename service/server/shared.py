"""What the workers tell the parent that hands connections to them, in memory that they share."""

import mmap

NUMBER = 8  # bytes


class WorkerTable:
    """Two numbers a worker, by its slot. Each has one writer at a time: no lock is needed."""

    def __init__(self, workers: int) -> None:
        """Make them before the workers are forked; all are 0."""
        size = max(2 * workers * NUMBER, mmap.PAGESIZE)
        numbers = memoryview(mmap.mmap(-1, size)).cast("q")
        self.ended = numbers[:workers]
        """Connections that have ended since the worker started."""
        self.ready = numbers[workers : 2 * workers]
        """1 once the worker has a model."""

    def clear(self, slot: int) -> None:
        """Begin again, for a new worker in the same slot."""
        self.ended[slot] = self.ready[slot] = 0
