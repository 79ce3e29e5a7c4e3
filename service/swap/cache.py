"""Cache of bundles on this replica's disk, by digest: restarts serve from it without a network."""

import contextlib
import errno
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from contracts.bundle import GRAPH, MANIFEST
from service.errors import BundleRefused, NotFound, Unavailable
from service.files import disk_error, reason
from service.inference.bundle import Bundle, read_bundle

KEPT = 5  # bundles besides those in use; the last ones that served
INCOMING = "incoming-"
LEFTOVER_SECONDS = 3600.0  # age above which an incoming bundle is a leftover
DIGEST = re.compile(r"[0-9a-f]{64}")


class BundleCache:
    """One folder per bundle, named by the SHA-256 of its graph; each read verifies it."""

    def __init__(self, folder: Path) -> None:
        """Store bundles below a folder, created with the first bundle."""
        self._folder = folder

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

    def prune(self, in_use: set[str]) -> None:
        """Delete the bundles that served longest ago, and leftovers of killed processes."""
        now = time.time()
        idle: list[tuple[float, Path]] = []
        for folder in self._folder.glob("*"):
            with contextlib.suppress(OSError):  # another worker deletes, too
                used = folder.stat().st_mtime
                if DIGEST.fullmatch(folder.name) and folder.name not in in_use:
                    idle.append((used, folder))
                elif folder.name.startswith(INCOMING) and now - used > LEFTOVER_SECONDS:
                    shutil.rmtree(folder, ignore_errors=True)
        for _, folder in sorted(idle, reverse=True)[KEPT:]:
            shutil.rmtree(folder, ignore_errors=True)

    def _path(self, sha256: str) -> Path:
        if not DIGEST.fullmatch(sha256):
            raise NotFound("a bundle is named by the 64 hexadecimal digits of its SHA-256")
        return self._folder / sha256


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
