"""The Git repository, as delivery uses it: arguments are lists, names stand behind a separator."""

import os
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from delivery.errors import GitError

ORIGIN = "origin"
BOT_NAME, BOT_EMAIL = "Conveyor", "conveyor@localhost"


class Repository:
    """A working copy. Every method raises GitError with what Git said."""

    def __init__(self, folder: Path = Path(".")) -> None:
        self.folder = folder

    def git(self, *words: str, stdin: str | None = None) -> str:
        """Run git; returns what it printed, without the last line's end."""
        done = self._run(words, stdin)
        if done.returncode != 0:
            raise GitError(f"git {words[0]}: {_said(done.stderr or done.stdout)}")
        return done.stdout.rstrip("\n")

    def commit(self, revision: str) -> str:
        """Full hash of the commit that a revision means."""
        words = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        done = None if "\0" in revision else self._run(words)
        if done is None or done.returncode != 0:
            raise GitError(
                f"revision {revision[:128]!a} is not in this repository: git fetch --tags origin"
            )
        return done.stdout.strip()

    def show(self, commit: str, path: PurePosixPath | str) -> str | None:
        """Text of a file as it was at a commit; None when it was not there."""
        done = self._run(("show", "--end-of-options", f"{commit}:./{path}"))
        return done.stdout if done.returncode == 0 else None

    def tags(self, pattern: str) -> dict[str, str]:
        """Tags that match a pattern of Git, each with the commit that it names; oldest first."""
        form = "%(refname:strip=2)%00%(objectname)%00%(*objectname)"
        listed = self.git(
            "for-each-ref", "--sort=creatordate", f"--format={form}", f"refs/tags/{pattern}"
        )
        rows = (line.split("\0") for line in listed.split("\n") if line)
        return {tag: behind or commit for tag, commit, behind in rows}

    def message(self, tag: str) -> str:
        """Message of an annotated tag; empty for another."""
        form = "%(if:equals=tag)%(objecttype)%(then)%(contents)%(end)"
        return self.git("for-each-ref", f"--format={form}", f"refs/tags/{tag}").strip()

    def is_ancestor(self, old: str, new: str) -> bool:
        """Whether `new` contains `old`."""
        done = self._run(("merge-base", "--is-ancestor", old, new))
        if done.returncode > 1:
            raise GitError(f"git merge-base: {done.stderr.strip()}")
        return done.returncode == 0

    def fetch(self, *refs: str) -> None:
        """Bring refs and all tags from origin; a tag that was moved there is an error."""
        self.git("fetch", "--quiet", "--tags", "--end-of-options", ORIGIN, *refs)

    def push(self, *refs: str, skip_ci: bool = True) -> None:
        """Push refs to where `PUSH_URL` says, or origin; all of them or none.

        A push by CI skips the pipeline that it would start; a push by a person starts it.
        """
        target = os.environ.get("PUSH_URL") or ORIGIN
        options = ("--push-option=ci.skip",) if skip_ci and self._takes_options(target) else ()
        self.git("push", "--quiet", "--atomic", *options, "--end-of-options", target, *refs)

    def propose(
        self, branch: str, into: str, title: str, label: str, description: str = ""
    ) -> None:
        """Push HEAD as a branch, and let GitLab open its merge request by push options.

        The texts are one line each, which is all that a push option holds.
        """
        wishes = ["create", f"target={into}", f"title={title}", f"label={label}"]
        if description:
            wishes.append(f"description={description}")
        options = [f"--push-option=merge_request.{wish}" for wish in wishes]
        target = os.environ.get("PUSH_URL") or ORIGIN
        self.git(
            "push", "--quiet", *options, "--end-of-options", target, f"HEAD:refs/heads/{branch}"
        )

    def commit_files(self, paths: Iterable[str], message: str) -> bool:
        """Commit these files as the bot, and nothing else; False when nothing changed in them."""
        paths = list(paths)
        self.git("add", "--", *paths)  # what is new is not known to `commit --only`
        if self._run(("diff", "--cached", "--quiet", "--", *paths)).returncode == 0:
            return False
        words = ("--quiet", "--no-verify", "--file=-", "--only")
        self.git("commit", *words, "--", *paths, stdin=message)
        return True

    def staged(self) -> list[str]:
        """Files whose changes wait in the index for a commit."""
        return self.git("diff", "--cached", "--name-only", "-z").split("\0")[:-1]

    def _takes_options(self, target: str) -> bool:
        """A plain repository on disk need not take push options; GitLab does."""
        words = ("push", "--dry-run", "--push-option=ci.skip", "--end-of-options")
        done = self._run((*words, target, "HEAD:refs/probe"))
        return "does not support" not in done.stderr

    def _run(
        self, words: Iterable[str], stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        command = ["git", "-C", str(self.folder), *words]
        try:
            # Messages and files of other people need not be UTF-8.
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
    """The environment of Git: in CI the bot as author, its token out of every argument, no prompt.

    The token goes through a credential helper, which Git asks only for http: `RELEASE_TOKEN`, which
    only pipelines of main and of tags see, or else `BOT_TOKEN`.
    """
    found = os.environ | {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    if "CI" in os.environ:
        for role in ("AUTHOR", "COMMITTER"):
            found |= {f"GIT_{role}_NAME": BOT_NAME, f"GIT_{role}_EMAIL": BOT_EMAIL}
    if os.environ.get("RELEASE_TOKEN") or os.environ.get("BOT_TOKEN"):
        helper = '!f() { echo username=conveyor; echo "password=${RELEASE_TOKEN:-$BOT_TOKEN}"; }; f'
        count = int(os.environ.get("GIT_CONFIG_COUNT") or 0)
        found |= {
            "GIT_CONFIG_COUNT": str(count + 1),
            f"GIT_CONFIG_KEY_{count}": "credential.helper",
            f"GIT_CONFIG_VALUE_{count}": helper,
        }
    return found


def _said(text: str) -> str:
    """The line that tells most: what the server said, which ref was refused, why Git gave up."""
    lines = [line.strip() for line in text.splitlines() if re.search(r"\w", line)]
    signs = ("remote:", "! [", "fatal:", "error:", "")
    told = (line for sign in signs for line in lines if line.startswith(sign))
    line = next((line for line in told if line != "remote:"), "failed without a word")
    return "".join(letter if letter.isprintable() else " " for letter in line)[:300]
