"""What attempts are given and leave in the folder of the jobs, for engines that share it."""

import sys
from pathlib import Path

from contracts.files import replace_file
from jobs.errors import of_disk
from jobs.record import Attempt, Job, Outcome
from jobs.settings import Settings
from jobs.store import Store

Words = tuple[str, ...]


def described(job: Job, settings: Settings, repository: str, work: str = "") -> Attempt:
    """The newest attempt of a job, for a machine that shares nothing with this one."""
    request = job.current
    return Attempt(
        id=job.attempt_id,
        job=job.id,
        commit=job.commit,
        kind=request.kind,
        command=request.command,
        parameters=request.parameters,
        cpus=request.resources.cpus,
        memory=request.resources.bytes,
        gpus=request.resources.gpus,
        nodes=request.resources.nodes,
        processes=request.resources.processes,
        seconds=request.resources.seconds,
        accounts=job.accounts,
        repository=repository,
        work=work,
        push=settings.push,
        grace=settings.grace,
    )


def written(job: Job, settings: Settings, store: Store) -> Words:
    """Write the newest attempt for a machine that shares the folder; returns its command line.

    Raises:
        StateError: the folder cannot be written.
    """
    attempt = described(job, settings, str(store.root), str(store.work(job)))
    attempt.claim, attempt.outcome = str(claim(job, store)), str(_path(job, store, "outcome"))
    path = _path(job, store, "json")
    try:
        replace_file(path, attempt.model_dump_json())
    except OSError as error:
        raise of_disk(error) from None
    return sys.executable, "-m", "jobs.attempt", str(path)


def claim(job: Job, store: Store) -> Path:
    """The file that the newest attempt creates when it begins; also the mark of its processes."""
    return _path(job, store, "claim")


def outcome(job: Job, store: Store) -> Outcome | None:
    """What the newest attempt has written in the end; None if it has not."""
    try:
        return Outcome.model_validate_json(_path(job, store, "outcome").read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def keep(job: Job, store: Store, said: Outcome) -> None:
    """Write the outcome of the newest attempt, which its engine will forget. Raises StateError."""
    try:
        replace_file(_path(job, store, "outcome"), said.model_dump_json())
    except OSError as error:
        raise of_disk(error) from None


def note(job: Job, store: Store) -> Path:
    """A file for what an executor must remember of the newest attempt."""
    return _path(job, store, "note")


def forget(job: Job, store: Store) -> None:
    """Delete the files of all attempts of a job that has ended."""
    for path in (store.folder / "attempts").glob(f"{job.id}.*"):
        path.unlink(missing_ok=True)


def _path(job: Job, store: Store, kind: str) -> Path:
    return store.folder / "attempts" / f"{job.attempt_id}.{kind}"
