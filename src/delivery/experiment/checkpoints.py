"""Checkpoints that survive their runner: copied to the DVC remote while a training runs.

A preempted runner loses its disk. The job that is retried on another runner restores the newest
checkpoints, and `pipeline.train` resumes from them; their fingerprint excludes those of other runs.
They are stored in `checkpoints/<branch>` beside DVC's own objects until the run ends.
"""

import hashlib
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from delivery.dvc import asking_remote

LOCAL = Path("artifacts/checkpoints")
MINUTES = float(os.environ.get("CHECKPOINT_MINUTES", "10"))
log = logging.getLogger(__name__)


@contextmanager
def preserved() -> Iterator[None]:
    """Restore the checkpoints of an interrupted run, and copy new ones during this block."""
    with asking_remote():
        remote, folder = _place()
        _restore(remote, folder)
    ended = threading.Event()
    copier = threading.Thread(target=_copy_often, args=(remote, folder, ended), daemon=True)
    copier.start()
    try:
        yield
    finally:
        ended.set()
        copier.join()


def delete() -> None:
    """Delete the copies: the run has ended."""
    with asking_remote():
        remote, folder = _place()
        if remote.exists(folder):
            remote.rm(folder, recursive=True)


def _place() -> tuple[Any, str]:
    """The remote's file system, and the folder of this branch there."""
    from dvc.repo import Repo

    with Repo() as repo:
        remote = repo.cloud.get_remote_odb()
        branch = os.environ.get("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME") or "local"
        name = hashlib.sha256(branch.encode()).hexdigest()[:16]
        root = remote.fs.parent(remote.fs.parent(remote.path))  # of <root>/files/md5
        return remote.fs, remote.fs.join(root, "checkpoints", name)


def _restore(remote: Any, folder: str) -> None:
    if not remote.exists(folder):
        return
    for path in remote.find(folder):
        target = LOCAL / remote.relpath(path, folder)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            remote.get_file(path, str(target))
            print(f"experiment: resumes from {target.name}, saved by another runner")


def _copy_often(remote: Any, folder: str, ended: threading.Event) -> None:
    copied: set[Path] = set()
    while not ended.wait(MINUTES * 60):
        try:
            copied = _copy(remote, folder, copied)
        except Exception:  # an unreachable remote must not end a training
            log.warning("checkpoints could not be copied; retrying", exc_info=True)


def _copy(remote: Any, folder: str, copied: set[Path]) -> set[Path]:
    """Copy new checkpoints, then delete the copies of deleted ones."""
    now = set(LOCAL.glob("*/*.pt"))
    for path in sorted(now - copied):
        target = remote.join(folder, *path.relative_to(LOCAL).parts)
        remote.makedirs(remote.parent(target), exist_ok=True)
        remote.put_file(str(path), target)
    for path in copied - now:
        remote.rm_file(remote.join(folder, *path.relative_to(LOCAL).parts))
    return now
