"""Resources that the workers of this service use: processor, memory, files."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

TICKS = os.sysconf("SC_CLK_TCK")  # of /proc, a second
SUMS = {
    "process_resident_memory_bytes": "Resident memory of all workers; each counts shared memory.",
    "process_open_fds": "Open files of all workers.",
    "process_max_fds": "Files that all workers together may open.",
}


class ProcessesCollector(Collector):
    """Exports the workers of this service as one process: sums, and the start of the oldest."""

    def __init__(self, workers: Callable[[], list[int]]) -> None:
        """Take a function that returns the process ids of the living workers."""
        self._workers = workers
        self._collectors: dict[int, ProcessCollector] = {}  # making one reads /proc/stat

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics (`process_...`, `service_workers`)."""
        found: defaultdict[str, list[float]] = defaultdict(list)
        pids = self._workers()
        self._collectors = {pid: self._collectors.get(pid) or _collector(pid) for pid in pids}
        for collector in self._collectors.values():
            for family in collector.collect():  # nothing when it has just ended
                for sample in family.samples:
                    found[sample.name].append(sample.value)
        yield GaugeMetricFamily(
            "service_workers", "Workers that are alive and serve a model.", len(pids)
        )
        yield CounterMetricFamily(
            "process_cpu_seconds",
            "User and system time of all workers, including ended ones.",
            sum(found["process_cpu_seconds_total"]) + _cpu_of_ended_workers(),
        )
        for name, documentation in SUMS.items():
            yield GaugeMetricFamily(name, documentation, sum(found[name]))
        if started := found["process_start_time_seconds"]:
            yield GaugeMetricFamily(
                "process_start_time_seconds", "When the oldest worker started.", min(started)
            )


def _collector(pid: int) -> ProcessCollector:
    return ProcessCollector(pid=lambda: pid, registry=None)


def _cpu_of_ended_workers() -> float:
    """Read the processor seconds of ended workers, so that the sum never falls.

    The supervisor's own record has them: workers are its only children. A lone process has no
    supervisor.
    """
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return 0.0
    try:
        status = Path(f"/proc/{os.getppid()}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0.0
    fields = status.rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / TICKS  # cutime, cstime
