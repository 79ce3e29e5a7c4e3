"""Git as a child process: list arguments, no shell, no prompt, a time limit on everything.

A repository is the path of a working tree or bare repository, or a URL. The cache holds a bare
mirror of the tags of a URL. `--git-dir` always names the repository: Git must not find another
repository in the folders above.
"""

import fcntl
import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from contracts import git as safe
from service.auth.addresses import is_loopback_url
from service.secrets import PASSWORD, USERNAME, MountedSecrets

MIRROR = "repository.git"
STAMP = "refreshed"
"""File in the mirror whose time is that of the last fetch of its tags."""
LOCAL_SECONDS = 30.0  # longest command on a repository of this machine
REMOTE_SECONDS = 90.0  # longest fetch from another machine

_URL = re.compile(r"[a-z][a-z0-9+.-]*://|[^/:\s]+@[^/:\s]+:")
_CREDENTIALS = re.compile(r"//[^/@\s]*@")
# Message of git -> cause and cure. The first match counts.
_CURES = {
    "could not read Username": "it needs credentials; give the service a token",
    "Authentication failed": "it refuses the credentials; renew the token of the service",
    "Access denied": "it refuses the credentials; renew the token of the service",
    "error: 403": "it refuses the credentials; renew the token of the service",
    "error: 5": "its server has failed; try again later",
    "not allowed": "that transport is not allowed; use https, ssh or a path",
    "certificate": "its certificate is unknown here; name the authority in GIT_SSL_CAINFO",
    "Permission denied": "it refuses the credentials; renew the key of the service",
    "Host key verification failed": "its host key is unknown; add it to known_hosts",
    "Could not resolve host": "its host name is unknown here; check the setting repository",
    "Failed to connect": "nothing listens there; check the setting repository or wait",
    "Connection refused": "nothing listens there; check the setting repository or wait",
    "not a git repository": "no repository is there; check the setting repository",
    "does not appear to be a git": "no repository is there; check the setting repository",
    "not found": "the repository does not exist; check the setting repository",
    "does not exist": "the repository does not exist; check the setting repository",
    "dubious ownership": "another user owns it there; name it in Git's safe.directory",
    "No space left": "the disk is full; free some space",
}


class GitError(Exception):
    """A git command failed. The message may be shown to clients; `log` is for the operator."""

    def __init__(self, detail: str, log: str = "") -> None:
        """Keep both; remove credentials in URLs from the log."""
        super().__init__(detail)
        self.log = _CREDENTIALS.sub("//", log)


def is_url(repository: str) -> bool:
    """Whether a repository has to be mirrored: https://, ssh://, file://, user@host:path."""
    return bool(_URL.match(repository))


def git_dir(repository: str, cache: Path) -> Path:
    """Return the folder of Git's objects and references."""
    if is_url(repository):
        return cache / MIRROR
    inner = Path(repository, ".git")
    return inner if inner.exists() else Path(repository)


def environment() -> dict[str, str]:
    """Return the environment of git: no prompts, no habits of the user."""
    return {"GIT_SSH_COMMAND": "ssh -oBatchMode=yes -oConnectTimeout=10"} | safe.environment()


def with_credentials(
    environment: Mapping[str, str], repository: str, secrets: MountedSecrets
) -> dict[str, str]:
    """Let Git read user and password from files when the server of the repository asks for them.

    A credential helper of this server alone: the token is in no command line, address, variable or
    file of Git's, and a redirect to another server gets none.
    """
    parts = urlsplit(repository)
    files = secrets.path(USERNAME), secrets.path(PASSWORD)
    safe_from_readers = parts.scheme == "https" or is_loopback_url(repository)
    if not parts.scheme.startswith("http") or not safe_from_readers or not all(files):
        return dict(environment)
    user, password = (f"tr -d '\\r\\n' <{shlex.quote(str(file))}" for file in files)
    said = f'printf \'username=%s\\npassword=%s\\n\' "$({user})" "$({password})"'
    server = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    settings = {
        "credential.helper": "",  # no other one
        f"credential.{server}.helper": f'!f() {{ test "$1" != get || {said}; }}; f',
    }
    return safe.configured(environment, settings)


def arguments(folder: Path, *words: str) -> list[str]:
    """Return the command line of git for the repository in `folder`."""
    slow = ("-c", "http.lowSpeedLimit=100", "-c", "http.lowSpeedTime=30")
    return ["git", f"--git-dir={folder}", *slow, *words]


def run_git(folder: Path, *words: str, seconds: float = LOCAL_SECONDS, given: bytes = b"") -> bytes:
    """Run git and return its output.

    Raises:
        GitError: it failed or took longer than `seconds`.
    """
    # Files instead of pipes: a helper of git that outlives it would keep a pipe open.
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as output:
        with tempfile.TemporaryFile() as complaints:
            stdin.write(given)
            stdin.seek(0)
            try:
                code = subprocess.call(
                    arguments(folder, *words),
                    stdin=stdin,
                    stdout=output,
                    stderr=complaints,
                    env=environment(),
                    timeout=seconds,
                )
            except subprocess.TimeoutExpired:
                raise GitError(
                    f"The Git repository did not answer within {seconds:g} seconds."
                ) from None
            except FileNotFoundError:
                raise GitError("git is not installed on the server; install it.") from None
            if code:
                raise failure(words[0], code, _all_of(complaints).decode(errors="replace"))
        return _all_of(output)


def failure(word: str, code: int, said: str) -> GitError:
    """Translate an exit code and message of git into an error."""
    cure = next((cure for sign, cure in _CURES.items() if sign.lower() in said.lower()), None)
    reason = f": {cure}." if cure else f" (git {word} ended with {code})."
    return GitError(f"The Git repository cannot be read{reason}", said[-2000:])


def _all_of(stream: IO[bytes]) -> bytes:
    stream.seek(0)
    return stream.read()


def refresh(url: str, cache: Path, tag: str | None = None, seconds: float = REMOTE_SECONDS) -> Path:
    """Bring the mirror's tags, or one tag, up to date; returns the mirror.

    Raises:
        GitError: the repository cannot be reached, or does not have the tag.
    """
    mirror = cache / MIRROR
    with _locked(cache / f"{MIRROR}.lock"):
        if not (mirror / "HEAD").exists():
            run_git(mirror, "init", "--quiet", "--bare", "--template=")
        wanted = f"+refs/tags/{tag or '*'}:refs/tags/{tag or '*'}"
        options = ["--quiet", "--no-tags", "--no-write-fetch-head", *([] if tag else ["--prune"])]
        run_git(mirror, "fetch", *options, "--", url, wanted, seconds=seconds)
        if tag is None:
            (mirror / STAMP).touch()
    return mirror


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait for other processes that share the cache; the lock ends with its process."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
