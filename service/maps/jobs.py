"""The queue of maps: folders on disk that all workers read, and that survive the service.

    maps/jobs/<id>/      job.json, status.json, scene.tif while it is needed, then what was made
    maps/queue/<id>      an empty file while the job is not finished
    maps/dismissed/<id>  an empty file: it is to be stopped, and what it made to be deleted
    maps/models/         bundles of these jobs: a swap does not change a job
    maps/incoming/       uploads that have not ended

An id begins with the time, so that names are in the order of their arrival.
"""

import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from service.errors import NotFound, Overloaded
from service.files import replace_file
from service.swap.cache import BundleCache, disk_errors

ID = re.compile(r"[0-9a-f]{32}")
SCENE, MAP, ITEM = "scene.tif", "map.tif", "map.json"
PICTURES = ("scene.png", "map.png", "values.png")
RECORDS = ("job.json", "status.json")
LEFTOVER = 86_400.0  # seconds after which an upload that has not ended is a leftover

Status = Literal["accepted", "running", "successful", "failed", "dismissed"]
FINISHED = ("successful", "failed", "dismissed")


class Job(NamedTuple):
    """What was asked for; it never changes."""

    owner: str
    """Who may see it; empty: everybody."""
    created: str
    name: str
    """Of the model, and its tag and digest."""
    tag: str
    sha256: str
    scene_sha256: str
    size: int
    """Bytes of the scene."""
    height: int
    width: int
    bands: tuple[str, ...] = ()
    offset: int | None = None


class State(NamedTuple):
    """How far it is."""

    status: Status = "accepted"
    updated: str = ""
    started: str = ""
    finished: str = ""
    done: int = 0
    """Tiles."""
    tiles: int = 0
    problem: dict[str, Any] | None = None
    """`status` and `detail` of what failed."""
    made: dict[str, Any] | None = None
    """What the map shows, in short: its warnings, and the area of each class."""


class Limits(NamedTuple):
    """How much is kept."""

    waiting: int
    """Jobs that are not finished."""
    finished: int
    """Jobs that are."""
    size: int
    """Bytes of them."""
    hours: float


class Jobs:
    """The folder of all jobs."""

    def __init__(self, root: Path, limits: Limits) -> None:
        """Keep jobs below a folder, which the first one creates."""
        self.root = root
        self.limits = limits
        self.models = BundleCache(root / "models")
        self.queue = root / "queue"
        self.dismissed = root / "dismissed"

    def check_room(self, uploads: bool = True) -> None:
        """Raise Overloaded where the queue is full, with `uploads` that of those that arrive."""
        arriving = _names(self.root / "incoming") if uploads else []
        if len(self.waiting()) + len(arriving) >= self.limits.waiting:
            raise Overloaded(
                f"{self.limits.waiting} maps wait already: try again later, or dismiss one with "
                "DELETE /jobs/{id}"
            )

    @contextmanager
    def incoming(self) -> Iterator[tuple[str, Path]]:
        """An id, and a folder for its scene, which is deleted again unless it was submitted.

        Raises:
            StorageFull, Unavailable: the disk cannot be written.
        """
        id = f"{time.time_ns():016x}{secrets.token_hex(8)}"
        folder = self.root / "incoming" / id
        with disk_errors():
            folder.mkdir(parents=True)
        try:
            yield id, folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def submit(self, id: str, folder: Path, job: Job) -> None:
        """Queue a job whose scene lies in an incoming folder. Raises StorageFull, Unavailable."""
        with disk_errors():
            for parent in (self.queue, self.dismissed, self.root / "jobs"):
                parent.mkdir(parents=True, exist_ok=True)
            replace_file(folder / "job.json", json.dumps(job._asdict()))
            folder.rename(self.folder(id))
            try:
                (self.queue / id).touch()
            except OSError:
                shutil.rmtree(self.folder(id), ignore_errors=True)
                raise

    def folder(self, id: str) -> Path:
        """Where the files of a job lie."""
        return self.root / "jobs" / id

    def read(self, id: str, owner: str | None = None) -> Job:
        """Read a job; with an owner only what belongs to it.

        Raises:
            NotFound: no such job, or it belongs to somebody else.
        """
        content = _read(self.folder(id) / "job.json") if ID.fullmatch(id) else None
        if content is None or (owner is not None and content["owner"] != owner):
            raise NotFound(
                "this job does not exist: it was never accepted here, belongs to another key, or "
                "was deleted after its time; GET /jobs lists yours"
            )
        return Job(**content | {"bands": tuple(content["bands"])})

    def state(self, id: str) -> State:
        """Read how far a job is."""
        found = State(**_read(self.folder(id) / "status.json") or {})
        return found._replace(status="dismissed") if self.is_dismissed(id) else found

    def write_state(self, id: str, state: State) -> None:
        """Write how far it is; how it ended survives a power cut. Raises OSError."""
        state = state._replace(updated=now())
        durable = state.status in FINISHED
        path = self.folder(id) / "status.json"
        replace_file(path, json.dumps(state._asdict()), durable=durable)

    def waiting(self) -> list[str]:
        """Ids of the jobs that are not finished, the oldest first."""
        return _names(self.queue)

    def all(self) -> list[str]:
        """Ids of all jobs, the newest first."""
        return _names(self.root / "jobs")[::-1]

    def dismiss(self, id: str) -> None:
        """Ask for a job to be stopped and its files to be deleted. Raises StorageFull."""
        if self.state(id).status != "dismissed":
            with disk_errors():
                (self.dismissed / id).touch()

    def is_dismissed(self, id: str) -> bool:
        """Whether that was asked for, and is not done yet."""
        return (self.dismissed / id).exists()

    def settle(self, id: str, state: State) -> None:
        """End a job: delete what is not needed any more, first of all, then say how it ended.

        Raises:
            OSError: the disk is full even so.
        """
        made = (MAP, ITEM, *PICTURES) if state.status == "successful" else ()
        for path in self.folder(id).iterdir():
            if path.name not in (*RECORDS, *made):
                path.unlink(missing_ok=True)
        self.write_state(id, state._replace(finished=now()))
        (self.queue / id).unlink(missing_ok=True)
        if state.status == "dismissed":  # what is asked for while it ends is done next
            (self.dismissed / id).unlink(missing_ok=True)

    def repair(self) -> None:
        """Queue jobs again that a kill left between two files, and delete leftovers."""
        for id in self.all():
            if self.state(id).status not in FINISHED:
                (self.queue / id).touch()
        for id in self.waiting():
            if not self.folder(id).is_dir():
                (self.queue / id).unlink(missing_ok=True)
        for path in (self.root / "incoming").glob("*"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > LEFTOVER:
                    shutil.rmtree(path, ignore_errors=True)

    def prune(self) -> None:
        """Delete finished jobs beyond the limits, the oldest first, and models of none."""
        waiting = set(self.waiting())
        finished = [id for id in self.all() if id not in waiting]
        oldest = f"{time.time_ns() - int(self.limits.hours * 3600e9):016x}"
        size = 0
        for number, id in enumerate(finished):
            size += _size(self.folder(id))
            if number >= self.limits.finished or size > self.limits.size or id < oldest:
                shutil.rmtree(self.folder(id), ignore_errors=True)
        in_use = {self.read(id).sha256 for id in waiting if self.folder(id).is_dir()}
        self.models.prune(in_use)


def now() -> str:
    """Return the current time, UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _names(folder: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if ID.fullmatch(name))
    except FileNotFoundError:
        return []


def _size(folder: Path) -> int:
    size = 0
    with suppress(FileNotFoundError):
        for path in folder.iterdir():
            size += path.stat().st_size
    return size


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
