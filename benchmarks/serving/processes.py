"""CPU and memory of process trees, and who else used the machine, all through /proc."""

import os
import time
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from typing import NamedTuple

TICK = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")

# Fields of /proc/<pid>/stat, counted from the one after the name; see proc_pid_stat(5).
STATE, PARENT, SESSION, CPU = (
    0,
    1,
    3,
    slice(11, 15),
)  # utime, stime, and those of children waited for


class Memory(NamedTuple):
    """Megabytes (1e6 bytes) of a process tree."""

    pss: float
    """Of all processes together; a page that several share is counted once."""
    largest_rss: float
    """Of the largest process, shared pages included."""
    processes: int


class Usage(NamedTuple):
    """CPU seconds up to a moment."""

    moment: float
    server: float
    client: float
    """This process and the children it has waited for: the load generator."""
    machine: float
    """All processes of the machine, and what the host kept from it."""


class Share(NamedTuple):
    """Between two moments."""

    seconds: float
    server: float
    """CPU seconds."""
    others: float
    """Share of the machine that neither server nor client used, but somebody did, 0..1."""


def tree(root: int) -> set[int]:
    """Give a process with all its descendants, and all of its session."""
    found = {pid: fields for pid in _pids() if (fields := _stat(pid))}
    members = {pid for pid, fields in found.items() if int(fields[SESSION]) == root} | {root}
    grown = True
    while grown:
        children = {pid for pid, fields in found.items() if int(fields[PARENT]) in members}
        grown = not children <= members
        members |= children
    return members & found.keys()


def runs(pid: int) -> bool:
    """Tell whether a process is there and no zombie."""
    fields = _stat(pid)
    return bool(fields) and fields[STATE] != "Z"


def usage(*roots: int) -> Usage:
    """Read the clocks; each root is the first process of a server."""
    members = set().union(*(tree(root) for root in roots))
    server = sum(_cpu(pid) for pid in members)
    times = (getrusage(RUSAGE_SELF), getrusage(RUSAGE_CHILDREN))
    client = sum(item.ru_utime + item.ru_stime for item in times)
    return Usage(time.perf_counter(), server, client, _machine())


def between(before: Usage, after: Usage) -> Share:
    """Split what the machine did between two moments."""
    seconds = after.moment - before.moment
    server, client = after.server - before.server, after.client - before.client
    others = after.machine - before.machine - server - client
    return Share(seconds, server, max(0.0, others / (seconds * (os.cpu_count() or 1))))


def memory(root: int) -> Memory:
    """Measure a server."""
    pss, rss = [], []
    for pid in tree(root):
        try:
            text = (PROC / str(pid) / "smaps_rollup").read_text(encoding="utf-8")
        except OSError:  # gone, or a zombie
            continue
        sizes = {line.split(":")[0]: line.split()[1] for line in text.splitlines()[1:]}
        pss.append(int(sizes["Pss"]) * 1024 / 1e6)
        rss.append(int(sizes["Rss"]) * 1024 / 1e6)
    return Memory(sum(pss), max(rss, default=0.0), len(pss))


def _pids() -> list[int]:
    return [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()]


def _stat(pid: int) -> list[str]:
    """Give the fields after the name, which may hold blanks; none for a process that is gone."""
    try:
        return (PROC / str(pid) / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return []


def _cpu(pid: int) -> float:
    return sum(int(field) for field in _stat(pid)[CPU]) / TICK


def _machine() -> float:
    """All but idle and waiting for disks; steal counts, guest is in user already."""
    first = (PROC / "stat").read_text(encoding="utf-8").splitlines()[0]
    user, nice, system, _, _, irq, softirq, steal = (int(field) for field in first.split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICK
