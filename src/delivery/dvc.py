"""DVC as a child process, and facts of dvc.lock and of the remote.

python -m delivery.dvc pull model     `dvc pull model`, whose errors have their cure
"""

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from contracts import lock
from contracts.commit import Unreadable
from contracts.proxies import missing_certificates
from delivery.errors import DeliveryError, RemoteError, ToolError, command, explain, reason

T = TypeVar("T")
CURES = {
    "gdrive_service_account|invalid_grant": (
        "set GDRIVE_CREDENTIALS_FILE to the key file in the pipeline, or dvc remote modify --local "
        "team-drive gdrive_service_account_json_file_path key.json here"
    ),
    "storageQuotaExceeded": "a service account has no storage on My Drive: take a folder of a "
    "Shared Drive as the remote's url",
    "[Cc]redentials|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|AccessDenied|Forbidden": (
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_ROLE_ARN in the pipeline "
        "(docs/gitlab-setup.md)"
    ),
    "endpoint URL|NoSuchBucket|bucket does not exist|Name or service not known": (
        "check url and endpointurl of the remote in .dvc/config"
    ),
    "Permission denied": "let this user read and write there, or set another cache.dir",
}
"""Words in DVC's errors -> what to change."""


@command
def main() -> None:
    """Run dvc with the words that are given."""
    print(dvc(*sys.argv[1:]), end="")


def dvc(*words: str) -> str:
    """Run dvc; returns its output.

    Raises:
        ToolError: it failed; the message has its errors, and the setting to change if it is known.
    """
    environment = os.environ | {"DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(
        ["dvc", *words], capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode != 0:
        output = done.stderr.strip() or done.stdout
        fault = missing_certificates()
        raise ToolError(f"dvc {words[0]}: {explain(output, CURES)}{fault and f'; {fault}'}")
    return done.stdout


@contextmanager
def asking_remote() -> Iterator[None]:
    """Turn a refusal by the remote's client, each of which has its own errors, into a sentence.

    Raises:
        RemoteError: the remote refuses, or cannot be reached; with the setting to change.
    """
    try:
        yield
    except DeliveryError:
        raise
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        if explain(text, CURES) == reason(text) and not isinstance(error, OSError):
            raise  # nothing that a setting of the remote could cure
        raise RemoteError(f"the DVC remote cannot be used: {explain(text, CURES)}") from error


def _as_remote_error(read: Callable[[], T]) -> Callable[[], T]:
    """A reader of dvc.lock, whose faults are RemoteErrors here."""

    @functools.wraps(read)
    def run() -> T:
        try:
            return read()
        except Unreadable as error:
            raise RemoteError(str(error)) from None

    return run


read_lock = _as_remote_error(lock.read_lock)
stale = _as_remote_error(lock.stale)


def default_remote() -> tuple[str, str]:
    """Name and address of the remote that `dvc push` uses.

    Raises:
        RemoteError: no default remote is set.
    """
    from dvc.repo import Repo

    with Repo() as repo:
        name = repo.config["core"].get("remote", "")
        url = repo.config["remote"].get(name, {}).get("url", "")
    if not url:
        raise RemoteError("DVC has no default remote: dvc remote default team-s3, see .dvc/config")
    return name, str(url)


def require_own_remote() -> None:
    """Refuse a remote inside the repository: objects pushed there are lost with the job.

    Raises:
        RemoteError: the default remote is inside the repository.
    """
    name, url = default_remote()
    root = Path.cwd().resolve()
    if "://" not in url and (root / ".dvc" / url).resolve().is_relative_to(root):
        raise RemoteError(
            f"the DVC remote {name!r} is inside this repository; objects pushed there are lost "
            "with the job: set the team's, dvc remote default team-s3 (docs/gitlab-setup.md)"
        )


if __name__ == "__main__":
    main()
