"""A real Alertmanager, and those it talks to on loopback: webhooks, a bot's API, a mail relay."""

import base64
import json
import re
import shutil
import socketserver
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.fakes import http
from tests.make.processes import until

# Somebody who waits for a test is less patient than somebody who is on call.
# Long enough that a busy machine puts all alerts of a post into one group.
HURRIED = {"group_wait": "1s", "group_interval": "1s"}


class Hooks:
    """What webhooks got: path with query, and body, in order."""

    def __init__(self) -> None:
        self.url = ""
        self.got: list[tuple[str, Any]] = []

    def at(self, path: str) -> list[Any]:
        """Bodies that one path got."""
        return [body for where, body in list(self.got) if where == path]


class HookHandler(http.Handler[Hooks]):
    """Takes everything."""

    def do_POST(self) -> None:
        self.state.got.append((self.path, json.loads(self.content())))
        answer = b'{"ok": true, "result": {"message_id": 1, "chat": {"id": 1}}}'
        self.reply(201 if "trigger" in self.path else 200, answer)


@contextmanager
def hooks() -> Iterator[Hooks]:
    """A server that takes everything."""
    found = Hooks()
    with http.serving(HookHandler, found) as found.url:
        yield found


class Relay(socketserver.ThreadingTCPServer):
    """A mail relay: takes a login and a letter."""

    daemon_threads = True

    def __init__(self) -> None:
        self.letters: list[str] = []
        self.logins: list[bytes] = []
        super().__init__(("127.0.0.1", 0), _Dialogue)

    @property
    def address(self) -> str:
        """Its host:port."""
        return f"127.0.0.1:{self.server_address[1]}"


class _Dialogue(socketserver.StreamRequestHandler):
    """As much of RFC 5321 as it takes to send a letter."""

    def handle(self) -> None:
        assert isinstance(self.server, Relay)
        self._say("220 relay")
        while line := self.rfile.readline().decode().strip():
            verb = line.split()[0].upper()
            if verb == "EHLO":
                self._say("250-relay", "250 AUTH PLAIN")
            elif verb == "AUTH":
                self.server.logins.append(base64.b64decode(line.split()[2]))
                self._say("235 welcome")
            elif verb == "DATA":
                self._say("354 go on")
                lines = iter(self.rfile.readline, b".\r\n")
                self.server.letters.append(b"".join(lines).decode())
                self._say("250 taken")
            elif verb == "QUIT":
                return self._say("221 bye")
            else:
                self._say("250 fine")

    def _say(self, *lines: str) -> None:
        self.wfile.write("".join(f"{line}\r\n" for line in lines).encode())


@contextmanager
def relay() -> Iterator[Relay]:
    """A mail relay on loopback."""
    with Relay() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


class Alertmanager:
    """A running one."""

    def __init__(self, url: str) -> None:
        self.url = url

    def post(self, *alerts: Mapping[str, Any]) -> None:
        """Post alerts, as Prometheus does again and again."""
        httpx.post(f"{self.url}/api/v2/alerts", json=list(alerts)).raise_for_status()

    def states(self) -> dict[str, str]:
        """State of each alert, by name."""
        alerts = httpx.get(f"{self.url}/api/v2/alerts").raise_for_status().json()
        return {alert["labels"]["alertname"]: alert["status"]["state"] for alert in alerts}

    def amtool(self, *words: str) -> str:
        """Call amtool, as the runbook does."""
        line = ["amtool", f"--alertmanager.url={self.url}", *words]
        return subprocess.run(line, check=True, capture_output=True, text=True).stdout


def alert(name: str, labels: Mapping[str, str], summary: str, over: bool = False) -> dict[str, Any]:
    """An alert as Prometheus sends it; `over` says that it has ended.

    It starts now: Alertmanager does not wait for the rest of a group that should be out by now.
    """
    now = datetime.now(UTC)
    starts = now - timedelta(minutes=5) if over else now
    ends = now - timedelta(seconds=1) if over else now + timedelta(hours=1)
    return {
        "labels": {"alertname": name, **labels},
        "annotations": {
            "summary": summary,
            "description": "What it means.",
            "runbook_url": f"docs/runbook.md#{name.lower()}",
        },
        "startsAt": starts.isoformat(),
        "endsAt": ends.isoformat(),
        "generatorURL": "http://prometheus.example.org/graph",
    }


def hurry(route: dict[str, Any]) -> dict[str, Any]:
    """The same route, with less waiting; what is repeated after hours still is."""
    routes = [hurry(item) for item in route.get("routes", [])]
    return route | HURRIED | ({"routes": routes} if routes else {})


@contextmanager
def alertmanager(text: str, folder: Path) -> Iterator[Alertmanager]:
    """Run Alertmanager with a configuration, hurried."""
    programs = (shutil.which(name) for name in ("prometheus-alertmanager", "alertmanager"))
    program = next(filter(None, programs), None)
    if program is None or not shutil.which("amtool"):
        pytest.skip("Alertmanager is not installed: make setup-e2e")
    document = yaml.load(text, yaml.CSafeLoader)
    document["route"] = hurry(document["route"])
    config, log = folder / "alertmanager.yml", folder / "alertmanager.log"
    config.write_text(yaml.safe_dump(document), encoding="utf-8")
    words = [
        f"--config.file={config}",
        f"--storage.path={folder / 'data'}",
        "--web.listen-address=127.0.0.1:0",
        "--cluster.listen-address=",
    ]
    with log.open("w") as stream, subprocess.Popen([program, *words], stderr=stream) as process:
        try:
            yield Alertmanager(until(lambda: _address(process, log)))
        finally:
            process.terminate()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    text = log.read_text(encoding="utf-8")
    assert process.poll() is None, text
    found = re.search(r'msg="Listening on" address=(\S+)', text)
    url = f"http://{found[1]}" if found else ""
    try:
        ready = bool(url) and httpx.get(f"{url}/-/ready").is_success
    except httpx.TransportError:
        ready = False
    return url if ready else ""
