"""DVC as a child process, and facts of dvc.lock and of the remote."""

import hashlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from contracts.documents import read_yaml
from delivery.errors import DeliveryError, RemoteError, ToolError, explain, reason

LOCK = Path("dvc.lock")
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
        raise ToolError(f"dvc {words[0]}: {explain(output, CURES)}")
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


def read_lock() -> dict[str, Any]:
    """The stages of dvc.lock.

    Raises:
        RemoteError: it is missing or broken.
    """
    try:
        stages = read_yaml(LOCK.read_text(encoding="utf-8"))["stages"]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        raise RemoteError(f"{LOCK} is missing or broken: dvc repro, and commit it") from None
    return dict(stages)


def stale() -> list[str]:
    """Files and parameters that differ from dvc.lock, one sentence each.

    Only files in Git are compared; the data between stages follow from them.
    """
    return [line for name, stage in read_lock().items() for line in _stale(name, stage)]


def _stale(name: str, stage: dict[str, Any]) -> Iterator[str]:
    for dependency in stage.get("deps", []):
        path = Path(dependency["path"])
        if path.is_file() and _md5(path) != dependency["md5"]:
            yield f"{name}: {path} has changed"
    for file, values in stage.get("params", {}).items():
        now = read_yaml(Path(file).read_text(encoding="utf-8"))
        for key, value in values.items():
            if _at(now, key) != value:
                yield f"{name}: {key} of {file} has changed"
    for output in stage.get("outs", []):
        path = Path(output["path"])
        if path.is_file() and _md5(path) != output["md5"]:
            yield f"{name}: {path} is not the output of the stage"
    if name == "load" and _data() not in {d.get("md5") for d in stage.get("deps", [])}:
        yield f"{name}: data.dvc names another version of the data"


def _data() -> str:
    document = read_yaml(Path("data.dvc").read_text(encoding="utf-8"))
    return str(document["outs"][0]["md5"])


def _at(document: Any, key: str) -> Any:
    for part in key.split("."):
        document = document.get(part) if isinstance(document, dict) else None
    return document


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


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
