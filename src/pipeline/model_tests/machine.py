"""How many tests this machine can run beside each other, by its cores and its memory."""

import math
import os
from contextlib import suppress
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")
MIB = 2**20
BASE = 300 * MIB  # of a process with ONNX Runtime, NumPy and a small model
COPIES = 6  # of the test split: clean and changed answers, and a batch as float32


def at_a_time(wanted: int | str, tests: int, split: int) -> int:
    """Tests to run at once; at least one.

    Args:
        wanted: `at_a_time` of tests.yaml; a number is a limit, which memory may lower.
        split: bytes of the test split.
    """
    cores = _cores() if wanted == "auto" else int(wanted)
    return max(1, min(cores, tests, _memory() // (BASE + COPIES * split)))


def _cores() -> int:
    """Cores this process may use: a container's share, not the machine's."""
    has_affinity = hasattr(os, "sched_getaffinity")
    found = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = (CGROUP / "cpu.max").read_text(encoding="ascii").split()
        found = min(found, max(1, math.ceil(int(quota) / int(period))))
    return found


def _memory() -> int:
    """Bytes that are free, in the container if it has a limit."""
    found = 2**62
    with suppress(OSError, StopIteration):
        lines = MEMINFO.read_text(encoding="ascii").splitlines()
        found = int(next(it for it in lines if it.startswith("MemAvailable")).split()[1]) * 1024
    with suppress(OSError, ValueError):
        limit = int((CGROUP / "memory.max").read_text(encoding="ascii"))
        used = int((CGROUP / "memory.current").read_text(encoding="ascii"))
        found = min(found, max(0, limit - used))
    return found
