"""Protocol between the registry client and its child: the stored listing and the response.

The server imports this module instead of the parsers: only the child loads PyYAML and DVC.
"""

import hashlib
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ValidationError

from service.errors import BundleRefused, NotFound, RegistryUnavailable, StorageFull
from service.files import replace_file
from service.schemas import Experiment

KEPT = "experiments.json"
LAYOUT = 3
"""Increase it when commits are parsed differently: stored listings are then read anew."""
FETCHED = "fetched"
"""Folder below the cache with one folder per fetch, and `<folder>.work` while it runs."""
REFERENCES = ("for-each-ref", "--format=%(objectname) %(refname)", "refs/tags")
"""The cheap git command that shows whether tags changed; `fingerprint` digests its output."""
KINDS = {
    kind.__name__: kind for kind in (BundleRefused, NotFound, RegistryUnavailable, StorageFull)
}


class Snapshot(BaseModel):
    """A listing as stored in experiments.json."""

    layout: int
    repository: str
    """Digest of the repository's name: another repository's listing is not shown."""
    references: str
    """Fingerprint of its tags."""
    checked: datetime
    experiments: tuple[Experiment, ...]


class Response(BaseModel):
    """Response of the child: a snapshot, an error by the name of its class, or neither."""

    snapshot: Snapshot | None = None
    error: str | None = None
    detail: str = ""
    log: str = ""
    """For the operator alone: may name paths and addresses."""


def digest(repository: str) -> str:
    """Return the value of `Snapshot.repository` for a repository."""
    return hashlib.sha256(repository.encode()).hexdigest()


def fingerprint(answer: bytes) -> str:
    """Return the digest of the output of `git for-each-ref`."""
    return hashlib.sha256(answer.strip()).hexdigest()


def load_snapshot(cache: Path, repository: str) -> Snapshot | None:
    """Return the stored listing of this repository; None without a usable one."""
    try:
        found = Snapshot.model_validate_json((cache / KEPT).read_bytes())
    except (OSError, ValidationError):
        return None
    return found if (found.layout, found.repository) == (LAYOUT, digest(repository)) else None


def save_snapshot(snapshot: Snapshot, cache: Path) -> None:
    """Store a listing atomically: readers find the old one or the new one."""
    replace_file(cache / KEPT, snapshot.model_dump_json())
