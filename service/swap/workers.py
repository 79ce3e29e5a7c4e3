"""The registry of the workers of one replica: small files in the state folder.

workers/<pid>.json   what each worker serves
swap.json            progress of the running swap, or the end of the last one
swap.lock            held while a swap runs; the kernel releases it when the process dies
served.json          the last model that served here
"""

import contextlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from service.errors import Conflict
from service.files import StillLocked, birth, is_alive, locked, reason, replace_file
from service.inference.model import Model
from service.schemas import ModelRef, SwapProgress, WorkerInfo
from service.swap.cache import disk_errors

log = logging.getLogger("service.swap.workers")


class WorkerRegistry:
    """Files shared by the workers behind one port."""

    def __init__(self, folder: Path) -> None:
        """Use files below a folder."""
        self._folder = folder
        self._own = folder / "workers" / f"{os.getpid()}.json"
        self._label: dict[str, Any] = {}
        self._loaded: list[str] = []

    @contextlib.contextmanager
    def lock(self, name: str = "swap") -> Iterator[None]:
        """Hold the lock of a swap, over processes and requests.

        Raises:
            Conflict: another swap holds it.
        """
        with contextlib.ExitStack() as stack:
            try:
                with disk_errors():
                    stack.enter_context(locked(self._folder / f"{name}.lock"))
            except StillLocked:
                detail = "another swap is running: wait until it has ended"
                raise Conflict(detail, "lock") from None
            yield

    def write_swap(self, tag: str, step: str, state: str, detail: str | None, started: str) -> None:
        """Write the progress of a swap; a failed write does not stop the swap."""
        line = {"tag": tag, "step": step, "state": state, "detail": detail, "started": started}
        _write(self._folder / "swap.json", line | _self())

    def last_swap(self) -> SwapProgress | None:
        """Read the progress of the running swap, or the end of the last one."""
        found = _read(self._folder / "swap.json")
        if found is None:
            return None
        if found.get("state") == "running" and not _is_alive(found):
            found |= {"state": "failed", "detail": "its process was killed before it had ended"}
        with contextlib.suppress(ValidationError):
            return SwapProgress.model_validate(found)
        return None

    def write_model(self, model: Model) -> None:
        """Write which model this worker serves, also for a restart; failures are logged."""
        self._label = {"tag": model.tag, "sha256": model.sha256}
        self._write_own()
        _write(self._folder / "served.json", self._label)

    def write_loaded(self, tags: list[str]) -> None:
        """Write which models this worker has loaded beside it, for requests that name them."""
        self._loaded = tags
        self._write_own()

    def loaded(self) -> Counter[str]:
        """Count the living workers of the same service that have each tag loaded beside."""
        parent = os.getppid()
        found = (item for item in self._living() if item.get("parent") == parent)
        return Counter(str(tag) for item in found for tag in item.get("loaded") or ())

    def last_served(self) -> tuple[str, str] | None:
        """Read tag and digest of the last model that served here."""
        found = _read(self._folder / "served.json") or {}
        with contextlib.suppress(ValidationError):
            label = ModelRef.model_validate(found)
            return label.tag, label.sha256
        return None

    def served(self) -> list[WorkerInfo]:
        """List what each living worker serves."""
        found = []
        for content in self._living():
            with contextlib.suppress(ValidationError):
                found.append(WorkerInfo.model_validate(content))
        return found

    def pids(self) -> list[int]:
        """List the process ids of the living workers of the same service, this one included."""
        parent = os.getppid()
        return [item["pid"] for item in self._living() if item.get("parent") == parent]

    def sha256_of(self, tag: str) -> str:
        """Find the digest that another worker serves under a tag; "" without one."""
        for content in self._living():
            if content.get("parent") == os.getppid() and content.get("tag") == tag:
                return str(content.get("sha256"))
        return ""

    def _write_own(self) -> None:
        more = {"parent": os.getppid(), "loaded": self._loaded}
        _write(self._own, _self() | self._label | more)

    def _living(self) -> Iterator[dict[str, Any]]:
        for path in sorted(self._own.parent.glob("*.json")):
            content = _read(path)
            if content is not None and _is_alive(content):
                yield content
                continue
            with contextlib.suppress(OSError):
                path.unlink()

    def leave(self) -> None:
        """Remove this worker."""
        with contextlib.suppress(OSError):
            self._own.unlink()


def now() -> str:
    """Return the current time, UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _self() -> dict[str, Any]:
    pid = os.getpid()
    return {"pid": pid, "born": birth(pid)}


def _is_alive(content: dict[str, Any]) -> bool:
    pid, born = content.get("pid"), content.get("born")
    return isinstance(pid, int) and isinstance(born, str) and is_alive(pid, born)


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write a file, and log a failure: a full disk must not stop the service.

    Not durable: after a power cut no worker is alive, and the event loop must not wait for a disk.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, json.dumps(content), durable=False)
    except OSError as error:
        log.warning("state file not written", extra={"file": path.name, "detail": reason(error)})


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
