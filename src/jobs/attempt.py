"""One attempt of a job, on whatever machine: check out, change parameters, run, check, publish.

    python -m jobs.attempt FILE     or its content in JOBS_ATTEMPT, as it is or in base64

It limits CPUs and memory, ends what runs too long or uses too much, says why it failed, and leaves
no process. The last line of its log is its outcome.
"""

import base64
import configparser
import ctypes
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import IO

from contracts.commands import print_anything
from contracts.commit import BUNDLE, DATA, PARAMS
from contracts.files import birth, replace_file
from contracts.jobs import JOB, JobReport
from jobs import processes
from jobs.data import cache
from jobs.errors import JobsError
from jobs.kinds import SRUN, Incomplete, Kind, Words, kind
from jobs.parameters import with_values
from jobs.record import OUTCOME_LINE, Attempt, Outcome
from jobs.repository import RESULTS, Repository
from jobs.request import Cause

NICE = 10
FIRST_PORT, PORTS = 20_000, 10_000  # where ranks of a job of Slurm meet, by its number
LOOK_SECONDS = 0.5  # between two looks at memory
TAIL = 64 * 1024  # bytes of the log that tell the cause
SIGNS = (
    (
        Cause.OUT_OF_MEMORY,
        r"MemoryError|[Oo]ut of memory|bad_alloc|[Cc]an(not|'t) allocate|oom-kill",
    ),
    (Cause.NAN, r"the loss is -?(nan|inf)"),
    (Cause.NO_GPU, r"No CUDA GPUs|no NVIDIA driver|no GPU|CUDA (driver|is not available)"),
    (Cause.INFRASTRUCTURE, r"exited with (-9|137)\b|Connection (refused|reset)|timed out"),
)
"""Cause -> what the log of a failed command says then; the first that is found counts."""
PUBLISHED = {"kind", "command", "commit", "parameters"}
"""What the message of the result's commit says of the attempt."""
PR_SET_PDEATHSIG = 1
_stopped: list[int] = []


class Ended(Exception):
    """A command was ended, or failed."""

    def __init__(self, cause: Cause, message: str, code: int | None = None) -> None:
        """Keep what the outcome says."""
        super().__init__(message)
        self.cause, self.code = cause, code


class Stopped(Exception):
    """Somebody ends this attempt: SIGTERM, by a cancellation or by the engine."""


def main() -> None:
    """Run one attempt; exit with 0 if it succeeded."""
    print_anything()
    text = os.environ.pop("JOBS_ATTEMPT", "") or Path(sys.argv[1]).read_text(encoding="utf-8")
    json = text if text.startswith("{") else base64.b64decode(text).decode()
    attempt = Attempt.model_validate_json(json)
    if not claimed(attempt):
        sys.exit(f"error: attempt {attempt.id} runs elsewhere, or has run")
    if attempt.outcome:  # of a run before, which Slurm has put back
        Path(attempt.outcome).unlink(missing_ok=True)
    signal.signal(signal.SIGTERM, _stop)
    begun = time.monotonic()
    outcome = run(attempt)
    outcome.seconds = round(time.monotonic() - begun, 1)
    outcome.gpus = attempt.gpus * attempt.nodes
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if attempt.outcome:
        replace_file(Path(attempt.outcome), outcome.model_dump_json())
    print(f"\n{OUTCOME_LINE}{outcome.model_dump_json()}", flush=True)
    sys.exit(0 if outcome.cause is None else 1)


def claimed(attempt: Attempt) -> bool:
    """Whether this process is the one that runs the attempt; Slurm may start it again, counted."""
    if not attempt.claim:
        return True
    claim = Path(attempt.claim + os.environ.get("SLURM_RESTART_COUNT", ""))
    own = claim.with_name(f".{claim.name}.{os.getpid()}")
    own.write_text(f"{os.getpid()} {birth(os.getpid())}", encoding="ascii")
    try:
        claim.hardlink_to(own)
    except FileExistsError:
        return False
    finally:
        own.unlink()
    return True


def _stop(number: int, frame: FrameType | None) -> None:
    _stopped.append(number)


def run(attempt: Attempt) -> Outcome:
    """Do the work; whatever happens is an outcome."""
    mark, begun = attempt.claim or attempt.id, time.monotonic()
    try:
        what = kind(attempt.kind)
        folder, repository = _checkout(attempt)
        if attempt.parameters:
            params = repository.show(attempt.commit, PARAMS) or b""
            (folder / PARAMS).write_bytes(with_values(params, attempt.parameters))
        supervisor = Supervisor(attempt, folder, mark)
        joins = attempt.nodes > 1 and os.environ.get("RANK", "0") != "0"
        run = _work(what, attempt, joins)
        for words in (*_data(folder), *run, *filter(None, [attempt.command])):
            supervisor.run(words)
        if joins:
            return Outcome(exit_code=0)
        metrics = what.check(folder)
        if what.pushes:
            _report(attempt, folder, time.monotonic() - begun)
            supervisor.push()
        return _publish(attempt, what.saved, repository, metrics)
    except Ended as end:
        return Outcome(cause=end.cause, message=str(end), exit_code=end.code)
    except Incomplete as error:
        return Outcome(cause=Cause.INCOMPLETE, message=str(error), exit_code=0)
    except Stopped:
        return Outcome(cause=Cause.INFRASTRUCTURE, message="it was ended from outside")
    except (JobsError, OSError) as error:
        return Outcome(cause=Cause.BROKEN, message=str(error))
    finally:
        processes.end(mark, 0)


def _work(what: Kind, attempt: Attempt, joins: bool) -> tuple[Words, ...]:
    """What a kind of jobs runs on this node."""
    if joins:
        return what.joins
    if attempt.nodes == 1 or not what.steps:
        return what.run
    if "SLURM_JOB_ID" in os.environ:
        return what.steps
    # This node is the first rank; the others have begun to wait for it, whatever dvc.lock has.
    return tuple(words[1:] if words[0] == SRUN else words for words in what.steps)


class Supervisor:
    """Runs the commands of an attempt within its limits."""

    def __init__(self, attempt: Attempt, folder: Path, mark: str) -> None:
        self._attempt = attempt
        self._folder = folder
        self._mark = mark
        self._cores = max(1, attempt.cpus // attempt.processes)
        self._deadline = time.monotonic() + attempt.seconds
        self._libc = ctypes.CDLL(None)  # between fork and exec nothing may be loaded
        self._environment = os.environ | {
            processes.MARK: mark,
            "PATH": processes.path(),
            "PYTHONPATH": f"{folder / 'src'}{os.pathsep}{folder}",
            "PYTHONUNBUFFERED": "1",
            "DVC_NO_ANALYTICS": "1",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(self._cores),
        }
        if job := os.environ.get("SLURM_JOB_ID"):  # for ranks that srun starts
            port = str(FIRST_PORT + int(job) % PORTS)
            self._environment |= {"MASTER_ADDR": socket.gethostname(), "MASTER_PORT": port}
        if not attempt.gpus:
            self._environment["CUDA_VISIBLE_DEVICES"] = ""

    def run(self, words: Words) -> None:
        """Run a command; its output is the log.

        Raises:
            Ended: it failed, or went over a limit. Stopped.
        """
        if words[0] == SRUN:
            words = (SRUN, *self._ranks(), *words[1:])
        print(f"\n$ {' '.join(words)}", flush=True)
        try:
            process = subprocess.Popen(
                words,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                preexec_fn=self._limit,
            )
        except OSError as error:
            raise Ended(Cause.BROKEN, f"{words[0]} cannot be started: {error.strerror}") from None
        tail = bytearray()
        copier = threading.Thread(target=_copy, args=(process.stdout, tail), daemon=True)
        copier.start()
        try:
            self._watch(process)
        except (Ended, Stopped):
            processes.end(self._mark, self._attempt.grace)
            raise
        finally:
            process.wait()
            copier.join(2)  # longer, if somebody it has left behind still holds the pipe
        if process.returncode:
            raise _explained(words, process.returncode, tail.decode(errors="replace"))

    def push(self) -> None:
        """Store the outputs of DVC, where the result leaves this machine. Raises as run()."""
        if self._attempt.push:
            self.run(("dvc", "push"))

    def _ranks(self) -> Words:
        """Options of srun: a task for each process of each node; one that dies ends the others."""
        wanted = self._attempt
        return (
            *("--label", "--kill-on-bad-exit=1", f"--nodes={wanted.nodes}"),
            *(f"--ntasks={wanted.nodes * wanted.processes}", "--distribution=block"),
            *(f"--ntasks-per-node={wanted.processes}", f"--cpus-per-task={self._cores}"),
        )

    def _watch(self, process: "subprocess.Popen[bytes]") -> None:
        looked = time.monotonic()
        while process.poll() is None:
            if _stopped:
                raise Stopped
            now = time.monotonic()
            if now >= self._deadline:
                limit = self._attempt.seconds
                raise Ended(Cause.TIMED_OUT, f"it ran longer than {limit} s (resources.time)")
            if now - looked >= LOOK_SECONDS:
                looked = now
                used = processes.memory(processes.of(self._mark))
                if used > self._attempt.memory:
                    raise Ended(
                        Cause.OUT_OF_MEMORY,
                        f"it used {used / 1e6:.0f} MB of {self._attempt.memory / 1e6:.0f} MB "
                        "(resources.memory)",
                    )
            time.sleep(0.05)

    def _limit(self) -> None:
        """In the child, before it becomes the command."""
        self._libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, allowed[: max(1, self._attempt.cpus)])
        os.nice(NICE)
        if not self._attempt.gpus:  # a driver of a GPU reserves more than it ever uses
            _, most = resource.getrlimit(resource.RLIMIT_DATA)
            wanted = self._attempt.memory
            limit = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _copy(stream: IO[bytes], tail: bytearray) -> None:
    with stream:
        while chunk := stream.read1(TAIL):  # type: ignore[attr-defined]
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            tail += chunk
            del tail[:-TAIL]


def _explained(words: Words, code: int, log: str) -> Ended:
    """Why a command failed, by what it printed."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"\berror\b|\w+Error\b", line, re.IGNORECASE)]
    said = (errors or lines or ["it printed nothing"])[-1][:300]
    cause = next((cause for cause, sign in SIGNS if re.search(sign, log)), Cause.BROKEN)
    if code == -signal.SIGKILL and cause is Cause.BROKEN:
        cause = Cause.INFRASTRUCTURE
    return Ended(cause, f"{words[0]} ended with {code}: {said}", code)


def _checkout(attempt: Attempt) -> tuple[Path, Repository]:
    """The checkout, which an earlier attempt may have left with its checkpoints."""
    if not attempt.work:
        return Path.cwd(), Repository(Path.cwd())
    work = Path(attempt.work)
    Repository(Path(attempt.repository)).check_out(attempt.commit, work)
    if (work / ".dvc").is_dir():
        _share_cache(Path(attempt.repository), work)
    return work, Repository(work)


def _share_cache(repository: Path, work: Path) -> None:
    """Let the checkout use DVC's cache and credentials of the repository."""
    own = configparser.ConfigParser(interpolation=None)
    own.read(repository / ".dvc" / "config.local")
    own.read_dict({"cache": {"dir": str(cache(repository))}})
    with (work / ".dvc" / "config.local").open("w", encoding="utf-8") as file:
        own.write(file)


def _data(folder: Path) -> tuple[Words, ...]:
    return (("dvc", "pull", DATA),) if (folder / DATA).is_file() else ()


def _report(attempt: Attempt, folder: Path, seconds: float) -> None:
    """Write what the report of a merge request says about the cost of the model."""
    from contracts import bundle  # see jobs.kinds

    manifest = bundle.parse_manifest((folder / BUNDLE / bundle.MANIFEST).read_bytes())
    found = JobReport(
        job=attempt.job,
        attempt=attempt.id,
        model=manifest.sha256,
        seconds=round(seconds, 1),
        gpus=attempt.gpus * attempt.nodes,
        accounts=attempt.accounts,
    )
    replace_file(folder / JOB, found.model_dump_json(indent=2))


def _publish(
    attempt: Attempt, saved: Words, repository: Repository, metrics: dict[str, float]
) -> Outcome:
    """Commit what the attempt made, under a ref of its own."""
    ref = f"{RESULTS}{attempt.job}"
    body = attempt.model_dump_json(indent=2, include=PUBLISHED)
    message = f"Job {attempt.job}\n\n{body}\n"
    commit = repository.publish(ref, saved, message, attempt.push)
    return Outcome(ref=ref, commit=commit, metrics=metrics, exit_code=0)


if __name__ == "__main__":
    main()
