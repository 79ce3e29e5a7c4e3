"""A full disk for temporary files: it stops a start with a sentence, and nothing that runs."""

import errno
import os
import signal
import tempfile
from pathlib import Path

import httpx
import pytest

from service.auth.roles import ROLES
from service.errors import UnsafeSettings
from service.telemetry.multiprocess import multiprocess_dir
from tests.make.disks import fill, small_disk
from tests.make.images import CHIPS
from tests.make.processes import until
from tests.make.server import Server, serving, spawn
from tests.make.wire import BARE, next_is_right

TAKEN = {"/jobs/{id}": {"DELETE"}, "/routing": {"PUT"}}
"""Methods other than GET and POST that a route takes."""


def ask_everything(server: Server) -> None:
    """Bring about a series for every route: new pages in the files that both workers count in."""
    with server.client() as one, server.client() as other:
        for client in (one, other):
            for route in {route for _, route in ROLES}:
                for method in {"PUT", "PATCH", "DELETE", "OPTIONS"} - TAKEN.get(route, set()):
                    assert client.request(method, route).status_code == 405


def test_workers_survive_and_start_on_a_full_disk(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "disk", "16m") as disk:
        monkeypatch.setenv("TMPDIR", str(disk))
        with serving(bundle, tmp_path) as server:
            assert len(list(disk.glob("conveyor-metrics-*"))) == 1, "it counts elsewhere"
            workers = server.workers()
            fill(disk)
            ask_everything(server)
            for content in CHIPS.values():
                for sent in ({"files": {"file": content}}, {"content": content}):
                    kind = {"content-type": BARE} if "content" in sent else {}
                    answer = httpx.post(server.url + "/predict", headers=kind, timeout=60, **sent)
                    assert answer.status_code == 200, answer.text
            assert server.workers() == workers
            os.kill(workers[0], signal.SIGKILL)
            until(lambda: workers[0] not in server.workers())
            server.wait_for_workers(2)
            ask_everything(server)
            next_is_right(server, bundle)
            died = [line for line in server.lines() if line["event"] == "worker died"]
            assert len(died) == 1


def test_a_start_on_a_full_disk_is_refused_with_a_sentence(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        monkeypatch.setenv("TMPDIR", str(disk))
        server = spawn(bundle, tmp_path)
        try:
            assert server.process.wait(60) == 1
        finally:
            server.process.kill()
        assert list(disk.iterdir()) == []
        last = server.log.read_text(encoding="utf-8").splitlines()[-1]
        assert last.startswith("error: TMPDIR: ")
        assert f"{disk}: No space left on device; free some space there" in last


def no_room(handle: int, start: int, length: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def no_folder() -> str:
    raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")


def test_a_folder_without_room_is_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "posix_fallocate", no_room)
    with pytest.raises(UnsafeSettings, match=f"TMPDIR: .* 64 workers .*{tmp_path}: No space left"):
        with multiprocess_dir(64):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_missing_temporary_folder_is_refused_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", no_folder)
    with pytest.raises(UnsafeSettings, match=r"TMPDIR: .* \(4 MiB\): No usable temporary"):
        with multiprocess_dir(2):
            pass
