"""What the Git repository says. Arguments are lists and names stand behind `--end-of-options`."""

import shlex
import subprocess
from pathlib import Path

from contracts import git as safe
from contracts.commit import Unreadable, read_data
from pipeline import paths
from pipeline.errors import OwnershipError, RevisionError

RESULTS = ("dvc.lock", "reports")
"""What `dvc repro` itself changes: no input of a training."""


def revision() -> str:
    """Commit that is checked out; `unknown` outside Git.

    It ends in `-dirty` when tracked files differ from the commit, RESULTS aside.

    Raises:
        OwnershipError, RevisionError: the repository belongs to another user, or has no commit:
            lineage would be lost.
    """
    inputs = [f":(exclude){path}" for path in RESULTS]
    try:
        commit = _git("rev-parse", "HEAD").strip()
        changed = _git("status", "--porcelain", "-uno", "--", ".", *inputs).strip()
        return commit + ("-dirty" if changed else "")
    except RevisionError as error:
        if "unknown revision" in str(error):
            raise RevisionError(
                "the repository has no commit yet: git add --all . && git commit -m start"
            ) from None
        return "unknown"


def resolve(name: str) -> str:
    """Full hash of the commit that `name` means.

    Raises:
        RevisionError: there is no such commit.
    """
    try:
        return _git(*safe.commit_of(name)).strip()
    except RevisionError as error:
        if "not a git repository" in str(error):
            raise RevisionError(
                "this folder has no history to compare with: git clone instead of an unpacked "
                "download"
            ) from None
        whole = " --unshallow" if _git(*safe.IS_SHALLOW).strip() == "true" else ""
        raise RevisionError(
            f"revision {name!r} is not in this repository: fetch it (git fetch{whole} origin), "
            f"or name another with --against (of make: AGAINST=...)"
        ) from None


def is_first_commit() -> bool:
    """Whether nothing comes before the commit that is checked out, also in the whole history."""
    alone = len(_git("rev-list", "--parents", "--max-count=1", "HEAD").split()) == 1
    return alone and _git(*safe.IS_SHALLOW).strip() == "false"


def show(commit: str, path: Path) -> str | None:
    """Text of a file as it was at a commit; None when it was not there.

    Raises:
        RevisionError: Git cannot read it.
    """
    try:
        return _git(*safe.content_of(commit, path))
    except RevisionError as error:
        if safe.is_absent(str(error)):
            return None
        reason = str(error).splitlines()[0]
        raise RevisionError(
            f"{path} at {commit[:12]} cannot be read ({reason}): check the network; a partial "
            f"clone becomes whole by {safe.REFETCH}"
        ) from None


def data_version(commit: str | None = None) -> str:
    """md5 that data.dvc names, here or at a commit; `unversioned` when there is none."""
    try:
        if commit is None:
            return read_data(paths.DATA_VERSION.read_bytes())
        return read_data((show(commit, paths.DATA_VERSION) or "").encode())
    except (OSError, Unreadable):
        return "unversioned"


def _git(*arguments: str) -> str:
    try:
        result = subprocess.run(
            ["git", *arguments],
            capture_output=True,
            text=True,
            check=True,
            env=safe.environment(),
        )
    except (OSError, subprocess.CalledProcessError) as error:
        if "dubious ownership" in str(getattr(error, "stderr", "")):
            raise OwnershipError(
                "Git refuses this folder, which belongs to another user: "
                f"git config --global --add safe.directory {shlex.quote(str(Path.cwd()))}"
            ) from None
        said = str(getattr(error, "stderr", "") or error).strip()
        raise RevisionError(f"git {arguments[0]} failed: {said}") from None
    return result.stdout
