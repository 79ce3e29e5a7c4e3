"""Downloads model/ of a tag from the DVC remote into a new folder, in the registry's child process.

Nothing is checked out, and the commit cannot choose where files are written: dvc.lock gives a
digest, the remote holds a list of files under that digest, and the list must name the two files of
a bundle. DVC finds the remote and reads from it. Each object's md5 is verified here, because DVC
trusts a remote by default.
"""

import json
import os
import posixpath
import re
import resource
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from contracts import commit as facts
from contracts.git import REFETCH, commit_of
from contracts.tags import Tag
from service.errors import BundleRefused, NotFound, RegistryUnavailable, StorageFull
from service.registry import git

FILES = ("model.json", "model.onnx")
LARGEST = 2 * 2**30  # bytes of a file of a bundle
RESERVE = 64 * 2**20  # bytes that stay free on the disk

_MD5 = re.compile(r"[0-9a-f]{32}")


class Store(NamedTuple):
    """A store of DVC's objects: the object database and its folder."""

    objects: Any
    root: str


def download(repository: str, cache: Path, tag: Tag, into: Path, work: Path) -> None:
    """Write the two files of the bundle at `tag` into the new folder `into`.

    Args:
        work: an existing empty folder on the same disk, for unfinished files.

    Raises:
        NotFound: the tag does not exist, or its commit or the remote has no model.
        BundleRefused: the remote holds altered files, or no bundle.
        RegistryUnavailable: the folder of the remote does not exist, or the repository is a partial
            clone.
        StorageFull: the bundle does not fit on the disk.
        GitError, or an error of DVC: `service.registry.__main__.explain` translates it.
    """
    folder = git.git_dir(repository, cache)
    commit = _commit(repository, cache, tag)
    _refuse_partial(folder, commit)
    _fetch(repository, folder, commit, _bundle(folder, commit, tag), work)
    (work / "files").rename(into)


def _commit(repository: str, cache: Path, tag: Tag) -> str:
    absent = NotFound(f"tag: {tag.tag} is not in the repository; push it, or name another")
    folder = git.git_dir(repository, cache)
    try:
        if git.is_url(repository):
            git.refresh(repository, cache, tag.tag)
    except git.GitError as error:
        if "find remote ref" in error.log:
            raise absent from None
        raise
    try:
        return git.run_git(folder, *commit_of(f"refs/tags/{tag.tag}")).decode().strip()
    except git.GitError as error:
        if error.log:
            raise
        raise absent from None


def _refuse_partial(folder: Path, commit: str) -> None:
    """Refuse a partial clone that lacks files of the commit: DVC would wait for them forever."""
    words = ("--objects", "--no-object-names", "--missing=print", "--no-walk")
    if any(
        line.startswith(b"?") for line in git.run_git(folder, "rev-list", *words, commit).split()
    ):
        raise RegistryUnavailable(
            f"The Git repository is a partial clone without the files of this tag; "
            f"make it whole there: {REFETCH}."
        )


def _bundle(folder: Path, commit: str, tag: Tag) -> facts.Bundle:
    absent = f"tag: {tag.tag} stands on a commit without a model:"
    name = f"{commit}:{facts.LOCK}\n".encode()
    words = git.run_git(folder, "cat-file", "--batch-check", given=name).split()
    if len(words) != 3 or words[1] != b"blob":
        raise NotFound(f"{absent} it has no {facts.LOCK}; tag a commit that was trained")
    if int(words[2]) > facts.LARGEST:
        raise NotFound(f"{absent} {facts.LOCK} is larger than {facts.LARGEST} bytes")
    try:
        bundle = facts.read_bundle(git.run_git(folder, "cat-file", "blob", words[0].decode()))
    except facts.Unreadable as error:
        raise NotFound(f"{absent} {facts.LOCK} {error}; tag a commit that was trained") from None
    if not bundle.digest.endswith(".dir"):
        raise BundleRefused(f"model: a single file at {tag.tag}; a bundle is {' and '.join(FILES)}")
    return bundle


def _fetch(repository: str, folder: Path, commit: str, bundle: facts.Bundle, work: Path) -> None:
    import pygit2.enums
    from dvc.repo import Repo  # a second of imports that only this process needs

    # A mounted repository may belong to another user. That is safe: an operator's setting names
    # it, and libgit2 runs no command of its configuration.
    pygit2.option(pygit2.enums.Option.SET_OWNER_VALIDATION, False)

    # A remote may send more than it announced.
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST, resource.RLIM_INFINITY))
    root = folder if git.is_url(repository) else Path(repository)
    with Repo(str(root), rev=commit) as repo:
        stores = list(_stores(repo, None if root == folder else root, bundle.hash_name))
        listing = work / "listing"
        store = _first(stores, bundle.digest)
        _copy(store, bundle.digest, bundle.hash_name, listing, facts.LARGEST)
        (work / "files").mkdir()
        wanted = read_listing(listing.read_bytes())
        needed = sum(_size(_first(stores, md5), md5) for md5 in wanted.values())
        if needed + RESERVE > shutil.disk_usage(work).free:
            raise StorageFull(f"model: {needed} bytes do not fit on the disk; free some space")
        for name, md5 in wanted.items():
            _copy(_first(stores, md5), md5, bundle.hash_name, work / "files" / name, LARGEST)


def read_listing(content: bytes) -> dict[str, str]:
    """Return file name -> md5 of DVC's list of a folder.

    Raises:
        BundleRefused: it lists other files than the two of a bundle.
    """
    try:
        found = {str(entry["relpath"]): str(entry["md5"]) for entry in json.loads(content)}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BundleRefused("model: DVC's list of its files is unreadable; push it again") from None
    if sorted(found) != sorted(FILES):
        raise BundleRefused(
            f"model: {len(found)} files in the DVC remote that are not exactly "
            f"{' and '.join(FILES)}; train and push it again"
        )
    if not all(_MD5.fullmatch(md5) for md5 in found.values()):
        raise BundleRefused("model: DVC's list of its files names no md5; push it again")
    return found


def _stores(repo: Any, tree: Path | None, hash_name: str) -> Iterator[Store]:
    """Yield the stores that may hold the objects: the default remote of commit and machine.

    A relative address is relative to .dvc/ of a working tree. Without a working tree, or without
    the objects there, the remote can still be a folder in Git, as in the sample.
    """
    from dvc.config import Config
    from dvc_data.hashfile import db

    objects: Any = db.get_odb  # has no type hints
    name = repo.config["core"].get("remote")
    written = Config.load_file("/.dvc/config", fs=repo.fs) if repo.fs.exists("/.dvc/config") else {}
    url = str(written.get("remote", {}).get(name, {}).get("url", ""))
    remote = repo.cloud.get_remote_odb(command="fetch", hash_name=hash_name)
    below = "files/md5" if hash_name == "md5" else ""
    misread = posixpath.normpath(posixpath.join("/.dvc", url, below))  # as if .dvc/ stood in /
    if not url or remote.path != misread or posixpath.isabs(url):
        yield Store(remote, remote.path.removesuffix(below))
        return
    inside = posixpath.normpath(posixpath.join(".dvc", url))
    if tree is not None:
        base = Path(os.path.normpath(tree / inside))
        yield Store(objects(remote.fs, str(base / below), hash_name=hash_name), str(base))
    if not inside.startswith(".."):
        path = posixpath.normpath(posixpath.join("/", inside, below))
        yield Store(objects(repo.fs, path, hash_name=hash_name), f"/{inside}")


def _first(stores: list[Store], oid: str) -> Store:
    """Return the store that holds an object; raise any error except its absence."""
    for store in stores:
        try:
            _size(store, oid)
            return store
        except FileNotFoundError as error:
            if _unreachable(error.__cause__):
                raise RegistryUnavailable(
                    "The DVC remote cannot be reached; check its address, or try again."
                ) from error
    if not any(_exists(store) for store in stores):
        raise RegistryUnavailable(
            "The folder of the DVC remote does not exist; mount it, or check its address."
        )
    raise NotFound("model: the DVC remote does not hold it; run `dvc push` where it was trained")


def _unreachable(cause: BaseException | None) -> bool:
    """Tell a failed connection from a missing file: over HTTP both arrive as FileNotFoundError."""
    if isinstance(cause, FileNotFoundError) or getattr(cause, "status", None) == 404:
        return False
    return isinstance(cause, OSError) or type(cause).__module__.startswith("aiohttp")


def _exists(store: Store) -> bool:
    return store.objects.fs.protocol != "local" or bool(store.objects.fs.exists(store.root))


def _size(store: Store, oid: str) -> int:
    return int(store.objects.fs.info(store.objects.oid_to_path(oid)).get("size") or 0)


def _copy(store: Store, oid: str, hash_name: str, to: Path, most: int) -> None:
    from dvc.fs import localfs
    from dvc_data.hashfile.hash import hash_file

    size = _size(store, oid)
    if size > most:
        raise BundleRefused(f"model: {size} bytes in one file; at most {most} are taken")
    store.objects.fs.get_file(store.objects.oid_to_path(oid), str(to))
    if not stat.S_ISREG(to.lstat().st_mode):
        raise BundleRefused("model: the DVC remote holds something else than plain files")
    _, found = hash_file(str(to), localfs, hash_name)
    if (value := str(found.value)) != oid.removesuffix(".dir"):
        raise BundleRefused(
            f"model: DVC's md5 of {to.name} is {value[:12]}..., dvc.lock says {oid[:12]}...: "
            f"the remote holds an altered or cut-off file; push it again"
        )
