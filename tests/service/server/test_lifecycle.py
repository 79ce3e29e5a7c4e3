"""Starting, stopping and dying: no request is lost that need not be, nothing is left behind."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
import pytest

from service.telemetry.multiprocess import multiprocess_dir
from tests.conftest import run
from tests.make.bundles import make_chip
from tests.make.images import npy
from tests.make.processes import until
from tests.make.server import STARTS_WITHIN, Server, serving, spawn

BODY = npy(make_chip(5))


def test_a_stop_turns_not_ready_then_finishes_what_is_in_flight(
    bundle: Path, tmp_path: Path
) -> None:
    with serving(bundle, tmp_path, drain=1.5, program=True) as server:
        answers: list[int] = []
        stopped = threading.Event()

        def ask() -> None:
            with server.client() as client:
                while not stopped.is_set():
                    files = {"file": BODY}
                    answers.append(client.post("/predict", files=files).status_code)
                    time.sleep(0.01)

        asking = threading.Thread(target=ask)
        asking.start()
        server.process.send_signal(signal.SIGTERM)
        until(lambda: httpx.get(server.url + "/readyz").status_code == 503)
        assert httpx.post(server.url + "/predict", files={"file": BODY}).status_code == 200
        stopped.set()
        asking.join()
        assert server.process.wait(STARTS_WITHIN) == 0
    assert set(answers) == {200}
    assert server.lines()[-1]["event"] == "stopped"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_after_the_end_there_are_no_processes(
    bundle: Path, tmp_path: Path, number: signal.Signals
) -> None:
    with serving(bundle, tmp_path, program=True) as server:
        workers = server.workers()
        assert server.stop(number) == 0
    assert len(workers) == 2
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


def test_workers_end_with_a_parent_that_is_killed(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    with serving(bundle, tmp_path, program=True) as server:
        workers = server.workers()
        (folder,) = place.glob("conveyor-metrics-*")
        with multiprocess_dir(1) as another:  # as the next service at the same place does
            assert folder.exists()
        assert not another.path.exists()
        server.process.kill()
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    assert folder.exists()
    with multiprocess_dir(1) as another:
        assert list(place.iterdir()) == [another.path]


def test_only_what_a_killed_service_left_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    aside = tmp_path / "aside"
    with multiprocess_dir(1) as folder:
        shutil.copytree(folder.path, aside)
    (tmp_path / "conveyor-metrics-link").symlink_to(aside)
    (tmp_path / "conveyor-metrics-file").touch()
    (tmp_path / "conveyor-metrics-old").mkdir()  # of a release before, which had no lock
    kept = set(tmp_path.iterdir())
    left = Path(shutil.copytree(aside, tmp_path / "conveyor-metrics-left"))
    with monkeypatch.context() as context:
        me = os.geteuid()
        context.setattr(os, "geteuid", lambda: me + 1)
        with multiprocess_dir(1):
            assert left.exists(), "it is another user's"
    with multiprocess_dir(1) as folder:
        assert set(tmp_path.iterdir()) == kept | {folder.path}
    assert set(tmp_path.iterdir()) == kept
    assert (aside / "counter_0.db").exists()


def test_a_worker_that_is_killed_is_started_again(bundle: Path, tmp_path: Path) -> None:
    with serving(bundle, tmp_path) as server:
        before = server.workers()
        os.kill(before[0], signal.SIGKILL)
        until(lambda: len(server.workers()) == 2 and before[0] not in server.workers())
        for _ in range(20):
            answer = httpx.post(server.url + "/predict", files={"file": BODY}, timeout=30)
            assert answer.status_code == 200
        assert any(line["event"] == "worker died" for line in server.lines())


def test_while_a_worker_has_no_model_yet_another_one_is_asked(bundle: Path, tmp_path: Path) -> None:
    with serving(bundle, tmp_path) as server, server.client() as held:
        gone = server.workers()[0]
        os.kill(gone, signal.SIGKILL)
        until(lambda: not Path(f"/proc/{gone}").exists())
        held.get("/healthz")  # its connection stays: the new worker has fewer
        while answering(server) < 2:
            answer = httpx.post(server.url + "/predict", files={"file": BODY}, timeout=30)
            assert answer.status_code == 200, answer.text


def answering(server: Server) -> int:
    """How many workers have a model."""
    return len(httpx.get(server.url + "/version", timeout=30).json()["workers"])


def test_a_port_that_is_taken_is_told_before_a_demo_trains() -> None:
    words = (sys.executable, "-m", "service", "serve", "--check")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = {"SERVICE_PORT": str(taken.getsockname()[1])}
        done = subprocess.run(words, env=os.environ | port, capture_output=True, text=True)
        assert done.returncode == 1 and done.stdout == ""
        assert "error: cannot listen on 127.0.0.1" in done.stderr
    done = subprocess.run(words, env=os.environ | port, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_start_that_fails_prints_the_reason_in_one_sentence(bundle: Path, tmp_path: Path) -> None:
    with serving(bundle, tmp_path / "first") as server:
        port = server.url.rsplit(":", 1)[1]
        second = spawn(bundle, tmp_path / "second", port=port)
        assert second.process.wait(STARTS_WITHIN) == 1
        assert "error: cannot listen on 127.0.0.1" in second.log.read_text(encoding="utf-8")
    missing = spawn(tmp_path / "nothing", tmp_path / "third", program=True)
    assert missing.process.wait(STARTS_WITHIN) == 1
    assert "dvc pull" in missing.log.read_text(encoding="utf-8")
    (tmp_path / "file").touch()
    unwritable = spawn(bundle, tmp_path / "fourth", state=tmp_path / "file")
    assert unwritable.process.wait(STARTS_WITHIN) == 1
    assert "SERVICE_STATE" in unwritable.log.read_text(encoding="utf-8")
    for process in (second, missing, unwritable):
        assert "Traceback" not in process.log.read_text(encoding="utf-8")


def test_a_key_is_made_with_the_setting_that_goes_with_it() -> None:
    text = run("python", "-m", "service", "key").stdout
    key = text.split("client:")[1].split()[0]
    setting = text.split("SERVICE_API_KEYS='")[1].split("'")[0]
    assert key.startswith("cvy_")
    assert list(json.loads(setting).values()) == [["deploy"]]
    assert key not in setting
