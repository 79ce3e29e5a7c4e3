"""`/metrics` of real workers: every request once, whoever answers, and whoever dies."""

import io
import os
import signal
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client import values
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from service import errors
from service.auth.roles import ROLES
from service.feedback.accuracy import FeedbackCounters
from service.http.gateway import METHODS
from service.telemetry.metrics import Metrics, use_slot
from service.telemetry.multiprocess import FILE_BYTES, MultiprocessDir
from tests.make.bundles import BANDS, make_bundle, make_chip
from tests.make.processes import until
from tests.make.server import Server, serving

V1 = "landcover@v1.0.0"
ROUTE_BUCKETS = {"0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1.0", "+Inf"}
BINARY = {"content-type": "application/octet-stream"}

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a whole reference."""
    return make_bundle(tmp_path_factory.mktemp("full") / "model", size=16, samples=300)


@pytest.fixture
def running(full: Path, tmp_path: Path) -> Iterator[Server]:
    with serving(full, tmp_path, workers=2, drift_samples=100) as server:
        until(lambda: len(server.workers()) == 2)
        yield server


def npy(chip: np.ndarray[Any, Any]) -> bytes:
    content = io.BytesIO()
    np.save(content, chip)
    return content.getvalue()


def predict(server: Server, count: int, first: int = 0, factor: float = 1.0) -> None:
    """Send chips over two connections, which are open together and so go to two workers."""
    with server.client() as one, server.client() as other:
        for number in range(count):
            chip = (make_chip(first + number, size=16) * factor).astype(np.uint16)
            answer = (one, other)[number % 2].post("/predict", content=npy(chip), headers=BINARY)
            assert answer.status_code == 200, answer.text


def scrape(client: httpx.Client) -> Series:
    """All series of a service; the text is valid, and no series is there twice."""
    found: Series = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found, key
            found[key] = sample.value
    return found


def look(server: Server) -> Series:
    with server.client() as client:
        return scrape(client)


def sum_of(series: Series, name: str, **labels: str) -> float:
    wanted = set(labels.items())
    return sum(value for (item, found), value in series.items() if item == name and wanted <= found)


def counted(server: Server) -> float:
    return sum_of(look(server), "model_predictions_total")


def test_every_prediction_is_counted_once_by_whichever_worker_is_asked(running: Server) -> None:
    before = look(running)
    assert {dict(labels)["class"] for name, labels in before if name == "model_predictions_total"}
    assert counted(running) == 0
    predict(running, 60)
    until(lambda: counted(running) >= 60)
    with ExitStack() as stack:  # open together, so that each worker is asked
        clients = [stack.enter_context(running.client()) for _ in range(4)]
        for series in map(scrape, clients):
            assert sum_of(series, "model_predictions_total") == 60
            assert sum_of(series, "model_confidence_count", tag="local") == 60
            assert sum_of(series, "model_entropy_count", tag="local") == 60
            assert sum_of(series, "model_inference_seconds_count", tag="local") == 60
            assert sum_of(series, "model_queue_seconds_count") == 60
            for band in BANDS:
                count = sum_of(series, "model_input_count", band=band, statistic="mean")
                assert count == 60
            name = "http_requests_total"
            assert sum_of(series, name, handler="/predict", status="200") == 60
            assert sum_of(series, "model_drift_samples", signal="classes") == 60


def test_a_killed_worker_takes_no_count_with_it(running: Server) -> None:
    predict(running, 40)
    until(lambda: counted(running) == 40)
    shown = look(running)
    for wanted in (50, 60, 70):
        shown = after_death(running, shown)
        predict(running, 10, first=wanted)
        shown = until_counted(running, wanted, shown)
    assert sum_of(shown, "model_drift_samples", signal="mean/B02") == 70


def test_workers_that_come_back_count_on_in_the_same_files(
    full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    with serving(full, tmp_path, workers=2) as server:
        (folder,) = place.glob("conveyor-metrics-*")
        before = files_of(folder)
        assert set(before) == {f"{kind}_{slot}.db" for kind in FILE_BYTES for slot in range(2)}
        predict(server, 10)
        for pid in server.workers():
            os.kill(pid, signal.SIGKILL)
            until(lambda pid=pid: pid not in server.workers())  # type: ignore[misc]
        server.wait_for_workers(2)
        until(lambda: sum_of(look(server), "model_info") == 2)
        predict(server, 10)
        series = look(server)
        name = "http_requests_total"
        assert sum_of(series, name, handler="/predict", status="200") == 20
        name = "http_request_duration_seconds_count"
        assert sum_of(series, name, handler="/predict", method="POST") == 20
        assert files_of(folder) == before


def files_of(folder: Path) -> dict[str, int]:
    """Names and sizes; all of their room is there, so that no disk can be too full for it."""
    found = {path.name: path.stat() for path in folder.glob("*.db")}
    assert all(status.st_blocks * 512 >= status.st_size for status in found.values())
    return {name: status.st_size for name, status in found.items()}


@pytest.fixture
def counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MultiprocessDir]:
    """A folder with room for two workers, and this process counts in it as the first."""
    folder = MultiprocessDir(tmp_path)
    folder.allocate(2)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    use_slot(0)
    yield folder
    values.ValueClass.close_all_files()


def test_files_have_room_for_all_that_clients_can_bring_about(counters: MultiprocessDir) -> None:
    before = files_of(counters.path)
    metrics = Metrics()
    FeedbackCounters(metrics.registry)
    kinds = [item for item in vars(errors).values() if isinstance(item, type)]
    refusals = {kind.status for kind in kinds if issubclass(kind, errors.ServiceError)}
    for template in {route for _, route in ROLES} | {"none"}:
        for method in (*METHODS, "other"):
            metrics.count_request((1, 1), method, template, 405, 0.1)
    for method, template in ROLES:
        for status in (200, 202, 206, 304, 416, 499, 501, *refusals):
            for asked in {method, "HEAD" if method == "GET" else method}:
                metrics.count_request((1, 1), asked, template, status, 0.1)
    for number in range(600):
        metrics.info.labels(f"landcover@v1.{number}.0", f"{number:064x}").set(1)
    assert files_of(counters.path) == before


def test_a_dead_worker_keeps_its_counters_and_loses_its_gauges(counters: MultiprocessDir) -> None:
    metrics = Metrics()
    metrics.info.labels("landcover@v1.0.0", "0" * 64).set(1)
    metrics.swaps.labels("done", "switch").inc(3)
    counters.reset_gauges(1)
    assert {"model_info", "model_swaps_total"} <= set(collected(counters))
    counters.reset_gauges(0)
    found = collected(counters)
    assert "model_info" not in found
    assert found["model_swaps_total"] == 3
    (counters.path / "gauge_livesum_0.db").unlink()
    counters.reset_gauges(0)  # a parent does not end because somebody has cleaned up


def collected(folder: MultiprocessDir) -> dict[str, float]:
    """Sums of what all workers counted, by name."""
    collector = MultiProcessCollector(None, str(folder.path))  # type: ignore[no-untyped-call]
    found: defaultdict[str, float] = defaultdict(float)
    for family in collector.collect():  # type: ignore[no-untyped-call]
        for sample in family.samples:
            found[sample.name] += sample.value
    return found


def after_death(server: Server, shown: Series) -> Series:
    """Kill a worker and wait until there are two again; meanwhile no number falls."""
    gone = server.workers()[0]
    os.kill(gone, signal.SIGKILL)
    until(lambda: gone not in server.workers())
    until(lambda: sum_of(never_less(shown, look(server)), "service_workers") == 2)
    return look(server)


def until_counted(server: Server, wanted: float, shown: Series) -> Series:
    """Wait until so many predictions are counted; meanwhile no number falls."""
    until(lambda: sum_of(never_less(shown, look(server)), "model_predictions_total") == wanted)
    return look(server)


def never_less(before: Series, now: Series) -> Series:
    """No number of the model that only grows has fallen."""
    for (name, labels), value in before.items():
        if name.startswith("model_") and name.endswith(("_total", "_bucket", "_count", "_sum")):
            assert now[name, labels] >= value, (name, labels)
    return now


def test_the_workers_are_measured_as_one_process(running: Server) -> None:
    until(lambda: sum_of(look(running), "service_workers") == 2)
    series = look(running)
    memory = sum_of(series, "process_resident_memory_bytes")
    pages = [Path(f"/proc/{pid}/statm").read_text().split()[1] for pid in running.workers()]
    assert memory == pytest.approx(sum(map(int, pages)) * os.sysconf("SC_PAGE_SIZE"), rel=0.2)
    assert 0 < sum_of(series, "process_open_fds") < sum_of(series, "process_max_fds")
    assert sum_of(series, "process_cpu_seconds_total") > 0
    started = sum_of(series, "process_start_time_seconds")
    for pid in running.workers():
        assert started <= Path(f"/proc/{pid}").stat().st_ctime + 1


def test_processor_time_of_a_worker_that_has_ended_stays_counted(running: Server) -> None:
    predict(running, 40)
    spent = sum_of(look(running), "process_cpu_seconds_total")
    gone = running.workers()
    for pid in gone:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not set(gone) & set(running.workers()))
    running.wait_for()
    until(lambda: sum_of(look(running), "service_workers") == 2)
    assert sum_of(look(running), "process_cpu_seconds_total") >= spent


def test_every_route_has_the_buckets_that_alerts_ask_for(server: Server) -> None:
    httpx.get(server.url + "/version")
    name = "http_request_duration_seconds_bucket"
    found = [dict(labels) for item, labels in look(server) if item == name]
    assert {item["le"] for item in found if item["handler"] == "/version"} == ROUTE_BUCKETS


def test_drift_is_computed_from_the_samples_of_all_workers(running: Server) -> None:
    predict(running, 99)
    until(lambda: counted(running) == 99)
    series = look(running)
    assert sum_of(series, "model_drift_insufficient", reason="few_samples") == 22
    assert not any(name == "model_drift_score" for name, _ in series)
    predict(running, 201, first=99)
    until(lambda: counted(running) == 300)
    assert drifted(look(running)) == set()
    predict(running, 600, first=300, factor=0.2)
    until(lambda: counted(running) == 900)
    assert drifted(look(running)) >= {f"mean/{band}" for band in BANDS}


def drifted(series: Series) -> set[str]:
    scores = {labels: value for (name, labels), value in series.items() if name.endswith("_score")}
    assert len(scores) == 44
    return {
        dict(labels)["signal"]
        for labels, value in scores.items()
        if value > series["model_drift_threshold", labels]
    }


def test_series_without_events_are_shown_as_zero(server: Server) -> None:
    with server.client() as client:
        text = client.get("/metrics").text
    for series in (
        'http_requests_total{handler="/predict",method="POST",status="507"} 0.0',
        'http_request_duration_seconds_count{handler="/predict",method="POST"} 0.0',
        'model_swaps_total{result="done",step="switch"} 0.0',
        'model_swaps_total{result="failed",step="fetch"} 0.0',
        'uploads_refused_total{reason="Overloaded"} 0.0',
    ):
        assert series in text, series
