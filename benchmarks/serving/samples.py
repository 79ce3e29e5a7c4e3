"""One sample: a server started, warmed up, loaded and ended, between two measurements of raw."""

import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.serving import load, processes
from benchmarks.serving.bundle import Served
from benchmarks.serving.load import Result
from benchmarks.serving.processes import Memory
from benchmarks.serving.raw import Raw
from benchmarks.serving.servers import BenchmarkError, Contender, Server, started

MANY, FEW = 32, 8  # connections
LOAD = 0.7  # of a server's own saturation, where its latency is read


class Bare(NamedTuple):
    """The runtime alone."""

    rate: float
    """Images a second."""
    cpu: float
    """CPU microseconds an image."""
    others: float
    """Share of the machine that somebody else took."""


class Window(NamedTuple):
    """A server under one load."""

    result: Result
    cpu: float
    """CPU microseconds of the server a request."""
    others: float


class Sample(NamedTuple):
    """What one start of a server gave; without `many` it failed."""

    contender: str
    kind: str
    round: int
    before: Bare
    after: Bare | None = None
    start: float = 0.0
    many: Window | None = None
    few: Window | None = None
    paced: Window | None = None
    memory: Memory | None = None
    failure: str = ""

    @property
    def raw(self) -> float:
        """Images a second of the runtime alone, around the time of this sample."""
        around = [self.before.rate, self.after.rate] if self.after else [self.before.rate]
        return sum(around) / len(around)

    @property
    def errors(self) -> int:
        """Requests that failed, under all loads."""
        return sum(window.result.errors for window in (self.many, self.few, self.paced) if window)

    def others(self) -> float:
        """Share of somebody else in what `many` is compared with, the worst of it."""
        windows = (self.before, self.after, self.many)
        return max(window.others for window in windows if window)


def measure_raw(raw: Raw, seconds: float) -> Bare:
    """Run the runtime alone."""
    before = processes.usage(*raw.pids)
    rate = raw.measure(seconds)
    share = processes.between(before, processes.usage(*raw.pids))
    return Bare(rate.images, rate.cpu, share.others)


def measure(
    contender: Contender,
    served: Served,
    expected: npt.NDArray[np.float32],
    *,
    number: int,
    before: Bare,
    seconds: float,
) -> Sample:
    """Take one sample; a server that fails gives one that says so."""
    sample = Sample(contender.name, served.kind, number, before)
    try:
        with started(contender, served, expected) as server:
            sample = _loaded(sample, contender, served, server, seconds)
    except BenchmarkError as error:
        return sample._replace(failure=str(error))
    if sample.errors:
        return sample._replace(failure=f"{sample.errors} requests failed")
    return sample


def _loaded(
    sample: Sample, contender: Contender, served: Served, server: Server, seconds: float
) -> Sample:
    body, url = contender.body(served), server.url
    load.saturate(url, body, connections=MANY, seconds=max(2, seconds / 2))
    many = window(lambda: load.saturate(url, body, connections=MANY, seconds=seconds), server.pid)
    memory = processes.memory(server.pid)
    few = window(
        lambda: load.saturate(url, body, connections=FEW, seconds=max(2, seconds / 2)), server.pid
    )
    rate = LOAD * max(many.result.rate, few.result.rate)
    paced = window(lambda: load.paced(url, body, rate=rate, seconds=seconds), server.pid)
    return sample._replace(start=server.seconds, many=many, few=few, paced=paced, memory=memory)


def window(send: Callable[[], Result], pid: int) -> Window:
    """Load a server, and read the clocks around it."""
    before = processes.usage(pid)
    result = send()
    share = processes.between(before, processes.usage(pid))
    return Window(result, share.server / max(1, result.requests) * 1e6, share.others)


def progress(sample: Sample) -> None:
    """Say on standard error what a sample gave."""
    line = f"round {sample.round + 1}, {sample.kind}, {sample.contender}: "
    if sample.many:
        line += f"{sample.many.result.rate:,.0f} requests/s beside raw {sample.raw:,.0f} images/s"
        line += f", others took {sample.others():.0%}"
    print(f"{line} {sample.failure}".rstrip(), file=sys.stderr, flush=True)
