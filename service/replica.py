"""What the workers of one replica tell each other, through small files in the state folder.

workers/<pid>.json   what each worker serves
swap.json            how far the running swap is, or how the last one ended
swap.lock            held while a swap runs, and released by the kernel when its process dies
served.json          the last model that served here
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from service.cache import disk_errors
from service.errors import Conflict
from service.model import Model
from service.schemas import SwapProgress, WorkerInfo


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
            handle = os.open(self._folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Conflict("another swap is running: wait until it has ended") from None
            yield
        finally:
            os.close(handle)

    def progress(self, tag: str, step: str, state: str, detail: str | None, started: str) -> None:
        """Say how far a swap is."""
        line = {"tag": tag, "step": step, "state": state, "detail": detail, "started": started}
        _write(self._folder / "swap.json", line | {"pid": os.getpid()})

    def last_swap(self) -> SwapProgress | None:
        """Read how far the running swap is, or how the last one ended."""
        found = _read(self._folder / "swap.json")
        if found is None:
            return None
        if found["state"] == "running" and not _alive(int(found.pop("pid", 0))):
            found |= {
                "state": "failed",
                "detail": "its process was killed; the old model serves on",
            }
        return SwapProgress.model_validate({k: v for k, v in found.items() if k != "pid"})

    def serves(self, model: Model) -> None:
        """Say what this worker serves, and remember it for a restart."""
        _write(self._own, {"pid": os.getpid(), "tag": model.tag, "sha256": model.sha256})
        _write(self._folder / "served.json", {"tag": model.tag, "sha256": model.sha256})

    def last_served(self) -> tuple[str, str] | None:
        """Tag and digest of the last model that served here."""
        found = _read(self._folder / "served.json")
        return (found["tag"], found["sha256"]) if found else None

    def workers(self) -> list[WorkerInfo]:
        """What each living worker serves."""
        found = []
        for path in sorted(self._own.parent.glob("*.json")):
            if not path.stem.isdigit() or not _alive(int(path.stem)):
                with contextlib.suppress(OSError):
                    path.unlink()
                continue
            content = _read(path)
            if content is not None:
                found.append(WorkerInfo.model_validate(content))
        return found

    def leave(self) -> None:
        """This worker stops."""
        with contextlib.suppress(OSError):
            self._own.unlink()


def now() -> str:
    """This moment, UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _alive(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _write(path: Path, content: dict[str, Any]) -> None:
    with disk_errors():
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        fresh.write_text(json.dumps(content), encoding="utf-8")
        os.replace(fresh, path)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
