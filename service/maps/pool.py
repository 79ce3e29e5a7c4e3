"""Worker processes, one thread each, and the memory that they share with this one."""

import json
import os
import queue
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from service.errors import InvalidOutput, Unavailable
from service.maps.worker import Memory, Setup, size_of

_PACKAGES = str(Path(__file__).resolve().parent.parent.parent)
ALONE = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}
SECONDS = 5.0  # until a worker that was told to end is killed


class Worker:
    """One process; it does one task at a time."""

    def __init__(self, handle: int, setup: Setup, graph: bytes) -> None:
        """Start it; `handle` is the memory's."""
        paths = os.pathsep.join(filter(None, (_PACKAGES, os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "service.maps.worker", str(handle)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[handle],
            env=os.environ | ALONE | {"PYTHONPATH": paths},
        )
        assert self._process.stdin and self._process.stdout
        self._to, self._from = self._process.stdin, self._process.stdout
        self._first: bytes | None = json.dumps(setup._asdict()).encode() + b"\n" + graph

    def do(self, task: dict[str, Any]) -> dict[str, Any]:
        """Have a task done.

        Raises:
            InvalidOutput: the graph does not run on it.
            Unavailable: the process ended, most often for lack of memory.
        """
        try:
            if self._first is not None:
                self._to.write(self._first)
                self._first = None
            self._to.write(json.dumps(task).encode() + b"\n")
            self._to.flush()
            line = self._from.readline()
        except OSError:
            line = b""
        if not line:
            code = self._process.wait()
            raise Unavailable(
                f"a worker ended with {f'signal {-code}' if code < 0 else f'code {code}'}: if "
                "memory is short, take fewer --workers or a smaller --tile, then start again: "
                "what is finished is kept"
            )
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            raise InvalidOutput(
                f"the graph does not run on a tile ({found['error']}): train the model again, or "
                "take another"
            )
        return found

    def end(self) -> None:
        """End it, also in the middle of a task."""
        self._process.terminate()
        try:
            self._process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._to, self._from):
            with suppress(OSError):  # what was written last is in the buffer, and no one reads it
                pipe.close()


class Pool:
    """Workers that take the next task as soon as they are free."""

    def __init__(self, workers: list[Worker], memory: Memory) -> None:
        """Take workers that share a memory."""
        self.memory = memory
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(len(workers), "map")

    def submit(self, task: dict[str, Any]) -> "Future[dict[str, Any]]":
        """Queue a task; `Worker.do` says what its result may raise."""
        return self._threads.submit(self._do, task)

    def close(self) -> None:
        """Forget the tasks that wait."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _do(self, task: dict[str, Any]) -> dict[str, Any]:
        worker = self._idle.get()
        try:
            return worker.do(task)
        finally:
            self._idle.put(worker)


@contextmanager
def working(count: int, setup: Setup, graph: bytes) -> Iterator[Pool]:
    """Start workers, and end them whatever happens."""
    with ExitStack() as stack:
        handle = _memory(size_of(setup))
        stack.callback(os.close, handle)
        memory = Memory(handle, setup)
        workers = []
        pool: Pool | None = None
        try:
            for _ in range(count):
                workers.append(Worker(handle, setup, graph))
            pool = Pool(workers, memory)
            yield pool
        finally:
            for worker in workers:
                worker.end()
            if pool is not None:
                pool.close()


def _memory(size: int) -> int:
    """Descriptor of memory without a name: it is gone when the last process ends."""
    handle = os.memfd_create("map")
    os.ftruncate(handle, size)
    return handle
