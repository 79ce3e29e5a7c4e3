"""Tracks one swap through its steps: for the page, the traces, and the `step` of errors."""

from collections.abc import Iterator
from contextlib import contextmanager

from service.swap.workers import WorkerRegistry, now
from service.telemetry.tracing import Tracing


class ProgressTracker:
    """The progress of one swap."""

    def __init__(self, tag: str, tracing: Tracing, workers: WorkerRegistry | None = None) -> None:
        """Begin before the first step; without `workers` the progress is not written."""
        self.tag = tag
        self.current = "lock"
        self.switched = False
        self.started = now()
        self._workers = workers
        self._tracing = tracing

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Run one step."""
        self.current = name
        self._write("running", None)
        with self._tracing.span(f"swap.{name}", tag=self.tag):
            yield

    def end(self, detail: str | None) -> None:
        """Write the end of the swap; `detail` is the reason of a failure."""
        self._write("done" if detail is None else "failed", detail)

    def _write(self, state: str, detail: str | None) -> None:
        if self._workers is not None:
            self._workers.write_swap(self.tag, self.current, state, detail, self.started)
