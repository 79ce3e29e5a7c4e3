"""Git as a child process: the environment and the command lines that nobody can bend.

Arguments are lists, never text of a shell. A name that came from outside stands behind
`--end-of-options`: `git fetch --upload-pack=...` runs a command. Git asks nobody, speaks English,
and uses no transport that runs a program (`ext::`). A variable of a surrounding Git process, such
as that of a hook, must not lead it into another repository.

How to reach a server, and who the user is, stays as the user configured it. What the configuration
says of the user's own commits, pushes and screens must not change what these commands do or print:
SETTINGS wins.
"""

import os
from collections.abc import Mapping
from pathlib import PurePath, PurePosixPath

SETTINGS = {
    "color.ui": "false",
    "commit.cleanup": "whitespace",
    "commit.gpgSign": "false",
    "core.hooksPath": os.devnull,
    "core.safecrlf": "false",
    "diff.orderFile": os.devnull,
    "fetch.prune": "false",
    "fetch.pruneTags": "false",
    "i18n.commitEncoding": "UTF-8",
    "i18n.logOutputEncoding": "UTF-8",
    "init.defaultObjectFormat": "sha1",
    "init.defaultRefFormat": "files",
    "log.follow": "false",
    "log.showSignature": "false",
    "push.followTags": "false",
    "push.gpgSign": "false",
    "push.recurseSubmodules": "no",
    "submodule.recurse": "false",
    "tag.forceSignAnnotated": "false",
    "tag.gpgSign": "false",
}
"""Settings of Git that hold whatever the configuration of user and machine says."""

_INHERITED = (
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE"),
    *("GIT_COMMON_DIR", "GIT_CONFIG_PARAMETERS", "GIT_EXTERNAL_DIFF", "GIT_PREFIX"),
    *("GIT_LITERAL_PATHSPECS", "GIT_GLOB_PATHSPECS", "GIT_NOGLOB_PATHSPECS"),
    *("GIT_ICASE_PATHSPECS", "GIT_DEFAULT_HASH", "GIT_DEFAULT_REF_FORMAT"),
)


_ABSENT = ("does not exist in '", "exists on disk, but not in '", "invalid object name '")
IS_SHALLOW = ("rev-parse", "--is-shallow-repository")
"""Arguments that print `true` in a clone without its whole history."""
REFETCH = "git fetch --refetch --no-filter origin"
"""Makes a partial clone whole."""


def environment() -> dict[str, str]:
    """Return the environment of this process, made safe for Git."""
    kept = {name: value for name, value in os.environ.items() if name not in _INHERITED}
    safe = {
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_ALLOW_PROTOCOL": "file:http:https:ssh",
        "LC_ALL": "C",
    }
    return configured(kept | safe, SETTINGS)


def configured(environment: Mapping[str, str], settings: Mapping[str, str]) -> dict[str, str]:
    """Add settings of Git to an environment; they win over those of files and over earlier ones."""
    given = environment.get("GIT_CONFIG_COUNT", "")
    first = int(given) if given.isdecimal() else 0
    found = {**environment, "GIT_CONFIG_COUNT": str(first + len(settings))}
    for number, (key, value) in enumerate(settings.items(), first):
        found |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return found


def commit_of(revision: str) -> tuple[str, ...]:
    """Arguments that print the full hash of the commit that a revision means."""
    return ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")


def is_absent(said: str) -> bool:
    """Whether Git, asked for `content_of`, says that the commit has no such file.

    It may also fail to read it: a partial clone fetches files when they are needed.
    """
    return any(sign in said for sign in _ABSENT)


def content_of(commit: str, path: PurePath | str) -> tuple[str, ...]:
    """Arguments that print a file, named from the folder that Git runs in, as of a commit."""
    return ("show", "--end-of-options", f"{commit}:./{PurePosixPath(path)}")
