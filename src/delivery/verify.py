"""Command: dvc.lock, this commit and the DVC remote agree; nothing is released before.

    python -m delivery.verify           every object is there, and the model byte by byte
    python -m delivery.verify --data    the data byte by byte as well

DVC's default takes an altered object for good. Here what lies in the remote is read and hashed.
"""

import hashlib
import json
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, NoReturn

from delivery.dvc import stale
from delivery.errors import RemoteError, command

MODEL, DATA = "model", "data"
CHUNK = 1 << 20


class Found(NamedTuple):
    """How many objects of the remote were looked at."""

    there: int
    read: int


@command
def main() -> None:
    """Verify, and say what was looked at."""
    parser = ArgumentParser(
        prog="python -m delivery.verify",
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", action="store_true", help="read the data too")
    options = parser.parse_args()
    require_current()
    found = require_remote([MODEL, DATA] if options.data else [MODEL])
    print(
        f"verify: dvc.lock is current; {found.there} objects are in the remote, {found.read} read"
    )


def require_current() -> None:
    """Refuse a lock that does not belong to this commit.

    Raises:
        RemoteError: something has changed since.
    """
    if found := stale():
        listed = "; ".join(found[:5])
        raise RemoteError(f"dvc.lock is not current ({listed}): dvc repro, and commit dvc.lock")


def require_remote(read: Sequence[str]) -> Found:
    """Refuse a remote that lacks what is named here, or altered it; `read` are outputs to hash.

    Raises:
        RemoteError: with the names of what is missing or altered.
    """
    from dvc.repo import Repo

    with Repo() as repo:
        remote = repo.cloud.get_remote_odb()
        wanted = {
            str(out): _objects(remote, str(out), out.hash_info.value)
            for out in repo.index.outs
            if out.use_cache
        }
        if MODEL not in wanted:
            raise RemoteError(f"dvc.lock names no {MODEL}: dvc repro, and commit dvc.lock")
        # First what is read: to ask a remote on disk for an altered object deletes it there.
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
        "from where they are whole (delete the altered ones first), or dvc repro"
    )


def _objects(remote: Any, name: str, oid: str | None) -> set[str]:
    """All objects of an output: itself, and the files of a directory."""
    if oid is None:
        raise RemoteError(f"{name} was never recorded: dvc repro, and commit dvc.lock")
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
    """Hash what lies in the remote."""
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
