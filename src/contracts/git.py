"""Git as a child process: the environment and the command lines that nobody can bend.

Arguments are lists, never text of a shell. A name that came from outside stands behind
`--end-of-options`: `git fetch --upload-pack=...` runs a command. Git asks nobody, speaks English,
and uses no transport that runs a program (`ext::`). A variable of a surrounding Git process, such
as that of a hook, must not lead it into another repository.
"""

import os
from pathlib import PurePath, PurePosixPath

_INHERITED = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE")


_ABSENT = ("does not exist in '", "exists on disk, but not in '", "invalid object name '")
IS_SHALLOW = ("rev-parse", "--is-shallow-repository")
"""Arguments that print `true` in a clone without its whole history."""
REFETCH = "git fetch --refetch --no-filter origin"
"""Makes a partial clone whole."""


def environment() -> dict[str, str]:
    """Return the environment of this process, made safe for Git."""
    kept = {name: value for name, value in os.environ.items() if name not in _INHERITED}
    return kept | {
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_ALLOW_PROTOCOL": "file:http:https:ssh",
        "LC_ALL": "C",
    }


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
