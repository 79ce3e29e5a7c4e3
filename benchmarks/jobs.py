"""Command: what a queue of ours costs, in a project whose jobs do nothing.

    python -m benchmarks.jobs                       (make bench-jobs)
    python -m benchmarks.jobs --executor slurm      on the Slurm of this machine (SLURM_CONF)

Prints seconds from `submit` to `running` on this machine, those of a list of 1,000 queued jobs with
the start of Python, and CPU seconds of each, which other load does not change.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from contracts import commands
from contracts.files import locked
from jobs.record import Job, State
from jobs.request import Request
from jobs.runner import LOCK
from jobs.store import Store

REPEATS = 10
QUEUED = 1000
SCRIPT = """\
name: job-{}
kind: command
command: ['true']
executor: {}
resources: {{memory: 200MiB, time: 5m}}
"""


def main() -> None:
    """Measure, and print one line each."""
    parser = commands.parser("benchmarks.jobs", __doc__)
    parser.add_argument("--executor", default="local", help="default: %(default)s")
    executor = parser.parse_args().executor
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for words in (("init", "-q"), ("commit", "-q", "--allow-empty", "-m", "start")):
            identity = ("-c", "user.name=Bench", "-c", "user.email=bench@example.org")
            subprocess.run(("git", *identity, *words), cwd=folder, check=True)
        store = Store(folder / "artifacts" / "jobs", folder)
        print(
            _summary(
                f"submit to running, {executor}",
                [_start(store, it, executor) for it in range(REPEATS)],
            )
        )
        for number in range(QUEUED):
            _queue(store, 1000 + number)
        with locked(store.folder / LOCK, 10):  # no runner, which would take them for work
            figures = [_timed(("list",), folder) for _ in range(REPEATS)]
        print(_summary(f"list of {QUEUED} queued jobs", figures))


def _start(store: Store, number: int, executor: str) -> tuple[float, float]:
    """Seconds from the command to the state `running`, and CPU seconds of the command."""
    file = store.root / "job.yaml"
    file.write_text(SCRIPT.format(number, executor), encoding="ascii")
    begun = time.time()
    _, cpu = _timed(("submit", str(file)), store.root)
    while not (job := store.jobs()[-1]).has_ended:
        time.sleep(0.05)
    running = job.began(State.RUNNING) or job.history[-1].at
    return running - begun, cpu


def _queue(store: Store, number: int) -> None:
    request = Request(name="a", executor="nowhere", priority=number % 5)
    fields = {"id": f"a-{number}-0000", "key": "", "commit": "0" * 40, "sequence": number}
    store.save(Job.model_validate({**fields, "request": request, "current": request}))


def _timed(words: tuple[str, ...], folder: Path) -> tuple[float, float]:
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = (sys.executable, "-m", "jobs", *words)
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - begun, cpu


def _summary(what: str, figures: list[tuple[float, float]]) -> str:
    walls, cpus = zip(*figures, strict=True)
    wall, most, cpu = statistics.median(walls), max(walls), statistics.median(cpus)
    return f"{what}: median {wall:.2f} s, most {most:.2f} s, {cpu:.2f} CPU s, n = {len(walls)}"


if __name__ == "__main__":
    main()
