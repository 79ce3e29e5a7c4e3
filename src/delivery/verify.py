"""Command: verify that dvc.lock, this commit and the DVC remote agree, before a release.

    python -m delivery.verify           every object exists; the model byte by byte
    python -m delivery.verify --data    the data byte by byte as well

DVC by default trusts the objects of a remote. This command reads and hashes them.

A dvc.lock that is not current is an error, but in two kinds of pipelines: without RELEASE_TOKEN
nothing is released; without BOT_TOKEN, which commits dvc.lock to merge requests, the version that
has the model of dvc.lock stays.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, NoReturn

from contracts import commands
from delivery.dvc import asking_remote, stale
from delivery.errors import RemoteError, command
from delivery.registry.registry import open_registry

MODEL, DATA = "model", "data"
CHUNK = 1 << 20


class Found(NamedTuple):
    """Number of objects in the remote that were checked."""

    there: int
    read: int


@command
def main() -> None:
    """Verify, and report the number of objects."""
    parser = commands.parser("delivery.verify", __doc__)
    parser.add_argument("--data", action="store_true", help="read the data too")
    options = parser.parse_args()
    try:
        require_current()
    except RemoteError as error:
        if not (reason := _left_out()):
            raise
        print(f"left out: {reason}; {error}")
        return
    found = require_remote([MODEL, DATA] if options.data else [MODEL])
    print(
        f"verify: dvc.lock is current; {found.there} objects are in the remote, {found.read} read"
    )


def _left_out() -> str:
    """Why this pipeline registers no version; empty when it should."""
    if "CI_PIPELINE_ID" not in os.environ:
        return ""
    if not os.environ.get("RELEASE_TOKEN"):
        return "nothing is released, RELEASE_TOKEN is not set"
    if not os.environ.get("BOT_TOKEN") and (version := open_registry().known("HEAD")):
        return f"{version.tag} stays, BOT_TOKEN is not set and nobody has committed dvc.lock"
    return ""


def require_current() -> None:
    """Refuse a dvc.lock that does not belong to this commit.

    Raises:
        RemoteError: files or parameters have changed since.
    """
    if found := stale():
        listed = "; ".join(found[:5])
        raise RemoteError(f"dvc.lock is not current ({listed}): dvc repro, and commit dvc.lock")


def require_remote(read: Sequence[str]) -> Found:
    """Refuse a remote with missing or altered objects; `read` lists the outputs to hash.

    Raises:
        RemoteError: names a missing or altered object, or why the remote cannot be read.
    """
    from dvc.repo import Repo

    with asking_remote(), Repo() as repo:
        remote = repo.cloud.get_remote_odb()
        wanted = {
            str(out): _objects(remote, str(out), out.hash_info.value)
            for out in repo.index.outs
            if out.use_cache
        }
        if MODEL not in wanted:
            raise RemoteError(f"dvc.lock names no {MODEL}: dvc repro, and commit dvc.lock")
        # Read first: a remote on disk deletes an altered object when DVC checks whether it exists.
        for name in read:
            _read(remote, name, wanted[name])
        for name in wanted.keys() - set(read):
            if missing := wanted[name] - set(remote.oids_exist(list(wanted[name]))):
                _refuse(name, "are missing in", missing)
    return Found(sum(map(len, wanted.values())), sum(len(wanted[name]) for name in read))


def _refuse(name: str, what: str, objects: Iterable[str]) -> NoReturn:
    listed = sorted(objects)
    raise RemoteError(
        f"{len(listed)} objects of {name} {what} the DVC remote, such as {listed[0]}: dvc push "
        "from a machine that has them (delete the altered ones first), or dvc repro"
    )


def _objects(remote: Any, name: str, oid: str | None) -> set[str]:
    """All objects of an output: itself, and the files of a folder."""
    if oid is None:
        raise RemoteError(f"{name} is not in dvc.lock: dvc repro, and commit dvc.lock")
    if not oid.endswith(".dir"):
        return {oid}
    try:
        entries = json.loads(remote.fs.cat_file(remote.oid_to_path(oid)))
    except FileNotFoundError:
        _refuse(name, "are missing in", [oid])
    except ValueError:
        _refuse(name, "were altered in", [oid])
    return {oid, *(str(entry["md5"]) for entry in entries)}


def _read(remote: Any, name: str, objects: Iterable[str]) -> None:
    """Hash the objects in the remote."""
    for oid in objects:
        digest = hashlib.md5(usedforsecurity=False)
        try:
            with remote.fs.open(remote.oid_to_path(oid), "rb") as file:
                while chunk := file.read(CHUNK):
                    digest.update(chunk)
        except FileNotFoundError:
            _refuse(name, "are missing in", [oid])
        if digest.hexdigest() != oid.partition(".")[0]:
            _refuse(name, "were altered in", [oid])


if __name__ == "__main__":
    main()
