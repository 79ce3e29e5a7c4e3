"""The state of all jobs: a folder of JSON, written in one step each, under one lock.

    records/train-17-3fa2.json   the job
    keys/<SHA-256>               id of the job of a request, for the same request again
    sequence                     number of the last job
    attempts/  logs/  work/      what attempts get and leave

Order comes from `sequence`, never from a clock.
"""

import difflib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contracts.files import StillLocked, locked, replace_file
from jobs.errors import StateError, UnknownJob, WrongState, of_disk
from jobs.record import Job

LOCK_SECONDS = 30.0
Signature = tuple[int, int, int]


class Store:
    """The folder. Changes happen between `with store.locked():`, from reading to `save`."""

    def __init__(self, folder: Path, root: Path) -> None:
        """Open the folder, and make it if need be; `root` is the working copy jobs come from."""
        self.folder = folder
        self.root = root
        self.records = folder / "records"
        self.damaged: list[str] = []
        self._seen: dict[str, tuple[Signature, Job]] = {}
        try:
            for name in ("records", "keys", "attempts", "logs", "work"):
                (folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise of_disk(error) from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only one who changes jobs. Raises StateError."""
        try:
            with locked(self.folder / "lock", LOCK_SECONDS):
                yield
        except StillLocked:
            raise StateError(f"another process has held {self.folder}/lock too long") from None
        except OSError as error:
            raise of_disk(error) from None

    def jobs(self) -> list[Job]:
        """All jobs, oldest first; a file that has not changed is not read again.

        One that is damaged is left out, and named in `damaged`.
        """
        seen: dict[str, tuple[Signature, Job]] = {}
        self.damaged = []
        try:
            for entry in os.scandir(self.records):
                if entry.name.endswith(".json") and not entry.name.startswith("."):
                    stat = entry.stat()
                    signature = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
                    known = self._seen.get(entry.name)
                    if known and known[0] == signature:
                        seen[entry.name] = known
                        continue
                    try:
                        seen[entry.name] = signature, _read(Path(entry.path))
                    except StateError as error:
                        self.damaged.append(str(error))
        except OSError as error:
            raise of_disk(error) from None
        self._seen = seen
        return sorted((job for _, job in seen.values()), key=lambda job: job.sequence)

    def find(self, name: str) -> Job:
        """The job with an id, or with its number alone.

        Raises:
            UnknownJob: there is none; the message has the nearest.
        """
        path = self.records / f"{name}.json"
        if path.parent == self.records and path.is_file():
            return _read(path)
        jobs = self.jobs()
        for job in jobs:
            if name == str(job.sequence):
                return job
        near = difflib.get_close_matches(name, [job.id for job in jobs], n=1, cutoff=0.4)
        hint = f"the nearest is {near[0]}" if near else "none is like it"
        raise UnknownJob(f"no job is called {name[:80]!r}: {hint}; make jobs lists them")

    def save(self, job: Job) -> Job:
        """Write a job; it is there after a power cut. Raises StateError."""
        try:
            replace_file(self.records / f"{job.id}.json", job.model_dump_json())
        except OSError as error:
            raise of_disk(error) from None
        return job

    def change(self, job: Job, **fields: object) -> Job:
        """Change fields of a job that another process may have changed meanwhile."""
        with self.locked():
            return self.save(self.find(job.id).model_copy(update=fields))

    def with_key(self, key: str) -> Job | None:
        """The newest job of a request."""
        try:
            return self.find((self.folder / "keys" / key).read_text(encoding="ascii"))
        except (FileNotFoundError, UnknownJob):
            return None

    def new_id(self, name: str, key: str) -> tuple[str, int]:
        """Id and number of a new job, under the lock; the key leads there from now on."""
        counter = self.folder / "sequence"
        try:
            last = int(counter.read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            last = max((job.sequence for job in self.jobs()), default=0)
        # Two clones number alike; the end tells their refs and pods apart.
        identity = f"{name}-{last + 1}-{secrets.token_hex(2)}"
        try:
            replace_file(counter, str(last + 1))
            replace_file(self.folder / "keys" / key, identity)
        except OSError as error:
            raise of_disk(error) from None
        return identity, last + 1

    def forget(self, job: Job) -> None:
        """Delete record, key and log of a job, under the lock. Raises StateError."""
        key = self.folder / "keys" / job.key
        try:
            if key.is_file() and key.read_text(encoding="ascii") == job.id:  # not of a newer one
                key.unlink()
            self.log(job).unlink(missing_ok=True)
            (self.records / f"{job.id}.json").unlink(missing_ok=True)
        except OSError as error:
            raise of_disk(error) from None

    def log(self, job: Job) -> Path:
        """The log of all attempts of a job."""
        return self.folder / "logs" / f"{job.id}.txt"

    def work(self, job: Job) -> Path:
        """The checkout of a job."""
        return self.folder / "work" / job.id


def require(job: Job, allowed: bool, what: str) -> None:
    """Raise WrongState unless the state of a job allows something."""
    if not allowed:
        raise WrongState(f"{job.id} is {job.state}: {what}")


def _read(path: Path) -> Job:
    try:
        return Job.model_validate_json(path.read_bytes())
    except ValueError:
        raise StateError(
            f"{path} is damaged: delete it; the job that it was is lost, the others are not"
        ) from None
