"""Samples the use of the GPUs with nvidia-smi, every two seconds.

Without nvidia-smi there are no samples and no error: most machines have no GPU.
"""

import re
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple, Self

LINE = (
    "nvidia-smi",
    "--query-gpu=utilization.gpu,memory.used",
    "--format=csv,noheader,nounits",
)
INTERVAL = 2.0  # seconds between two samples
PATIENCE = 10.0  # seconds, time limit of nvidia-smi
FAILURES = 3  # in a row, after which sampling ends
MEBIBYTE = 2**20
ROW = re.compile(r"\s*([0-9]{1,3})\s*,\s*([0-9]{1,9})\s*")  # some cards print [N/A] instead


class Sample(NamedTuple):
    """The busiest GPU: training uses one, others may run other jobs."""

    time: float
    """Unix seconds."""
    utilization: float
    """Share of the time in which it was busy, 0..1."""
    memory: float
    """Bytes in use."""


class Sampler:
    """Takes samples in a thread, in a `with`. It never raises."""

    def __init__(self, interval: float = INTERVAL, patience: float = PATIENCE) -> None:
        """Both in seconds."""
        self.samples: list[Sample] = []
        self._interval, self._patience = interval, patience
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End; waits for nvidia-smi."""
        self._over.set()
        self._thread.join()

    def between(self, start: float, end: float) -> list[Sample]:
        """The samples of a time, in Unix seconds."""
        return [sample for sample in self.samples if start <= sample.time <= end]

    def _run(self) -> None:
        failures = 0
        while failures < FAILURES:
            try:
                sample = take(self._patience)
            except FileNotFoundError:
                return
            failures = 0 if sample else failures + 1
            if sample:
                self.samples.append(sample)
            if self._over.wait(self._interval):
                return


def take(patience: float) -> Sample | None:
    """Take one sample; None if nvidia-smi fails, hangs, or lists no GPU.

    Raises:
        FileNotFoundError: nvidia-smi is not installed.
    """
    try:
        done = subprocess.run(
            LINE, capture_output=True, text=True, errors="replace", timeout=patience, check=True
        )
    except FileNotFoundError:
        raise
    except (OSError, subprocess.SubprocessError):
        return None
    return read(done.stdout.splitlines(), time.time())


def read(lines: Sequence[str], when: float) -> Sample | None:
    """The busiest GPU with readable figures."""
    rows = [(int(row[1]), int(row[2])) for row in map(ROW.fullmatch, lines) if row]
    if not rows:
        return None
    utilization, memory = max(rows)
    return Sample(when, min(utilization, 100) / 100, float(memory * MEBIBYTE))
