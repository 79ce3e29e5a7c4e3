"""The pictures, drawn from a real Prometheus with an hour of history and a real node-exporter."""

import io
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from monitoring.board import Panel, Query, plain
from monitoring.errors import MonitoringError
from monitoring.panels import DASHBOARDS
from monitoring.pictures import WIDTH, ask, draw, marks_of, span_of
from monitoring.series import Prometheus, Span
from monitoring.units import number
from tests.conftest import ROOT
from tests.monitoring import past

PROGRAMS_NEEDED = ("prometheus", "promtool", "prometheus-node-exporter")
pytestmark = pytest.mark.skipif(
    any(shutil.which(name) is None for name in PROGRAMS_NEEDED),
    reason="no Prometheus or node-exporter: make setup-e2e",
)
LARGEST = 200 * 1024  # bytes of a picture in docs/
BUSY = 'sum(rate(node_cpu_seconds_total{mode="idle"}[1m]))'
# What this machine may lack: a disk of its own, a card beside loopback.
OF_THE_MACHINE = ("Disk traffic", "Network")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prometheus")


@contextmanager
def running(program: str, ready: str, log: Path, *options: str) -> Iterator[str]:
    """A program that listens on loopback; gives its address when it is ready."""
    address = f"127.0.0.1:{free_port()}"
    command = [program, f"--web.listen-address={address}", *options]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
    try:
        until(lambda: process.poll() is not None or answers(f"http://{address}{ready}"))
        assert process.poll() is None, log.read_text("utf-8", "replace")
        yield address
    finally:
        process.terminate()
        process.wait()


@contextmanager
def running_prometheus(folder: Path, targets: dict[str, str]) -> Iterator[str]:
    """A Prometheus over folder/data that scrapes often; gives its URL."""
    jobs = "".join(
        f"- job_name: {job}\n  static_configs: [{{targets: ['{address}']}}]\n"
        for job, address in targets.items()
    )
    configuration = folder / "prometheus.yml"
    configuration.write_text(f"global: {{scrape_interval: 1s}}\nscrape_configs:\n{jobs}", "utf-8")
    options = f"--config.file={configuration}", f"--storage.tsdb.path={folder / 'data'}"
    with running("prometheus", "/-/ready", folder / "prometheus.log", *options) as address:
        yield f"http://{address}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 90  # generous, the machine may be busy
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def prometheus(folder: Path) -> Iterator[Prometheus]:
    past.write(folder / "data", time.time())
    with (
        running("prometheus-node-exporter", "/", folder / "node.log") as node,
        running_prometheus(folder, {"node": node}) as url,
        Prometheus(url) as asked,
    ):
        until(lambda: asked.instant(BUSY, "", time.time()))
        yield asked


@pytest.fixture(scope="module")
def hour(prometheus: Prometheus) -> Span:
    """Up to now, where the history and the exporter meet."""
    now = time.time()
    return span_of(now - 3600, now)


QUERIES = [
    pytest.param(panel, place, id=f"{dashboard.name}: {panel.title}: {query.legend}")
    for dashboard in DASHBOARDS
    for panel in dashboard.panels
    if not panel.needs and panel.title not in OF_THE_MACHINE
    for place, query in enumerate(panel.queries)
]


@pytest.mark.parametrize(("panel", "place"), QUERIES)
def test_a_query_finds_what_is_exported(
    prometheus: Prometheus, hour: Span, panel: Panel, place: int
) -> None:
    found = ask(prometheus, panel, place, hour)
    assert found
    assert any(not np.isnan(series.now) for series in found)
    assert all(series.name for series in found)
    names = [series.name for series in found]
    assert panel.kind in ("table", "stat") or len(set(names)) == len(names)


@pytest.mark.parametrize("annotation", DASHBOARDS[0].annotations, ids=lambda a: a.name)
def test_an_annotation_marks_the_swap(
    prometheus: Prometheus, hour: Span, annotation: tuple[str, str, str, str]
) -> None:
    _, expr, title, _ = annotation
    begun = hour.end - past.STEP * past.STEPS * 0.6  # of the new model
    found = prometheus.over(plain(expr), title, hour)
    marked = {series.name: hour.times[~np.isnan(series.values)] for series in found}
    name = "Swap: done" if "Swap" in title else f"Serves now: {past.NEW}"
    assert name in marked
    assert np.abs(marked[name] - begun).min() < 180


def test_swaps_and_releases_are_drawn_across_the_lines(
    prometheus: Prometheus, hour: Span, tmp_path: Path
) -> None:
    chosen = DASHBOARDS[0]
    begun = hour.end - past.STEP * past.STEPS * 0.6  # of the new model
    marks = marks_of(chosen, prometheus, hour)
    for colour in ("blue", "green"):  # of a swap, of a release
        assert any(mark.colour == colour and abs(mark.time - begun) < 60 for mark in marks)
    marked = draw(chosen, prometheus, hour, tmp_path / "marked").read_bytes()
    bare = chosen._replace(annotations=())
    assert draw(bare, prometheus, hour, tmp_path / "bare").read_bytes() != marked


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda d: d.name)
def test_a_picture_is_as_wide_as_a_page_and_small(
    prometheus: Prometheus, hour: Span, dashboard: object, tmp_path: Path
) -> None:
    chosen = next(item for item in DASHBOARDS if item is dashboard)
    path = draw(chosen, prometheus, hour, tmp_path / "docs")
    assert path.name == f"dashboard-{chosen.name}.png"
    content = path.read_bytes()
    assert len(content) <= LARGEST
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.format == "PNG" and picture.width == WIDTH
        assert 600 < picture.height < 3000


def test_the_command_draws_what_it_is_asked_for(prometheus: Prometheus, tmp_path: Path) -> None:
    options = ["--prometheus", f"{prometheus.url}/", "--out", str(tmp_path), "--only", "training"]
    command = [sys.executable, "-m", "monitoring.pictures", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"pictures: {tmp_path / 'dashboard-training.png'}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["dashboard-training.png"]


def test_a_prometheus_without_data_makes_pictures_that_say_so(tmp_path: Path) -> None:
    now = time.time()
    with running_prometheus(tmp_path, {}) as url, Prometheus(url) as asked:
        for dashboard in DASHBOARDS:
            assert draw(dashboard, asked, span_of(now - 600, now), tmp_path / "docs").exists()


def test_a_query_that_prometheus_refuses_is_named(prometheus: Prometheus, hour: Span) -> None:
    with pytest.raises(MonitoringError, match=r"^sum\(: Prometheus says bad_data: .*parse error"):
        prometheus.over("sum(", "", hour)
    assert prometheus.instant("vector(2)", "two", hour.end)[0].now == 2, "the next one works"


def test_a_prometheus_that_is_not_there_is_said() -> None:
    port = free_port()
    with Prometheus(f"http://127.0.0.1:{port}") as nobody, pytest.raises(MonitoringError) as error:
        nobody.instant("up", "", 0)
    assert f"127.0.0.1:{port} can not be reached (ConnectError)" in str(error.value)


@pytest.mark.parametrize("url", ["127.0.0.1:9090", "http://[", "ftp://127.0.0.1"])
def test_an_address_that_is_none_is_said(url: str) -> None:
    with Prometheus(url) as nobody, pytest.raises(MonitoringError, match="can not be reached"):
        nobody.instant("up", "", 0)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"status": "success"}', b"\xff"])
def test_something_else_than_prometheus_is_said(body: bytes) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        with Prometheus(url) as other, pytest.raises(MonitoringError, match="not that of a Prom"):
            other.instant("up", "", 0)
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("minutes", ["0", "-5", "nan", "1e9", "soon"])
def test_a_time_that_can_not_be_drawn_is_refused(minutes: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "monitoring.pictures", "--minutes", minutes]
    done = subprocess.run([*command, "--out", tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0 and "--minutes" in done.stderr
    assert "Traceback" not in done.stderr


def test_strange_names_are_drawn(prometheus: Prometheus, hour: Span, tmp_path: Path) -> None:
    name = "$frac{1}{0}$ _ ^ <b> ünï" + "x" * 300
    query = Query("vector(1)", name)
    chosen = DASHBOARDS[0]
    panels = [
        panel._replace(queries=(query,))
        for panel in chosen.panels
        if panel.kind != "heatmap" and not panel.matrix
    ]
    section = chosen.sections[0]._replace(panels=tuple(panels), title=name)
    assert draw(chosen._replace(sections=(section,)), prometheus, hour, tmp_path).exists()


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.9312, "percentunit", "93.1 %"),
        (1.0, "percentunit", "100 %"),
        (0.0, "short", "0"),
        (1234.0, "short", "1.23 k"),
        (0.00042, "s", "420 µs"),
        (0.012, "s", "12 ms"),
        (90.0, "s", "1.5 min"),
        (86400 * 20.0, "s", "20 d"),
        (3 * 2**30, "bytes", "3 GiB"),
        (512.0, "Bps", "512 B/s"),
        (2.5, "reqps", "2.5/s"),
        (-0.5, "percentunit", "-50 %"),
        (0.6, "suffix: cores", "0.6 cores"),
        (float("nan"), "short", "–"),
        (float("inf"), "s", "–"),
    ],
)
def test_numbers_are_written_as_people_read_them(value: float, unit: str, text: str) -> None:
    assert number(value, unit) == text


def test_every_unit_of_the_table_is_known() -> None:
    for dashboard in DASHBOARDS:
        for panel in dashboard.panels:
            assert re.fullmatch(
                r"[-0-9.]+( ?(k|%|/s|s|ms|min|B|B/s|°C|cores))?", number(2, panel.unit)
            )
