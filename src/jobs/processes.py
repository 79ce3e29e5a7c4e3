"""All processes of an attempt, wherever they went: they inherit a mark in their environment."""

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

MARK = "JOBS_MARK"
UNKILLABLE = 10.0  # seconds; one that waits for a disk ends when the disk answers


def path() -> str:
    """PATH with the programs of this environment first, such as `python` and `dvc`."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


def of(mark: str) -> list[int]:
    """Processes that carry a mark and run; those of other users cannot be seen."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            with suppress(OSError):
                if wanted in Path(entry.path, "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return [pid for pid in found if pid != os.getpid()]


def memory(pids: list[int]) -> int:
    """Bytes that processes hold together; what they share is counted once."""
    total = 0
    for pid in pids:
        with suppress(OSError, StopIteration):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
    return total


def end(mark: str, grace: float) -> None:
    """Ask all processes with a mark to end, and kill those that have not after `grace` seconds."""
    deadline = time.monotonic() + grace
    _send(of(mark), signal.SIGTERM)
    while (left := of(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    deadline = time.monotonic() + UNKILLABLE
    while left and time.monotonic() < deadline:  # one of them may start another meanwhile
        _send(left, signal.SIGKILL)
        time.sleep(0.02)
        left = of(mark)


def _send(pids: list[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
