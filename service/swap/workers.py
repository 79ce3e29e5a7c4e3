"""What the workers of one replica tell each other, through small files in the state folder.

workers/<pid>.json   what each worker serves
swap.json            how far the running swap is, or how the last one ended
swap.lock            held while a swap runs, and released by the kernel when its process dies
served.json          the last model that served here
"""

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from service.errors import Conflict
from service.inference.model import Model
from service.schemas import ModelRef, SwapProgress, WorkerInfo
from service.swap.cache import disk_errors

log = logging.getLogger("service.swap.workers")


class Replica:
    """The shared files of the workers behind one port."""

    def __init__(self, folder: Path) -> None:
        """Share files below a folder."""
        self._folder = folder
        self._own = folder / "workers" / f"{os.getpid()}.json"

    @contextlib.contextmanager
    def swapping(self, name: str = "swap") -> Iterator[None]:
        """Hold the lock of a swap; of several processes and requests one has it.

        Raises:
            Conflict: another one has it.
        """
        with disk_errors():
            self._folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(
                self._folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                detail = "another swap is running: wait until it has ended"
                raise Conflict(detail, "lock") from None
            yield
        finally:
            os.close(handle)

    def progress(self, tag: str, step: str, state: str, detail: str | None, started: str) -> None:
        """Say how far a swap is, if that can be written; it goes on all the same."""
        line = {"tag": tag, "step": step, "state": state, "detail": detail, "started": started}
        _write(self._folder / "swap.json", line | _self())

    def last_swap(self) -> SwapProgress | None:
        """Read how far the running swap is, or how the last one ended."""
        found = _read(self._folder / "swap.json")
        if found is None:
            return None
        if found.get("state") == "running" and not _is_alive(found):
            found |= {"state": "failed", "detail": "its process was killed before it had ended"}
        with contextlib.suppress(ValidationError):
            return SwapProgress.model_validate(found)
        return None

    def serves(self, model: Model) -> None:
        """Say what this worker serves, and remember it for a restart, if that can be written."""
        label = {"tag": model.tag, "sha256": model.sha256}
        _write(self._own, _self() | label | {"parent": os.getppid()})
        _write(self._folder / "served.json", label)

    def last_served(self) -> tuple[str, str] | None:
        """Tag and digest of the last model that served here."""
        found = _read(self._folder / "served.json") or {}
        with contextlib.suppress(ValidationError):
            label = ModelRef.model_validate(found)
            return label.tag, label.sha256
        return None

    def workers(self) -> list[WorkerInfo]:
        """What each living worker serves."""
        found = []
        for content in self._living():
            with contextlib.suppress(ValidationError):
                found.append(WorkerInfo.model_validate(content))
        return found

    def processes(self) -> list[int]:
        """Process ids of the living workers of the same service, this one included."""
        parent = os.getppid()
        return [item["pid"] for item in self._living() if item.get("parent") == parent]

    def beside(self, tag: str) -> str:
        """Digest of what another worker of the same service serves under a label; "" if none."""
        for content in self._living():
            if content.get("parent") == os.getppid() and content.get("tag") == tag:
                return str(content.get("sha256"))
        return ""

    def _living(self) -> Iterator[dict[str, Any]]:
        for path in sorted(self._own.parent.glob("*.json")):
            content = _read(path)
            if content is not None and _is_alive(content):
                yield content
                continue
            with contextlib.suppress(OSError):
                path.unlink()

    def leave(self) -> None:
        """This worker stops."""
        with contextlib.suppress(OSError):
            self._own.unlink()


def now() -> str:
    """This moment, UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _born(pid: int) -> str:
    """When a process started, in ticks since the machine did; empty when there is no such process.

    With its number this names a process for good: in a container that starts again, a new worker
    has the number of an old one.
    """
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    state, *rest = status.rpartition(")")[2].split()  # the name before it may hold anything
    return "" if state in "ZX" else rest[18]


def _self() -> dict[str, Any]:
    pid = os.getpid()
    return {"pid": pid, "born": _born(pid)}


def _is_alive(content: dict[str, Any]) -> bool:
    pid, born = content.get("pid"), content.get("born")
    return isinstance(pid, int) and bool(born) and born == _born(pid)


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write in one step. What can not be written is logged: a full disk must not end a service."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(json.dumps(content), encoding="utf-8")
        os.replace(fresh, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink()
        reason = os.strerror(error.errno) if error.errno else str(error)
        log.warning("can not be written", extra={"file": path.name, "detail": reason})


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
