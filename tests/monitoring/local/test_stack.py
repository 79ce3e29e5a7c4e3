"""`make monitor`: real programs start, scrape and stop together; errors are one sentence."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from monitoring.errors import MonitoringError
from monitoring.local.__main__ import describe
from monitoring.local.configuration import SOURCE, LocalTargets, write_configuration
from monitoring.local.stack import Monitor, default_service, parse_address
from monitoring.objectives import APP, PROBES, SERVICE
from tests.conftest import ROOT
from tests.fakes.http import Request, answering
from tests.make.processes import WITHIN, ended, until
from tests.monitoring.conftest import Start

NAMES = {"prometheus", "alertmanager", "node-exporter"}
LOCAL = LocalTargets(
    {APP: ["127.0.0.1:8001", "127.0.0.1:8002"], "node": ["127.0.0.1:9100"]},
    "127.0.0.1:9093",
    interval=5,
)


def export(request: Request) -> None:
    """Answer as the smallest service that can be scraped."""
    request.reply(200, b"model_queue_seconds_count 7\n", "text/plain; version=0.0.4")


@pytest.fixture
def services() -> Iterator[list[str]]:
    """Two services that can be scraped, as host:port."""
    with answering(export) as first, answering(export) as second:
        yield [url.removeprefix("http://") for url in (first, second)]


def query(prometheus: str, text: str) -> list[dict[str, Any]]:
    answer = httpx.get(f"{prometheus}/api/v1/query", params={"query": text})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["data"]["result"]
    return found


def stack(folder: Path, ports: dict[str, int] | None = None) -> Monitor:
    """A stack on free ports that is not started; nothing listens where its service should be."""
    return Monitor(
        ["127.0.0.1:1"], dict.fromkeys(NAMES | {"pushgateway"}, 0) | (ports or {}), folder
    )


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


def test_all_programs_start_scrape_and_stop_together(start: Start, services: list[str]) -> None:
    monitor = start("--interval", "1", "--service", services[0], "--service", services[1])
    monitor.wait_for("Ctrl-C stops everything")
    prometheus = monitor.url("prometheus")
    up = f"up{{{SERVICE}}} == 1"
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
    assert monitor.output().endswith("stopped\n") and "Traceback" not in monitor.output()
    assert ended(children)


def test_a_second_start_finds_the_data_of_the_first(start: Start, services: list[str]) -> None:
    first = start("--interval", "1", "--service", services[0])
    url = first.url("prometheus")
    until(lambda: query(url, "model_queue_seconds_count"))
    first.stop()
    url = start("--service", services[1]).url("prometheus")
    assert query(url, "count_over_time(model_queue_seconds_count[5m])")


def test_ctrl_c_in_a_terminal_stops_all(start: Start) -> None:
    monitor = start()
    monitor.wait_for("Ctrl-C stops everything")
    children = monitor.children()
    os.killpg(monitor.process.pid, signal.SIGINT)
    assert monitor.process.wait(WITHIN) == 0
    assert ended(children)


def test_when_one_program_dies_the_others_stop_and_its_last_lines_are_printed(start: Start) -> None:
    monitor = start()
    monitor.wait_for("Ctrl-C stops everything")
    children = monitor.children()
    os.kill(children[0], signal.SIGKILL)
    assert monitor.process.wait(WITHIN) == 1
    assert "error: prometheus was killed by SIGKILL; its last lines:\n" in monitor.output()
    assert "Server is ready" in monitor.output() and "Traceback" not in monitor.output()
    assert ended(children)


def test_addresses_in_the_log_of_alertmanager_are_not_printed(
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
    assert monitor.process.wait(WITHIN) == 1
    log = tmp_path / "monitoring" / "alertmanager.log"
    assert f"error: alertmanager ended with exit code 3; the reason is in {log}" in monitor.output()
    assert "very-secret" not in monitor.output()
    assert url in log.read_text(encoding="utf-8")
    for path in (log, tmp_path / "monitoring" / "alertmanager.yml"):
        assert path.stat().st_mode & 0o077 == 0


def test_a_program_that_does_not_start_is_an_error_with_its_last_lines(
    start: Start, tmp_path: Path
) -> None:
    data = tmp_path / "monitoring" / "data" / "prometheus"
    data.parent.mkdir(parents=True)
    data.write_text("a file where a folder should be", encoding="utf-8")
    monitor = start()
    assert monitor.process.wait(WITHIN) == 1
    assert "error: prometheus ended with exit code" in monitor.output()
    assert "not a directory" in monitor.output() and "Traceback" not in monitor.output()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux ends children")
def test_a_killed_monitor_leaves_no_process_behind(start: Start) -> None:
    monitor = start()
    monitor.wait_for("Ctrl-C stops everything")
    children = monitor.children()
    assert len(children) >= len(NAMES)
    monitor.stop(signal.SIGKILL)
    until(lambda: ended(children))


def test_a_port_in_use_is_an_error_and_nothing_starts(
    programs: dict[str, Path], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MonitoringError) as caught:
            stack(tmp_path / "monitoring", {"alertmanager": port})
    message = str(caught.value)
    assert message.startswith(f"port {port}, for alertmanager: Address already in use; stop")
    assert "--alertmanager-port 9193" in message
    assert not (tmp_path / "monitoring").exists()


def test_two_programs_cannot_have_the_same_port(programs: dict[str, Path], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(MonitoringError, match=f"port {port}, for node-exporter: Address already"):
        stack(tmp_path, {"prometheus": port, "node-exporter": port})


def test_an_impossible_port_is_rejected(programs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(MonitoringError, match="port 70000, for prometheus: ports are 0 to 65535"):
        stack(tmp_path, {"prometheus": 70000})


def test_missing_programs_are_named_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MonitoringError) as caught:
        stack(tmp_path)
    message = str(caught.value)
    assert message.startswith("prometheus and alertmanager and node-exporter not found")
    assert "make setup-e2e" in message and "docker compose up" in message
    assert "apt-get install prometheus prometheus-alertmanager prometheus-node-exporter" in message


def test_a_folder_that_cannot_be_written_is_an_error(
    programs: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MonitoringError, match="cannot be written: Not a directory"):
        stack(tmp_path / "file" / "monitoring")


def test_an_unusable_variable_is_an_error_before_anything_starts(
    programs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALERT_SLACK_URL", "no address")
    monitor = stack(tmp_path)
    with pytest.raises(MonitoringError, match="^ALERT_SLACK_URL: "), monitor:
        pass
    assert monitor.running == {}


def test_the_summary_names_receivers_without_addresses_and_a_service_that_is_down(
    programs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor = stack(tmp_path)
    text = describe(monitor)
    assert "Alerts are sent nowhere: no ALERT_ variable is set." in text
    assert re.search(r"http://127\.0\.0\.1:1   \(does not respond yet: make demo", text)
    monkeypatch.setenv("ALERT_SLACK_URL", "http://127.0.0.1:1/hooks/very-secret")
    assert "Alerts are sent to: chat" in describe(monitor)
    assert "very-secret" not in describe(monitor)
    monkeypatch.setenv("SERVICE_PORT", "8765")
    assert default_service(os.environ) == "127.0.0.1:8765"


def test_names_of_the_projects_are_found_and_the_pushgateway_is_optional(
    start: Start, programs: dict[str, Path], tmp_path: Path
) -> None:
    own = {"prometheus": "prometheus", "alertmanager": "alertmanager"} | {
        "node-exporter": "node_exporter"
    }
    (tmp_path / "bin").mkdir()
    for name, binary in own.items():
        (tmp_path / "bin" / binary).symlink_to(programs[name])
    monitor = start(PATH=str(tmp_path / "bin"))
    monitor.wait_for("Ctrl-C stops everything")
    assert "pushgateway" not in monitor.output()
    assert len(monitor.children()) == 3
    assert monitor.stop() == 0


def test_help_explains_the_command() -> None:
    command = [sys.executable, "-m", "monitoring.local", "--help"]
    text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "beside `make demo`" in text and "--alertmanager-port" in text


def test_an_address_is_host_and_port_or_a_url_and_nothing_else() -> None:
    for text in ("127.0.0.1:8000", "http://127.0.0.1:8000/", "127.0.0.1:8000/"):
        assert parse_address(text) == "127.0.0.1:8000"
    wrong = (
        "",
        "8000",
        "host",
        "host:port",
        "http://",
        "a:1/path",
        "me@host:1",
        "a b:1",
        "a:70000",
    )
    for text in wrong:
        with pytest.raises(MonitoringError, match=r"service: .* write 127\.0\.0\.1:8000"):
            parse_address(text)


def test_only_targets_and_times_differ_from_what_ships(tmp_path: Path) -> None:
    write_configuration(LOCAL, tmp_path / "prometheus.yml")
    written = yaml.safe_load((tmp_path / "prometheus.yml").read_text(encoding="utf-8"))
    shipped = yaml.safe_load(SOURCE.read_text(encoding="utf-8"))
    jobs = {job["job_name"]: job for job in written["scrape_configs"]}
    assert set(jobs) == set(LOCAL.targets)
    assert jobs[APP]["static_configs"] == [{"targets": LOCAL.targets[APP]}]
    assert written["global"]["evaluation_interval"] == "5000ms"
    assert written["global"].get("external_labels") == shipped["global"].get("external_labels")
    assert written["rule_files"] == [str(SOURCE.parent / "rules/*.yml")]


def test_every_job_that_ships_is_scraped_locally_or_left_out_on_purpose(tmp_path: Path) -> None:
    jobs = yaml.safe_load(SOURCE.read_text(encoding="utf-8"))["scrape_configs"]
    here = {APP, "node", "prometheus", "alertmanager", "pushgateway"}
    # The exporter of a GPU, a prober of addresses, workers of the stream.
    elsewhere = {"dcgm", PROBES, f"{APP}-stream"}
    assert {job["job_name"] for job in jobs} == here | elsewhere


def test_promtool_accepts_the_written_configuration(
    tmp_path: Path, programs: dict[str, Path]
) -> None:
    path = tmp_path / "prometheus.yml"
    write_configuration(LOCAL, path)
    promtool = programs["prometheus"].with_name("promtool")
    if not promtool.exists():
        pytest.skip("no promtool beside prometheus")
    subprocess.run([promtool, "check", "config", path], check=True, capture_output=True)
