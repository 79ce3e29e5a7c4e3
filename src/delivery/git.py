"""Git as a child process: arguments are lists, and names follow `--end-of-options`."""

import os
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from contracts import git as safe
from delivery.errors import GitError

ORIGIN = "origin"
BOT_NAME, BOT_EMAIL = "Conveyor", "conveyor@localhost"
CURES = {
    "cannot delete a tag": "switch off the push rule 'Do not allow users to remove Git tags' "
    "(Settings > Repository > Push rules)",
    "protected|pre-receive hook declined|not allowed to (push|upload)": "let this account push "
    "there (in the pipeline BOT_TOKEN or RELEASE_TOKEN, docs/gitlab-setup.md), or ask who may",
    "Authentication failed|Access denied|could not read (Username|Password)|error: 40[13]": (
        "renew the token: BOT_TOKEN or RELEASE_TOKEN in the pipeline, here Git's own credentials"
    ),
    "Permission denied \\(": "add your public key on the server, or load it with ssh-add",
    "Host key verification failed": "compare the server's key with the published one, and put it "
    "into known_hosts (ssh-keyscan HOST)",
    "'origin' does not appear": "name your repository: git remote add origin URL",
    "not be found|[Rr]epository.* not found|does not exist": "check git remote get-url origin, and "
    "whether this account may read it",
    "Could not resolve host|Failed to connect|Connection (refused|timed out)|unreachable": (
        "check the network, HTTPS_PROXY and git remote get-url origin"
    ),
    "certificate": "name your company's authority: git config --global http.sslCAInfo FILE",
    "auto-detect|empty ident|no (email|name) was given": (
        "git config --global user.name NAME, and user.email ADDRESS"
    ),
    "No space left|[Dd]isk quota": "free some space",
    "non-fast-forward|fetch first": "git pull, and run it again",
    r"\.lock': File exists": "another Git runs here: wait for it; if none does, delete that file",
}
"""Words in a line of Git -> what to do. The first match counts."""


class Repository:
    """A working copy. Every method raises GitError with Git's message."""

    def __init__(self, folder: Path = Path(".")) -> None:
        self.folder = folder

    def git(self, *words: str, stdin: str | None = None) -> str:
        """Run git; returns its output, without the last newline."""
        done = self._run(words, stdin)
        if done.returncode != 0:
            raise GitError(f"git {words[0]}: {_explain(done.stderr or done.stdout)}")
        return done.stdout.rstrip("\n")

    def commit(self, revision: str) -> str:
        """Full hash of the commit of a revision."""
        done = None if "\0" in revision else self._run(safe.commit_of(revision))
        if done is None or done.returncode != 0:
            whole = " --unshallow" if self._run(safe.IS_SHALLOW).stdout == "true\n" else ""
            raise GitError(
                f"revision {revision[:128]!a} is not in this repository: "
                f"git fetch{whole} --tags origin"
            )
        return done.stdout.strip()

    def show(self, commit: str, path: PurePosixPath | str) -> str | None:
        """Text of a file at a commit; None if it did not exist."""
        done = self._run(safe.content_of(commit, path))
        if done.returncode == 0:
            return done.stdout
        if safe.is_absent(done.stderr):
            return None
        raise GitError(
            f"{path} at {commit[:12]} cannot be read ({_explain(done.stderr)}): check the network; "
            f"a partial clone becomes whole by {safe.REFETCH}"
        )

    def tags(self, pattern: str) -> dict[str, str]:
        """Tags that match a pattern of Git, each with its commit; oldest first."""
        form = "%(refname:strip=2)%00%(objectname)%00%(*objectname)"
        listed = self.git(
            "for-each-ref", "--sort=creatordate", f"--format={form}", f"refs/tags/{pattern}"
        )
        rows = (line.split("\0") for line in listed.split("\n") if line)
        return {tag: behind or commit for tag, commit, behind in rows}

    def message(self, tag: str) -> str:
        """Message of an annotated tag; empty for a lightweight one."""
        text = "%(contents:subject)%0a%0a%(contents:body)"  # without a signature
        form = f"%(if:equals=tag)%(objecttype)%(then){text}%(end)"
        return self.git("for-each-ref", f"--format={form}", f"refs/tags/{tag}").strip()

    def is_ancestor(self, old: str, new: str) -> bool:
        """Whether `new` contains `old`."""
        done = self._run(("merge-base", "--is-ancestor", old, new))
        if done.returncode > 1:
            raise GitError(f"git merge-base: {done.stderr.strip()}")
        return done.returncode == 0

    def fetch(self, *refs: str) -> None:
        """Fetch refs and all tags from origin; a tag that was moved there is an error."""
        self.git("fetch", "--quiet", "--tags", "--end-of-options", ORIGIN, *refs)

    def push(self, *refs: str, skip_ci: bool = True) -> None:
        """Push refs to `PUSH_URL` or origin, all of them or none.

        With `skip_ci` the push starts no pipeline.
        """
        target = os.environ.get("PUSH_URL") or ORIGIN
        options = ("--push-option=ci.skip",) if skip_ci and self._takes_options(target) else ()
        self.git("push", "--quiet", "--atomic", *options, "--end-of-options", target, *refs)

    def head_of(self, branch: str) -> str:
        """Hash of the newest commit of a branch where `push` goes; empty if there is no branch."""
        target = os.environ.get("PUSH_URL") or ORIGIN
        listed = self.git("ls-remote", "--end-of-options", target, f"refs/heads/{branch}")
        return listed.partition("\t")[0]

    def propose(
        self, branch: str, into: str, title: str, label: str, description: str = ""
    ) -> None:
        """Push HEAD as a branch, and create its merge request by GitLab's push options.

        A push option holds one line, so each text is one line.
        """
        fields = ["create", f"target={into}", f"title={title}", f"label={label}"]
        if description:
            fields.append(f"description={description}")
        options = [f"--push-option=merge_request.{field}" for field in fields]
        target = os.environ.get("PUSH_URL") or ORIGIN
        self.git(
            "push", "--quiet", *options, "--end-of-options", target, f"HEAD:refs/heads/{branch}"
        )

    def commit_files(self, paths: Iterable[str], message: str) -> bool:
        """Commit these files and nothing else; False if they are unchanged."""
        paths = list(paths)
        self.git("add", "--", *paths)  # `commit --only` does not know new files
        if self._run(("diff-index", "--cached", "--quiet", "HEAD", "--", *paths)).returncode == 0:
            return False
        words = ("--quiet", "--no-verify", "--file=-", "--only")
        self.git("commit", *words, "--", *paths, stdin=message)
        return True

    def staged(self) -> list[str]:
        """Files with staged changes."""
        return self.git("diff-index", "--cached", "--name-only", "-z", "HEAD").split("\0")[:-1]

    def _takes_options(self, target: str) -> bool:
        """GitLab accepts push options; a plain repository on disk may not."""
        words = ("push", "--dry-run", "--push-option=ci.skip", "--end-of-options")
        done = self._run((*words, target, "HEAD:refs/probe"))
        return "does not support" not in done.stderr

    def _run(
        self, words: Iterable[str], stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        command = ["git", "-C", str(self.folder), *words]
        try:
            # Messages and files of other people may not be UTF-8.
            return subprocess.run(
                command,
                input=stdin,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                check=False,
                env=environment(),
            )
        except FileNotFoundError:
            raise GitError("git is not installed: install it") from None


def environment() -> dict[str, str]:
    """The environment of Git: no prompt; in CI the bot as author, its token in no argument.

    The bot is `GIT_AUTHOR_NAME` and `GIT_AUTHOR_EMAIL` where a job has set them.

    Git gets the token from a credential helper, which it calls only for http: `RELEASE_TOKEN`,
    which only pipelines of main and of tags have, else `BOT_TOKEN`.
    """
    found = safe.environment()
    if "CI" in os.environ:
        for role in ("AUTHOR", "COMMITTER"):
            for field, bots in (("NAME", BOT_NAME), ("EMAIL", BOT_EMAIL)):
                found[f"GIT_{role}_{field}"] = os.environ.get(f"GIT_AUTHOR_{field}") or bots
    if os.environ.get("RELEASE_TOKEN") or os.environ.get("BOT_TOKEN"):
        helper = '!f() { echo username=conveyor; echo "password=${RELEASE_TOKEN:-$BOT_TOKEN}"; }; f'
        return safe.configured(found, {"credential.helper": helper})
    return found


def _explain(text: str) -> str:
    """The most informative line (of the server, a known cause, or Git itself), and its cure."""
    lines = [line.strip() for line in text.splitlines() if re.search(r"\w", line)]
    lines = [line for line in lines if line != "remote:"]
    known = (
        (line, cure) for signs, cure in CURES.items() for line in lines if re.search(signs, line)
    )
    cause, cure = next(known, ("", ""))
    starts = ("remote:", cause or "! [", "! [", "fatal:", "error:", "")
    found = (line for start in starts for line in lines if line.startswith(start))
    said = _printable(next(found, "failed without a message"))
    return f"{said.rstrip('. ')}: {cure}" if cure else said


def _printable(line: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in line)[:300]
