"""The real service as a process on loopback: a fork, or `python -m service` itself."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from service.auth.roles import new_key
from tests.conftest import ROOT
from tests.make.zygote import Forked, fork

WORKERS = 2
STARTS_WITHIN = 300.0  # seconds; generous, the machine may be busy
DEPLOY_KEY, DEPLOY_HASH = new_key()


class Server:
    """One running replica."""

    def __init__(self, process: subprocess.Popen[str] | Forked, log: Path) -> None:
        self.process = process
        self.log = log
        self.url = ""

    def lines(self) -> list[dict[str, Any]]:
        """What it has logged."""
        text = self.log.read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def workers(self) -> list[int]:
        """Process ids of its living workers."""
        found = subprocess.run(
            ["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False
        )
        return [int(pid) for pid in found.stdout.split()]

    def client(self, **options: Any) -> httpx.Client:
        """A client that may deploy; close it."""
        headers = {"authorization": f"Bearer {DEPLOY_KEY}"}
        return httpx.Client(base_url=self.url, timeout=60, headers=headers, **options)

    def wait_for(self, path: str = "/readyz") -> httpx.Response:
        """Ask until the answer is good."""
        deadline = time.monotonic() + STARTS_WITHIN
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"it ended: {self.log.read_text(encoding='utf-8')}")
            try:
                answer = httpx.get(self.url + path, timeout=10)
                if answer.status_code == 200:
                    return answer
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"{path} never answered: {self.log.read_text(encoding='utf-8')}")

    def wait_for_workers(self, number: int) -> None:
        """Wait until so many have a model, of all that share its state; `/readyz` wants one.

        Each writes that into a file. One that cannot, as its disk is full, is not waited for.
        """
        deadline = time.monotonic() + STARTS_WITHIN
        while len(httpx.get(self.url + "/version", timeout=10).json()["workers"]) < number:
            if any(line["event"] == "state file not written" for line in self.lines()):
                return
            assert time.monotonic() < deadline, self.log.read_text(encoding="utf-8")
            time.sleep(0.02)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it and give its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(STARTS_WITHIN)


def spawn(bundle: Path, folder: Path, **settings: Any) -> Server:
    """Start it without waiting; `settings` are SERVICE_ variables in lower case.

    A test about the program itself sets `program`: `python -m service` instead of a fork, with
    `descriptors` as the most that the system lets each process open.
    """
    most = settings.pop("descriptors", 0)
    program = settings.pop("program", False) or most
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "port": 0,
        "workers": WORKERS,
        "bundle": bundle,
        "state": folder / "state",
        "repository": folder / "no-repository",
        "api_keys": json.dumps({DEPLOY_HASH: ["deploy"]}),
    } | settings
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith("SERVICE_")
    }
    environment |= {f"SERVICE_{key.upper()}": str(value) for key, value in values.items()}
    log = folder / f"service-{time.monotonic_ns()}.log"
    log.touch()
    if not program:
        return Server(fork(environment, log), log)
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            ["bash", "-c", f"ulimit -n {most or '$(ulimit -n)'}; exec {sys.executable} -m service"],
            cwd=ROOT,
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            text=True,
        )
    return Server(process, log)


@contextmanager
def serving(bundle: Path, folder: Path, **settings: Any) -> Iterator[Server]:
    """Run it until the block ends; all of its workers are ready when the block begins."""
    server = spawn(bundle, folder, **settings)
    try:
        server.url = address(server)
        server.wait_for()
        server.wait_for_workers(int(settings.get("workers", WORKERS)))
        yield server
    finally:
        if server.process.poll() is None:
            server.process.terminate()
            try:
                server.process.wait(STARTS_WITHIN)
            except subprocess.TimeoutExpired:
                server.process.kill()
                server.process.wait()


def address(server: Server) -> str:
    """Where it listens, from its first line."""
    deadline = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < deadline:
        for line in server.lines():
            if line.get("event") == "listening":
                return str(line["address"])
        if server.process.poll() is not None:
            raise AssertionError(f"it ended: {server.log.read_text(encoding='utf-8')}")
        time.sleep(0.02)
    raise AssertionError("it never listened")
