"""Shared memory between the supervisor and its workers."""

import mmap

NUMBER = 8  # bytes


class WorkerTable:
    """Two numbers per worker, by its slot. Each has one writer at a time, so it needs no lock."""

    def __init__(self, workers: int) -> None:
        """Allocate the table, all zeros; call it before the workers are forked."""
        size = max(2 * workers * NUMBER, mmap.PAGESIZE)
        numbers = memoryview(mmap.mmap(-1, size)).cast("q")
        self.ended = numbers[:workers]
        """Connections that have ended since the worker started."""
        self.ready = numbers[workers : 2 * workers]
        """1 once the worker has a model."""

    def reset_worker(self, slot: int) -> None:
        """Reset the numbers of a slot for its next worker."""
        self.ended[slot] = self.ready[slot] = 0
