"""dvc.lock, and whether it belongs to the files beside it."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from contracts import commit
from contracts.commit import Unreadable
from contracts.documents import read_yaml

LOCK = Path(commit.LOCK)


def read_lock() -> dict[str, Any]:
    """The stages of dvc.lock.

    Raises:
        Unreadable: it is missing or broken; the message names it.
    """
    try:
        stages = read_yaml(LOCK.read_text(encoding="utf-8"))["stages"]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        raise Unreadable(f"{LOCK} is missing or broken: dvc repro, and commit it") from None
    return dict(stages)


def stale() -> list[str]:
    """Files and parameters that differ from dvc.lock, one sentence each.

    Only files in Git are compared; the data between stages follow from them.

    Raises:
        Unreadable: dvc.lock, or a file that it names, is missing or broken; the message names it.
    """
    try:
        return [line for name, stage in read_lock().items() for line in _stale(name, stage)]
    except OSError as error:
        raise Unreadable(f"{error.filename} cannot be read: git checkout it") from None
    except (yaml.YAMLError, LookupError, TypeError, AttributeError):
        raise Unreadable(f"{LOCK} or what it names is broken: dvc repro, and commit it") from None


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
    document = read_yaml(Path(commit.DATA).read_text(encoding="utf-8"))
    return str(document["outs"][0]["md5"])


def _at(document: Any, key: str) -> Any:
    for part in key.split("."):
        document = document.get(part) if isinstance(document, dict) else None
    return document


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
