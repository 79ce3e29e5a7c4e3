"""`make monitor`: real programs start, watch and end together; what hinders them is a sentence."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from monitoring.errors import MonitoringError
from monitoring.local.__main__ import parse_address
from monitoring.local.configuration import SOURCE, Local, write_configuration
from tests.conftest import ROOT
from tests.monitoring.conftest import Start, until

NAMES = {"prometheus", "alertmanager", "node-exporter"}
LOCAL = Local(
    {"landcover": ["127.0.0.1:8001", "127.0.0.1:8002"], "node": ["127.0.0.1:9100"]},
    "127.0.0.1:9093",
    interval=5,
)


class Exporter(BaseHTTPRequestHandler):
    """Answers as the smallest service that can be scraped."""

    def do_GET(self) -> None:
        body = b"model_queue_seconds_count 7\n"
        self.send_response(200)
        self.send_header("content-type", "text/plain; version=0.0.4")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def services() -> Iterator[list[str]]:
    """Two services that can be scraped, as host:port."""
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Exporter) for _ in range(2)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield [f"127.0.0.1:{server.server_address[1]}" for server in servers]
    for server in servers:
        server.shutdown()
        server.server_close()


def query(prometheus: str, text: str) -> list[dict[str, Any]]:
    answer = httpx.get(f"{prometheus}/api/v1/query", params={"query": text})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["data"]["result"]
    return found


def is_gone(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except OSError:
        return True
    return status.rpartition(")")[2].split()[0] in "ZX"


def listens_everywhere(pid: int) -> bool:
    """Whether a process listens on an address that is not loopback."""
    lines = Path(f"/proc/{pid}/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    lines += Path(f"/proc/{pid}/net/tcp6").read_text(encoding="ascii").splitlines()[1:]
    inodes = {
        os.readlink(link).removeprefix("socket:[").rstrip("]")
        for link in Path(f"/proc/{pid}/fd").iterdir()
    }
    listening = [line.split() for line in lines if line.split()[3] == "0A"]
    mine = [fields[1].partition(":")[0] for fields in listening if fields[9] in inodes]
    assert mine, "it does not listen at all"
    return any(address != "0100007F" for address in mine)


def test_everything_starts_watches_and_ends_together(start: Start, services: list[str]) -> None:
    monitor = start("--interval", "1", "--service", services[0], "--service", services[1])
    monitor.wait_for("The end is Ctrl-C")
    prometheus = monitor.url("prometheus")
    up = 'up{job="landcover"} == 1'
    until(lambda: len(query(prometheus, up)) == 2, "both services are scraped")
    for job in ("node", "prometheus", "alertmanager"):
        until(partial(query, prometheus, f'up{{job="{job}"}} == 1'), job)
    until(lambda: query(prometheus, 'ALERTS{alertname="Watchdog",alertstate="firing"}'))
    alerts = monitor.url("alertmanager") + "/api/v2/alerts?filter=alertname%3DWatchdog"
    until(lambda: httpx.get(alerts).json(), "Alertmanager hears of it")
    children = monitor.children()
    assert len(children) >= len(NAMES)
    assert not any(listens_everywhere(pid) for pid in children)
    assert monitor.stop() == 0
    assert monitor.said().endswith("stopped\n") and "Traceback" not in monitor.said()
    assert all(is_gone(pid) for pid in children)


def test_it_begins_again_with_its_data(start: Start, services: list[str]) -> None:
    first = start("--interval", "1", "--service", services[0])
    url = first.url("prometheus")
    until(lambda: query(url, "model_queue_seconds_count"))
    first.stop()
    url = start("--service", services[1]).url("prometheus")
    assert query(url, "count_over_time(model_queue_seconds_count[5m])")


def test_ctrl_c_in_a_terminal_ends_all(start: Start) -> None:
    monitor = start()
    monitor.wait_for("The end is Ctrl-C")
    children = monitor.children()
    os.killpg(monitor.process.pid, signal.SIGINT)
    assert monitor.process.wait(60) == 0
    assert all(is_gone(pid) for pid in children)


def test_one_that_dies_ends_the_others_with_its_last_lines(start: Start) -> None:
    monitor = start()
    monitor.wait_for("The end is Ctrl-C")
    children = monitor.children()
    os.kill(children[0], signal.SIGKILL)
    assert monitor.process.wait(60) == 1
    assert "error: prometheus was ended by SIGKILL; it said at last:\n" in monitor.said()
    assert "Server is ready" in monitor.said() and "Traceback" not in monitor.said()
    assert all(is_gone(pid) for pid in children)


def test_what_alertmanager_says_of_its_addresses_stays_in_its_log(
    start: Start, programs: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("prometheus", "node-exporter"):
        (folder / programs[name].name).symlink_to(programs[name])
    broken = folder / "alertmanager"
    broken.write_text('#!/bin/sh\n/bin/grep secret "${1#--config.file=}"\nexit 3\n', "utf-8")
    broken.chmod(0o755)
    url = "https://chat.example.com/hooks/very-secret"
    monitor = start(PATH=str(folder), ALERT_SLACK_URL=url)
    assert monitor.process.wait(60) == 1
    log = tmp_path / "monitoring" / "alertmanager.log"
    assert f"error: alertmanager ended with exit code 3; {log} says why" in monitor.said()
    assert "very-secret" not in monitor.said()
    assert url in log.read_text(encoding="utf-8")
    assert log.stat().st_mode & 0o077 == 0


def test_one_that_does_not_start_says_why(start: Start, tmp_path: Path) -> None:
    data = tmp_path / "monitoring" / "data" / "prometheus"
    data.parent.mkdir(parents=True)
    data.write_text("a file where a folder should be", encoding="utf-8")
    monitor = start()
    assert monitor.process.wait(60) == 1
    assert "error: prometheus ended with exit code" in monitor.said()
    assert "not a directory" in monitor.said() and "Traceback" not in monitor.said()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux ends children")
def test_killed_itself_it_leaves_nothing_behind(start: Start) -> None:
    monitor = start()
    monitor.wait_for("The end is Ctrl-C")
    children = monitor.children()
    assert len(children) >= len(NAMES)
    monitor.stop(signal.SIGKILL)
    until(lambda: all(is_gone(pid) for pid in children))


def test_a_taken_port_is_a_sentence_and_nothing_starts(start: Start, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monitor = start("--alertmanager-port", str(port))
        assert monitor.process.wait(60) == 1
    (line,) = monitor.said().splitlines()
    assert line.startswith(f"error: port {port}, for alertmanager: Address already in use; stop")
    assert "--alertmanager-port 9193" in line
    assert not (tmp_path / "monitoring").exists()


def test_two_programs_can_not_have_one_port(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    monitor = start("--prometheus-port", port, "--node-exporter-port", port)
    assert monitor.process.wait(60) == 1
    assert f"error: port {port}, for node-exporter: Address already in use" in monitor.said()


def test_a_port_that_can_not_be_is_refused(start: Start) -> None:
    monitor = start("--prometheus-port", "70000")
    assert monitor.process.wait(60) == 1
    assert "port 70000, for prometheus: ports are 0 to 65535" in monitor.said()


def test_missing_programs_are_named_with_the_cure(start: Start, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    monitor = start(PATH=str(tmp_path / "bin"))
    assert monitor.process.wait(60) == 1
    (line,) = monitor.said().splitlines()
    assert line.startswith("error: prometheus and alertmanager and node-exporter not found")
    assert "make setup-e2e" in line and "docker compose up" in line
    assert "apt-get install prometheus prometheus-alertmanager prometheus-node-exporter" in line


def test_the_projects_own_names_are_found_and_the_pushgateway_may_be_missing(
    start: Start, programs: dict[str, Path], tmp_path: Path
) -> None:
    own = {"prometheus": "prometheus", "alertmanager": "alertmanager"} | {
        "node-exporter": "node_exporter"
    }
    (tmp_path / "bin").mkdir()
    for name, binary in own.items():
        (tmp_path / "bin" / binary).symlink_to(programs[name])
    monitor = start(PATH=str(tmp_path / "bin"))
    monitor.wait_for("The end is Ctrl-C")
    assert "pushgateway" not in monitor.said()
    assert len(monitor.children()) == 3
    assert monitor.stop() == 0


def test_a_folder_that_can_not_be_written_is_a_sentence(start: Start, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monitor = start("--folder", str(tmp_path / "file" / "monitoring"))
    assert monitor.process.wait(60) == 1
    (line,) = monitor.said().splitlines()
    assert line.startswith("error: ") and "can not be written: Not a directory" in line


def test_a_service_that_is_not_there_yet_is_said(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    monitor = start(SERVICE_PORT=port)
    monitor.wait_for(rf"http://127\.0\.0\.1:{port}   \(does not answer yet: make demo")


def test_it_says_who_is_told_and_keeps_their_address_to_itself(
    start: Start, tmp_path: Path
) -> None:
    nobody = start()
    nobody.wait_for("Told: nobody")
    nobody.stop()
    url = "http://127.0.0.1:1/hooks/very-secret"
    monitor = start(ALERT_SLACK_URL=url)
    monitor.wait_for(r"Told: \w+")
    config = tmp_path / "monitoring" / "alertmanager.yml"
    assert url in config.read_text(encoding="utf-8")
    assert config.stat().st_mode & 0o077 == 0
    assert "very-secret" not in monitor.said()


def test_a_variable_that_can_not_be_used_is_a_sentence(start: Start) -> None:
    monitor = start(ALERT_SLACK_URL="no address")
    assert monitor.process.wait(60) == 1
    (line,) = monitor.said().splitlines()
    assert line.startswith("error: ") and "ALERT_SLACK_URL" in line


def test_help_says_what_it_does() -> None:
    command = [sys.executable, "-m", "monitoring.local", "--help"]
    text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "beside `make demo`" in text and "--alertmanager-port" in text


@pytest.mark.parametrize(
    "text",
    ["", "8000", "host", "host:port", "http://", "a:1/path", "me@host:1", "a b:1", "a:70000"],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(MonitoringError, match=r"service: .* write 127\.0\.0\.1:8000"):
        parse_address(text)


@pytest.mark.parametrize("text", ["127.0.0.1:8000", "http://127.0.0.1:8000/", "127.0.0.1:8000/"])
def test_an_address_may_look_like_a_link(text: str) -> None:
    assert parse_address(text) == "127.0.0.1:8000"


def test_only_targets_and_times_differ_from_what_ships(tmp_path: Path) -> None:
    write_configuration(LOCAL, tmp_path / "prometheus.yml")
    written = yaml.safe_load((tmp_path / "prometheus.yml").read_text(encoding="utf-8"))
    shipped = yaml.safe_load(SOURCE.read_text(encoding="utf-8"))
    jobs = {job["job_name"]: job for job in written["scrape_configs"]}
    assert set(jobs) == set(LOCAL.targets)
    assert jobs["landcover"]["static_configs"] == [{"targets": LOCAL.targets["landcover"]}]
    assert written["global"]["evaluation_interval"] == "5000ms"
    assert written["global"].get("external_labels") == shipped["global"].get("external_labels")
    rules = sorted(str(path) for path in (SOURCE.parent / "rules").glob("*.yml"))
    assert rules and written["rule_files"] == rules


def test_every_job_that_ships_is_known_here(tmp_path: Path) -> None:
    """A new job is either watched by `make monitor`, or left out on purpose."""
    jobs = yaml.safe_load(SOURCE.read_text(encoding="utf-8"))["scrape_configs"]
    here = {"landcover", "node", "prometheus", "alertmanager", "pushgateway"}
    elsewhere = {"dcgm", "certificates"}  # a GPU's exporter, a prober of addresses
    assert {job["job_name"] for job in jobs} == here | elsewhere


def test_what_is_written_is_what_prometheus_takes(
    tmp_path: Path, programs: dict[str, Path]
) -> None:
    path = tmp_path / "prometheus.yml"
    write_configuration(LOCAL, path)
    promtool = programs["prometheus"].with_name("promtool")
    if not promtool.exists():
        pytest.skip("no promtool beside prometheus")
    subprocess.run([promtool, "check", "config", path], check=True, capture_output=True)


def test_a_configuration_that_is_none_is_refused(tmp_path: Path) -> None:
    source, target = tmp_path / "source.yml", tmp_path / "target.yml"
    for text, message in (("[", "no YAML"), ("- a", "no configuration"), ("", "no configuration")):
        source.write_text(text, encoding="utf-8")
        with pytest.raises(MonitoringError, match=message):
            write_configuration(LOCAL, target, source)
    with pytest.raises(MonitoringError, match="can not be read: No such file"):
        write_configuration(LOCAL, target, tmp_path / "missing.yml")
    source.write_text("{rule_files: [rules/*.yml], scrape_configs: []}", encoding="utf-8")
    with pytest.raises(MonitoringError, match="rule_files: nothing matches rules"):
        write_configuration(LOCAL, target, source)
    assert not target.exists()
