"""The desired model: one record, written by a swap, read by every worker of every replica.

Two stores keep it: a file for one machine (here), a Kubernetes ConfigMap for a cluster
(`configmap.py`). Both return the same, both write by compare-and-set, and neither returns a damaged
record. Public names say `wanted`: `/version`, `wanted.json`, the metric `model_wanted_mismatch`.
"""

import asyncio
import errno
import os
import stat
import time
from pathlib import Path
from typing import Annotated, Protocol, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.errors import Conflict, ServiceError, Unavailable
from service.files import StillLocked, disk_error, locked, reason, replace_file

MAX_BYTES = 64 * 1024  # of a record; a real one has about 300
LOCK_SECONDS = 10.0  # a writer holds the lock for the time of two fsyncs
SETTLED_NS = 2_000_000_000  # nanoseconds; far above the resolution of a file's times
CHANGED = (
    "Somebody else changed the desired model at the same time. Check GET /version, then try again."
)

Tag = Annotated[str, Field(min_length=1, max_length=128)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class DesiredModel(BaseModel):
    """The model that every worker should serve, and the one before it for a rollback.

    `version` counts the changes from 1; `sha256` are digests of `model.onnx`. Unknown fields are
    ignored: during an update, older workers read what newer ones wrote.
    """

    model_config = ConfigDict(frozen=True)

    tag: Tag
    sha256: Sha256
    previous_tag: Tag | None
    previous_sha256: Sha256 | None
    version: Annotated[int, Field(ge=1)]
    changed: AwareDatetime

    @model_validator(mode="after")
    def _previous_is_whole(self) -> Self:
        if (self.previous_tag is None) != (self.previous_sha256 is None):
            raise ValueError("previous_tag and previous_sha256 are set together")
        return self


class DesiredStore(Protocol):
    """Keeps one `DesiredModel`."""

    async def read(self) -> DesiredModel | None:
        """Return the desired model, None before the first write. Raises Unavailable."""

    async def write(self, model: DesiredModel) -> None:
        """Replace version `model.version - 1`, where nothing stored counts as version 0.

        Raises Conflict when another version is stored, StorageFull, or Unavailable. After
        Unavailable the record may have been written all the same: read it to know.
        """


class FileStore:
    """Keeps the desired model in a file that the processes of one machine share."""

    def __init__(self, path: Path) -> None:
        """Take the path of the file; the first write creates its folder."""
        self._path = path
        self._seen: tuple[int, ...] | None = None  # fingerprint of the file behind `_model`
        self._model: DesiredModel | None = None

    async def read(self) -> DesiredModel | None:
        """Return the desired model; an unchanged file costs one stat. Raises Unavailable."""
        try:
            if self._seen is None or _fingerprint(os.stat(self._path)) != self._seen:
                self._model, self._seen = _load(self._path)
        except FileNotFoundError:
            self._model = self._seen = None
        except OSError as error:
            raise _failed("read", error) from error
        return self._model

    async def write(self, model: DesiredModel) -> None:
        """Compare and set, durable when it returns. Raises Conflict, StorageFull, Unavailable."""
        await asyncio.to_thread(self._write, model)

    async def close(self) -> None:
        """Do nothing: no file stays open. Both stores have this method."""

    def _write(self, model: DesiredModel) -> None:
        try:
            with locked(self._path.with_name(f".{self._path.name}.lock"), LOCK_SECONDS):
                stored = _load(self._path)[0] if self._path.exists() else None
                require_next(stored, model)
                replace_file(self._path, model.model_dump_json(indent=2) + "\n")
        except StillLocked:
            raise Conflict(CHANGED) from None
        except OSError as error:
            raise _failed("written", error) from error


def parse_desired(text: str | bytes, place: str) -> DesiredModel:
    """Read a record that was found at `place` of a store. Raises Unavailable for anything else."""
    try:
        return DesiredModel.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise Unavailable(
            f"The {place} holds a damaged record of the desired model. Delete it, then choose the "
            "model again with POST /replace_ml_model."
        ) from error


def require_next(stored: DesiredModel | None, model: DesiredModel) -> None:
    """Raise Conflict unless `model` is the version after `stored`."""
    if (stored.version if stored else 0) != model.version - 1:
        raise Conflict(CHANGED)


def _fingerprint(found: os.stat_result) -> tuple[int, ...]:
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _load(path: Path) -> tuple[DesiredModel, tuple[int, ...] | None]:
    """Read the record, with its fingerprint once the file has settled."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for ever
        raise OSError(errno.EINVAL, "not a regular file")
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        text = file.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        text = b""
    # The times of a file advance in steps of milliseconds and a freed inode is reused, so two quick
    # writes can have one fingerprint: until the file has settled, every call reads it.
    settled = time.time_ns() - found.st_mtime_ns > SETTLED_NS
    return parse_desired(text, f"file {path.name}"), _fingerprint(found) if settled else None


def _failed(what: str, error: OSError) -> ServiceError:
    return disk_error(
        error,
        Unavailable(
            f"The desired model cannot be {what} ({reason(error)}). Check that the service may "
            "read and write its state directory."
        ),
    )
