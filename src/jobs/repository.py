"""Git as a child process: which commit a job means, its checkout, and the ref it ends as."""

import io
import os
import subprocess
import tarfile
from pathlib import Path

from contracts import git as safe
from jobs.errors import JobsError, Refused

RESULTS = "refs/heads/job/"
HELPER = '!f() { echo username=conveyor; echo "password=$BOT_TOKEN"; }; f'
NOBODY = {
    f"GIT_{role}_{field}": value
    for role in ("AUTHOR", "COMMITTER")
    for field, value in (("NAME", "Conveyor"), ("EMAIL", "conveyor@localhost"))
}


class GitFailed(JobsError):
    """Git says no; the message is its own."""


class Repository:
    """A working copy, in which Git runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def git(self, *words: str, stdin: str = "") -> str:
        """Run git; returns its output without the last newline. Raises GitFailed."""
        done = self._run(words, stdin.encode())
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines() or ["failed"]
            raise GitFailed(f"git {words[0]}: {said[-1][:300]}")
        return done.stdout.decode(errors="replace").removesuffix("\n")

    def root(self) -> Path:
        """The folder that holds everything. Raises Refused outside a repository."""
        try:
            return Path(self.git("rev-parse", "--show-toplevel"))
        except GitFailed as error:
            raise Refused(f"commit: this folder has no commits to name ({error})") from None

    def commit(self, revision: str) -> str:
        """Full hash of the commit that a revision means. Raises Refused."""
        done = self._run(safe.commit_of(revision))
        if done.returncode:
            raise Refused(
                f"commit: {revision!r} is not in this repository: commit it, or git fetch origin"
            )
        return done.stdout.decode().strip()

    def is_pushed(self, commit: str) -> bool:
        """Whether a branch of a remote holds the commit, as of the last fetch or push."""
        return bool(self.git("branch", "--remotes", "--list", "--contains", commit))

    def is_changed(self) -> bool:
        """Whether tracked files differ from HEAD."""
        return bool(self.git("status", "--porcelain", "--untracked-files=no"))

    def show(self, commit: str, path: str) -> bytes | None:
        """A file as of a commit; None if it did not exist. Raises GitFailed."""
        done = self._run(safe.content_of(commit, path))
        if done.returncode == 0:
            return done.stdout
        said = done.stderr.decode(errors="replace")
        if safe.is_absent(said):
            return None
        raise GitFailed(f"{path} at {commit[:12]} cannot be read: {said.strip()[:300]}")

    def export(self, commit: str, paths: tuple[str, ...], target: Path) -> None:
        """Write files and folders of a commit below a folder. Raises GitFailed."""
        words = ("archive", "--format=tar", "--end-of-options", commit, *paths)
        done = self._run(words)
        if done.returncode:
            raise GitFailed(f"git archive: {done.stderr.decode(errors='replace').strip()[:300]}")
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            archive.extractall(target, filter="data")

    def check_out(self, commit: str, work: Path) -> None:
        """Let `work` be a worktree of a commit; one that is there stays, with its files."""
        if not (work / ".git").exists():
            work.parent.mkdir(parents=True, exist_ok=True)
            words = ("--quiet", "--force", "--detach", "--end-of-options", str(work), commit)
            self.git("worktree", "add", *words)

    def remove(self, work: Path) -> None:
        """Delete a worktree, if it is there."""
        if work.exists():
            self.git("worktree", "remove", "--force", "--force", "--end-of-options", str(work))
        self.git("worktree", "prune")

    def publish(self, ref: str, paths: tuple[str, ...], message: str, remote: str = "") -> str:
        """Commit paths on top of the checkout, and let a ref name the commit; returns its hash."""
        there = [path for path in paths if (self.folder / path).exists()]
        if there:
            self.git("add", "--", *there)
        words = ("--quiet", "--no-verify", "--allow-empty", "--file=-")
        self.git("commit", *words, stdin=message)
        commit = self.git("rev-parse", "HEAD")
        if remote:
            self.git("push", "--quiet", "--end-of-options", remote, f"{commit}:{ref}")
        else:
            self.git("update-ref", ref, commit)
        return commit

    def _run(
        self, words: tuple[str, ...], stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        command = ["git", "-C", str(self.folder), *words]
        environment = safe.environment()
        if words[0] == "commit" and self._run(("var", "GIT_AUTHOR_IDENT")).returncode:
            environment |= NOBODY
        if words[0] == "push" and os.environ.get("BOT_TOKEN"):  # in a job of GitLab
            environment = safe.configured(environment, {"credential.helper": HELPER})
        try:
            return subprocess.run(
                command, input=stdin, capture_output=True, check=False, env=environment
            )
        except FileNotFoundError:
            raise GitFailed("git is not installed: install it") from None
