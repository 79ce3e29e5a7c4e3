"""What the supervisor and its workers share: memory, and a way to send each worker a message."""

import mmap
import socket
from collections.abc import Sequence

NUMBER = 8  # bytes
ROOM = 1 << 20  # bytes of a message, and of all to a worker, where the system allows so many


class WorkerTable:
    """Three numbers per worker, by its slot.

    The first two have one writer at a time, so they need no lock; the third is a hint.
    """

    def __init__(self, workers: int) -> None:
        """Allocate the table, all zeros; call it before the workers are forked."""
        size = max(3 * workers * NUMBER, mmap.PAGESIZE)
        numbers = memoryview(mmap.mmap(-1, size)).cast("q")
        self.ended = numbers[:workers]
        """Connections that have ended since the worker started."""
        self.ready = numbers[workers : 2 * workers]
        """1 once the worker has a model."""
        self.busy = numbers[2 * workers : 3 * workers]
        """1 while the worker infers, or has been handed a request."""

    def reset_worker(self, slot: int) -> None:
        """Reset the numbers of a slot for its next worker."""
        self.ended[slot] = self.ready[slot] = self.busy[slot] = 0


class Inboxes:
    """A pair of sockets for each worker: all may write to it, its worker reads."""

    def __init__(self, workers: int) -> None:
        """Open them; call it before the workers are forked. A restarted worker gets the same."""
        self._pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(workers)]
        for ours, theirs in self._pairs:
            ours.setblocking(False)
            theirs.setblocking(False)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ROOM)

    def __len__(self) -> int:
        """Count the workers."""
        return len(self._pairs)

    def reader(self, slot: int) -> socket.socket:
        """Where the worker of this slot reads."""
        return self._pairs[slot][1]

    def send(self, slot: int, parts: Sequence[bytes | memoryview]) -> bool:
        """Send a message to a worker; whether there was room for it."""
        if sum(map(len, parts)) > ROOM:  # the reader would get the head of it
            return False
        try:
            self._pairs[slot][0].sendmsg(parts)
        except OSError:  # full, or larger than the system allows
            return False
        return True
