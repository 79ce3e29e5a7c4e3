"""Cache of bundles on this replica's disk, by digest: restarts serve from it without a network."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from contracts.bundle import GRAPH, MANIFEST
from service.errors import BundleRefused, NotFound, Unavailable
from service.files import disk_error, reason, replace_file
from service.inference.bundle import Bundle, read_bundle

KEPT = 5  # bundles besides those in use; the last ones that served
NAME = re.compile(r"[0-9a-f]{32}\.dir")  # by which DVC, and so dvc.lock, knows a bundle
INCOMING = "incoming-"
LEFTOVER_SECONDS = 3600.0  # age above which an incoming bundle is a leftover
DIGEST = re.compile(r"[0-9a-f]{64}")


class BundleCache:
    """One folder per bundle, named by the SHA-256 of its graph; each read verifies it."""

    def __init__(self, folder: Path, names: Path | None = None, room: int = 0) -> None:
        """Store bundles below a folder, created with the first bundle.

        The folder `names` leads from DVC's digest of a bundle to it. `room` bytes of bundles are
        kept, when they are more than those that are kept in any case.
        """
        self._folder = folder
        self._names = names
        self._room = room

    def find(self, digest: str | None) -> str | None:
        """Return the SHA-256 of the bundle with a digest of DVC's; None when it is not here."""
        if self._names is None or digest is None or not NAME.fullmatch(digest):
            return None
        try:
            sha256 = (self._names / digest).read_text("ascii")
        except (OSError, ValueError):
            return None
        return sha256 if DIGEST.fullmatch(sha256) and (self._folder / sha256).is_dir() else None

    def read(self, sha256: str) -> Bundle:
        """Read a bundle.

        Raises:
            NotFound: the cache does not have it.
            BundleRefused: it was altered; it is deleted, so that it is fetched again.
        """
        folder = self._path(sha256)
        if not folder.is_dir():
            raise NotFound(f"the bundle {sha256[:12]} is not in the cache")
        try:
            bundle = read_bundle(folder)
            if bundle.manifest.sha256 != sha256:
                raise BundleRefused("the cached bundle has another digest")
        except BundleRefused:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        with contextlib.suppress(OSError):  # another worker may just have deleted it
            os.utime(folder)
        return bundle

    def keep(self, bundle: Bundle) -> None:
        """Write a bundle, in one step.

        Raises:
            StorageFull: the disk is full.
            Unavailable: the disk cannot be written for another reason.
        """
        with disk_errors():
            self._folder.mkdir(parents=True, exist_ok=True)
            fresh = Path(tempfile.mkdtemp(prefix=INCOMING, dir=self._folder))
            try:
                (fresh / GRAPH).write_bytes(bundle.graph)
                (fresh / MANIFEST).write_bytes(bundle.document)
                _put(fresh, self._path(bundle.manifest.sha256))
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
            if self._names is not None:
                self._names.mkdir(parents=True, exist_ok=True)
                replace_file(self._names / dvc_digest(bundle), bundle.manifest.sha256, False)

    def prune(self, in_use: set[str]) -> None:
        """Delete the bundles that served longest ago, and leftovers of killed processes."""
        now = time.time()
        idle: list[tuple[float, int, Path]] = []
        for folder in self._folder.glob("*"):
            with contextlib.suppress(OSError):  # another worker deletes, too
                used = folder.stat().st_mtime
                if DIGEST.fullmatch(folder.name) and folder.name not in in_use:
                    size = sum(file.stat().st_size for file in folder.iterdir())
                    idle.append((used, size, folder))
                elif folder.name.startswith(INCOMING) and now - used > LEFTOVER_SECONDS:
                    shutil.rmtree(folder, ignore_errors=True)
        held = 0
        for number, (_, size, folder) in enumerate(sorted(idle, reverse=True)):
            held += size
            if number >= KEPT and held > self._room:
                shutil.rmtree(folder, ignore_errors=True)
        for name in self._names.glob("*.dir") if self._names is not None else ():
            if self.find(name.name) is None:
                name.unlink(missing_ok=True)

    def _path(self, sha256: str) -> Path:
        if not DIGEST.fullmatch(sha256):
            raise NotFound("a bundle is named by the 64 hexadecimal digits of its SHA-256")
        return self._folder / sha256


def dvc_digest(bundle: Bundle) -> str:
    """The digest by which DVC names a folder with these two files: that of its listing."""
    listing = [
        {"md5": hashlib.md5(content, usedforsecurity=False).hexdigest(), "relpath": name}
        for name, content in ((MANIFEST, bundle.document), (GRAPH, bundle.graph))
    ]
    text = json.dumps(listing, sort_keys=True)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + ".dir"


def _put(fresh: Path, target: Path) -> None:
    """Rename a folder; if the target exists, replace its files one by one.

    An existing graph has the same digest, unless it was altered; the manifest may be older. Readers
    always find a whole bundle.
    """
    try:
        os.rename(fresh, target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        try:
            for name in (GRAPH, MANIFEST):
                os.replace(fresh / name, target / name)
        except FileNotFoundError:  # deleted meanwhile: the bundle serves from memory
            return


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Turn errors of the disk into errors of the service."""
    try:
        yield
    except OSError as error:
        raise disk_error(
            error,
            Unavailable(
                f"the service's state cannot be written ({reason(error)}): give it a folder of its "
                "own, SERVICE_STATE"
            ),
        ) from error
