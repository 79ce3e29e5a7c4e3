"""Killed processes, full disks, absent databases: what was accepted is kept."""

import os
import signal
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from service.feedback.journal import FOLDER, Journal, ModelRecord, PredictionRecord
from tests.make.bundles import CLASSES
from tests.make.databases import PASSWORD, QUOTED, Postgres
from tests.make.disks import fill, small_disk
from tests.make.processes import until
from tests.make.server import Server, serving
from tests.make.wire import next_is_right, refusal
from tests.make.feedback import everything, give, metrics, predict, waiting

MODEL = ModelRecord("local", "0" * 64, CLASSES, None, "<u2", (4, 64, 64))


def spool_of(server: Server) -> Path:
    return server.log.parent / "state" / FOLDER


def kill(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def recorded(server: Server) -> set[str]:
    return {row["request_id"] for row in everything(server, limit=1000)}


def test_a_prediction_is_kept_when_its_worker_is_killed_right_after_the_answer(
    bundle: Path, tmp_path: Path
) -> None:
    with serving(bundle, tmp_path) as server:
        for _ in range(3):
            said = predict(server)
            kill(server.workers())
            given = until(lambda: answered(server, said["request_id"]))
            assert given is not None and given.json()["predicted"] == said["class"]
            until(lambda: not waiting(server))  # what the dead have left is imported
        next_is_right(server, bundle)


def answered(server: Server, request_id: str) -> httpx.Response | None:
    try:
        given = give(server, request_id, "Forest")
    except httpx.TransportError:
        return None
    return given if given.status_code == 200 else None


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_every_accepted_label_is_kept_when_all_processes_are_killed(
    request: pytest.FixtureRequest, bundle: Path, tmp_path: Path, kind: str
) -> None:
    url = request.getfixturevalue("cluster").new() if kind == "postgresql" else ""
    accepted: dict[str, str] = {}
    predicted: list[str] = []
    with serving(bundle, tmp_path, feedback=url) as server:

        def work(worker: int) -> None:
            for number in range(1000):
                label = CLASSES[number % len(CLASSES)]
                try:
                    name = predict(server)["request_id"]
                    predicted.append(name)
                    if give(server, name, label).status_code == 200:
                        accepted[name] = label
                except (httpx.TransportError, AssertionError):
                    return

        with ThreadPoolExecutor(4) as pool:
            workers = [pool.submit(work, number) for number in range(4)]
            until(lambda: len(accepted) >= 30)
            kill([server.process.pid, *server.workers()])
            for worker in workers:
                worker.result()
        server.process.wait()
    with serving(bundle, tmp_path, feedback=url) as server:
        until(lambda: not waiting(server))
        found = {row["request_id"]: row["label"] for row in everything(server, limit=1000)}
        assert {name: found.get(name) for name in accepted} == accepted
        assert set(predicted) <= set(found)
        next_is_right(server, bundle)


def test_predictions_made_without_the_database_are_all_recorded_later(
    bundle: Path, tmp_path: Path, cluster: Postgres
) -> None:
    with serving(bundle, tmp_path, feedback=cluster.new(), keep_images=8) as server:
        before = predict(server)["request_id"]
        assert give(server, before, "Forest").status_code == 200
        cluster.stop()
        try:
            during = [predict(server)["request_id"] for _ in range(20)]
            for name in (before, during[0], "unknown"):
                detail = refusal(give(server, name, "River"), 503)
                assert "predictions continue" in detail
            refusal(httpx.get(server.url + "/feedback"), 503)
            until(lambda: "feedback import failed" in server.log.read_text(encoding="utf-8"))
            during += [predict(server)["request_id"] for _ in range(20)]
            assert httpx.get(server.url + "/readyz").status_code == 200
        finally:
            cluster.start()
        until(lambda: {before, *during} <= recorded(server))
        until(lambda: not waiting(server))
        assert give(server, during[0], "River").status_code == 200
        assert 'reason="disk_full"} 0.0' in metrics(server)
        log = server.log.read_text(encoding="utf-8")
        assert PASSWORD not in log and QUOTED not in log


def test_a_service_starts_without_its_database_and_records_later(
    bundle: Path, tmp_path: Path
) -> None:
    url = f"postgresql://user:{QUOTED}@127.0.0.1:1/x"
    with serving(bundle, tmp_path, feedback=url) as server:
        said = predict(server)
        assert QUOTED not in refusal(give(server, said["request_id"], "Forest"), 503)
        next_is_right(server, bundle)
        until(lambda: "feedback import failed" in server.log.read_text(encoding="utf-8"))
        assert QUOTED not in server.log.read_text(encoding="utf-8")
        assert server.stop() == 0
    assert waiting(server)  # for the next start
    with serving(bundle, tmp_path) as server:
        assert give(server, said["request_id"], "Forest").status_code == 200


def test_a_database_of_a_newer_release_is_not_changed_and_predictions_go_on(
    bundle: Path, tmp_path: Path
) -> None:
    with serving(bundle, tmp_path) as server:
        said = predict(server)
        assert give(server, said["request_id"], "Forest").status_code == 200
        assert server.stop() == 0
    with sqlite3.connect(tmp_path / "state" / "feedback.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with serving(bundle, tmp_path) as server:
        assert "newer version" in refusal(give(server, said["request_id"], "River"), 503)
        next_is_right(server, bundle)


def test_a_full_disk_fails_no_prediction_and_is_counted(bundle: Path, tmp_path: Path) -> None:
    service = tmp_path / "service"
    with (
        small_disk(service / "state" / FOLDER, "64k") as disk,
        serving(bundle, service) as server,
    ):
        assert give(server, predict(server)["request_id"], "Forest").status_code == 200
        until(lambda: (disk / "live.json").exists() and not waiting(server))
        full = fill(disk)
        for _ in range(20):
            said = predict(server)
        assert 'feedback_unrecorded_total{reason="disk_full"} 20.0' in metrics(server)
        refusal(give(server, said["request_id"], "Forest"), 404)
        next_is_right(server, bundle)
        full.unlink()
        assert give(server, predict(server)["request_id"], "Forest").status_code == 200
        until(lambda: not waiting(server))


def test_damaged_or_refused_records_do_not_stop_the_import_of_others(
    bundle: Path, tmp_path: Path
) -> None:
    left = Journal(tmp_path / "state" / FOLDER)
    for number, moment in enumerate((1_000_000, 1 << 62)):
        left.append_prediction(
            PredictionRecord(
                f"left-{number}", MODEL, 1, 0.5, moment, b"not as many pixels" * number
            )
        )
        left.rotate_file(force=True)
    left.append_prediction(PredictionRecord("left-2", MODEL, 1, 0.5, 1_000_000, b""))
    left.rotate_file(force=True)
    last = sorted((tmp_path / "state" / FOLDER).glob("*.spool"))[-1]
    last.write_bytes(last.read_bytes() + b"\xc5CVY torn")
    with serving(bundle, tmp_path, feedback_days=36500) as server:
        until(lambda: not waiting(server))
        assert recorded(server) == {"left-0", "left-2"}
        assert 'feedback_unrecorded_total{reason="refused"} 1.0' in metrics(server)
        assert 'feedback_unrecorded_total{reason="damaged"} 1.0' in metrics(server)
        assert len(list(spool_of(server).glob("*.refused"))) == 1
        assert give(server, predict(server)["request_id"], "Forest").status_code == 200


def test_predictions_are_right_while_many_labels_come_in(bundle: Path, tmp_path: Path) -> None:
    stop = threading.Event()
    with serving(bundle, tmp_path) as server:
        names = [predict(server)["request_id"] for _ in range(4)]

        def answer(worker: int) -> set[int]:
            found = set()
            while not stop.is_set():
                found.add(give(server, names[worker], CLASSES[worker]).status_code)
            return found

        with ThreadPoolExecutor(4) as pool:
            running = [pool.submit(answer, worker) for worker in range(4)]
            for _ in range(20):
                next_is_right(server, bundle)
            stop.set()
            assert {status for item in running for status in item.result()} <= {200, 503}
