"""Looking into the processes of a running service."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil

from tests.make.server import Server

T = TypeVar("T")
WITHIN = 90.0  # seconds; generous, the machine may be busy


def until(condition: Callable[[], T | None], what: object = "it") -> T:
    """Ask again until the answer is true; give it."""
    deadline = time.monotonic() + WITHIN
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} never came true"
        time.sleep(0.01)
    return found


def children(pid: int) -> list[int]:
    """Process ids of the children of a process."""
    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.NoSuchProcess:
        return []


def running_swap(server: Server) -> int:
    """Process of the worker that swaps; 0 when none does."""
    file = server.log.parent / "state" / "swap.json"
    found = json.loads(file.read_bytes()) if file.exists() else {}
    return int(found["pid"]) if found.get("state") == "running" else 0


def memory(pid: int) -> int:
    """KiB that a process alone holds, its part of what it shares included."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def ended(processes: list[int]) -> bool:
    """Whether none of these processes runs any more; a zombie does not run."""
    for pid in processes:
        try:
            status = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
        except OSError:
            continue
        if status.rpartition(")")[2].split()[0] not in "ZX":
            return False
    return True
