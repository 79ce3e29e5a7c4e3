"""Writes the registry's tags through GTO; origin is the source of truth.

Only tags on origin count. So each write starts from origin's tags, and a tag whose push failed is
deleted: a command that was killed at any point can be repeated.
"""

import logging
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from contracts import git as safe
from contracts.tags import Version
from delivery.errors import GitError, RegistryError
from delivery.git import ORIGIN, Repository

if TYPE_CHECKING:
    from gto.base import BaseEvent

_IDENTITY = re.compile(r"(?P<author>.*) <(?P<author_email>.*)> [0-9]+ [+-][0-9]{4}")
_log = logging.getLogger(__name__)


class TagWriter:
    """Writes the tags of one model: each method pushes one annotated tag and returns its name.

    Raises:
        GitError: origin cannot be reached, or Git has no identity.
        RegistryError: GTO or origin refuses the tag.
    """

    def __init__(self, repository: Repository, name: str) -> None:
        self._repository = repository
        self._name = name

    def sync(self) -> None:
        """Replace the local tags of this model by those of origin.

        A tag that a killed run left behind, or that was created by hand and not pushed, is deleted
        with a warning: it would block the one that is pushed.
        """
        before = self._tags()
        kinds = [f"refs/tags/{self._name}{sign}*" for sign in "@#"]
        words = ("fetch", "--quiet", "--no-tags", "--prune", "--end-of-options", ORIGIN)
        try:
            self._repository.git(*words, *(f"+{kind}:{kind}" for kind in kinds))
        except GitError as error:
            raise GitError(f"{ORIGIN} has the registry, and cannot be read: {error}") from None
        after = self._tags()
        for tag, was in before.items():
            if tag not in after:
                _log.warning(
                    "%s is not on %s and was deleted locally; git tag %s %s restores it",
                    tag,
                    ORIGIN,
                    tag,
                    was,
                )
            elif after[tag] != was:
                _log.warning(
                    "%s differs on %s, which counts (the local one was %s)", tag, ORIGIN, was
                )

    def register(self, version: Version, commit: str, message: str, ci_skip: bool) -> str:
        """Tag a commit as a version.

        The number is explicit: GTO starts at v0.0.1, and reuses the number of a retired version.
        """
        from gto.api import register

        return self._write(register, ci_skip, ref=commit, version=version.text, message=message)

    def assign(self, commit: str, stage: str, message: str, ci_skip: bool) -> str:
        """Assign the version on a commit to a stage.

        Forced, because GTO refuses a version that the stage had before, even if it serves another
        one now: a rollback would be impossible. By commit, because GTO ignores a version whose tag
        has no message.
        """
        from gto.api import assign

        details = {"stage": stage, "ref": commit, "skip_registration": True, "force": True}
        return self._write(assign, ci_skip, message=message, **details)

    def unassign(self, commit: str, stage: str, message: str, ci_skip: bool) -> str:
        """Withdraw the assignment of the version on a commit."""
        from gto.api import unassign

        return self._write(unassign, ci_skip, stage=stage, ref=commit, message=message, force=True)

    def retire(self, version: Version, message: str, ci_skip: bool) -> str:
        """Retire a version. GTO calls this deregister; its deprecate retires the whole model."""
        from gto.api import deregister

        return self._write(deregister, ci_skip, version=version.text, message=message)

    def _write(self, make: Callable[..., "BaseEvent"], ci_skip: bool, **details: Any) -> str:
        from gto.exceptions import GTOException
        from scmrepo.exceptions import SCMError

        try:
            identity = self._identity()
            with _settings_of_git():
                event = make(str(self._repository.folder), self._name, **details, **identity)
        except (GTOException, SCMError, ValueError, OSError, subprocess.SubprocessError) as error:
            raise RegistryError(
                f"GTO refuses: {str(error).strip() or type(error).__name__}; it reads only "
                f"annotated tags: git tag --list '{self._name}*'"
            ) from None
        tag: str = event.ref
        self._publish(tag, ci_skip)
        return tag

    def _identity(self) -> dict[str, str]:
        found = _IDENTITY.fullmatch(self._repository.git("var", "GIT_COMMITTER_IDENT"))
        return found.groupdict() if found else {}

    def _publish(self, tag: str, ci_skip: bool) -> None:
        """Push a tag; delete it locally if the push failed."""
        mine = self._tags()[tag]
        try:
            self._repository.push(f"refs/tags/{tag}", skip_ci=ci_skip)
            return
        except GitError as error:
            refused = error
        self._repository.git("update-ref", "-d", f"refs/tags/{tag}", mine)
        self.sync()
        theirs = self._tags().get(tag)
        if theirs is None:
            raise RegistryError(f"tag {tag} was not pushed, nothing has changed: {refused}")
        if theirs != mine:  # else only the response was lost
            raise RegistryError(
                f"tag {tag} was pushed by another person at the same moment: check what serves now "
                f"(make models), then retry"
            )

    def _tags(self) -> dict[str, str]:
        """The model's tags, each with its own object."""
        listed = self._repository.git(
            "for-each-ref",
            "--format=%(refname:strip=2)%00%(objectname)",
            f"refs/tags/{self._name}@*",
            f"refs/tags/{self._name}#*",
        )
        rows = (line.partition("\0") for line in listed.split("\n") if line)
        return {tag: own for tag, _, own in rows}


@contextmanager
def _settings_of_git() -> Iterator[None]:
    """GTO writes in this process, by libraries that read the environment as Git does."""
    before = dict(os.environ)
    os.environ |= safe.configured(before, safe.SETTINGS)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before
