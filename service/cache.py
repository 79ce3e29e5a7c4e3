"""Bundles on this replica's disk, by digest: what a restart serves when the network is down."""

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from service.bundle import GRAPH, MANIFEST, Bundle, read_bundle
from service.errors import BundleRefused, NotFound, StorageFull

KEPT = 5  # bundles beside those in use; the last ones that served
DIGEST = re.compile(r"[0-9a-f]{64}")


class BundleCache:
    """A folder a bundle, named by the SHA-256 of its graph, verified each time it is read."""

    def __init__(self, folder: Path) -> None:
        """Keep bundles below a folder, made when the first one comes."""
        self._folder = folder

    def read(self, sha256: str) -> Bundle:
        """Read a bundle.

        Raises:
            NotFound: it is not here.
            BundleRefused: it is here, and was altered; it is deleted, so that it is fetched again.
        """
        folder = self._path(sha256)
        if not folder.is_dir():
            raise NotFound(f"the bundle {sha256[:12]} is not in the cache")
        try:
            bundle = read_bundle(folder)
            if bundle.manifest.sha256 != sha256:
                raise BundleRefused("the cached bundle is another one")
        except BundleRefused:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        os.utime(folder)
        return bundle

    def keep(self, bundle: Bundle) -> None:
        """Write a bundle, in one step.

        Raises:
            StorageFull: the disk is full.
        """
        target = self._path(bundle.manifest.sha256)
        with disk_errors():
            self._folder.mkdir(parents=True, exist_ok=True)
            fresh = Path(tempfile.mkdtemp(prefix="incoming-", dir=self._folder))
            try:
                (fresh / GRAPH).write_bytes(bundle.graph)
                (fresh / MANIFEST).write_bytes(bundle.document)
                if target.is_dir():  # the graph is the same; the manifest may be newer
                    os.replace(fresh / MANIFEST, target / MANIFEST)
                else:
                    os.rename(fresh, target)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)

    def prune(self, in_use: set[str]) -> None:
        """Delete the bundles that served longest ago, and what killed processes left behind."""
        found = [item for item in self._folder.glob("*") if item.is_dir()]
        idle = [item for item in found if DIGEST.fullmatch(item.name) and item.name not in in_use]
        idle.sort(key=lambda item: item.stat().st_mtime, reverse=True)
        for folder in idle[KEPT:]:
            shutil.rmtree(folder, ignore_errors=True)

    def _path(self, sha256: str) -> Path:
        if not DIGEST.fullmatch(sha256):
            raise NotFound("a bundle is named by the 64 hexadecimal digits of its SHA-256")
        return self._folder / sha256


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Turn a full disk into an error of the service."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(
                "the server's disk is full: free some space, then try again"
            ) from None
        raise
