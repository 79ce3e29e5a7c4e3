"""What the registry and its child have in common: the listing as it is kept, and the answer.

The server imports this and not what parses: PyYAML and DVC belong to the child alone.
"""

import hashlib
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ValidationError

from service.errors import BundleRefused, NotFound, RegistryUnavailable, StorageFull
from service.files import replace_file
from service.schemas import Experiment

KEPT = "experiments.json"
LAYOUT = 1
"""Raised when the same commit would be read differently: what was kept is then read anew."""
FETCHED = "fetched"
"""Folder below the cache with one folder a fetch, and `<folder>.work` while it runs."""
REFERENCES = ("for-each-ref", "--format=%(objectname) %(refname)", "refs/tags")
"""The cheap look that tells whether anything changed; `fingerprint` digests its answer."""
KINDS = {
    kind.__name__: kind for kind in (BundleRefused, NotFound, RegistryUnavailable, StorageFull)
}


class Snapshot(BaseModel):
    """A listing as it is kept in experiments.json."""

    layout: int
    repository: str
    """Digest of the repository's name: another repository's listing is not shown."""
    references: str
    """Fingerprint of the tags it was made from."""
    checked: datetime
    experiments: tuple[Experiment, ...]


class Response(BaseModel):
    """What the child says: a snapshot, or an error by the name of its class, or neither."""

    snapshot: Snapshot | None = None
    error: str | None = None
    detail: str = ""
    log: str = ""
    """For the operator alone: may name paths and addresses."""


def digest(repository: str) -> str:
    """Return what `Snapshot.repository` holds for a repository."""
    return hashlib.sha256(repository.encode()).hexdigest()


def fingerprint(answer: bytes) -> str:
    """Return the digest of what `git for-each-ref` said of the tags."""
    return hashlib.sha256(answer.strip()).hexdigest()


def load(cache: Path, repository: str) -> Snapshot | None:
    """Return the listing of this repository that was kept; None when there is none to use."""
    try:
        found = Snapshot.model_validate_json((cache / KEPT).read_bytes())
    except (OSError, ValidationError):
        return None
    return found if (found.layout, found.repository) == (LAYOUT, digest(repository)) else None


def save(snapshot: Snapshot, cache: Path) -> None:
    """Keep a listing; readers find the one before or this one, never half of it."""
    replace_file(cache / KEPT, snapshot.model_dump_json())
