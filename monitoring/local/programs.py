"""Prometheus and its companions as ordinary child processes on loopback.

Debian and the projects use different names; both are found. Nothing here needs root, a network or a
system service.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import httpx

from monitoring.errors import MonitoringError

HOST = "127.0.0.1"
READY_WITHIN = 60.0  # seconds; Prometheus replays what it wrote before it was killed
GRACE = 10.0  # seconds that a program has to end after SIGTERM
PAUSE = 0.1  # seconds between two checks
LAST_LINES = 8  # of the log of a program that died


class Program(NamedTuple):
    """One program: its binaries, its port, and its page for readiness."""

    name: str
    binaries: tuple[str, ...]
    """Its names: Debian's first, then that of the project."""
    port: int
    """The default."""
    ready: str = "/-/ready"
    """The path that returns 200 once the program is ready."""
    needed: bool = True
    logs_secrets: bool = False
    """Whether its log may quote addresses that contain a token."""


PROGRAMS = (
    Program("prometheus", ("prometheus",), 9090),
    Program("alertmanager", ("prometheus-alertmanager", "alertmanager"), 9093, logs_secrets=True),
    Program("node-exporter", ("prometheus-node-exporter", "node_exporter"), 9100, ready="/"),
    Program("pushgateway", ("prometheus-pushgateway", "pushgateway"), 9091, needed=False),
)


def find_programs() -> dict[str, Path]:
    """The paths of the programs, by name; an optional one may be absent.

    Raises:
        MonitoringError: a program that is needed is not installed.
    """
    found = {program.name: _find(program) for program in PROGRAMS}
    missing = [item.name for item in PROGRAMS if item.needed and found[item.name] is None]
    if missing:
        packages = [item.binaries[0] for item in PROGRAMS if item.name in missing]
        raise MonitoringError(
            f"{' and '.join(missing)} not found in PATH: run `make setup-e2e` or "
            f"`apt-get install {' '.join(packages)}`; `docker compose up` needs neither"
        )
    return {name: path for name, path in found.items() if path is not None}


def _find(program: Program) -> Path | None:
    places = (shutil.which(binary) for binary in program.binaries)
    return next((Path(place) for place in places if place), None)


def take_ports(wanted: Mapping[str, int]) -> dict[str, int]:
    """Check that the ports of programs are free; 0 takes a free one.

    Raises:
        MonitoringError: something listens on a port, or two programs want the same one.
    """
    taken: dict[str, int] = {}
    with ExitStack() as stack:  # all held at once, so that no two are the same
        for program in PROGRAMS:
            if program.name in wanted:
                probe = stack.enter_context(socket.socket())
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                taken[program.name] = _take(probe, program, wanted[program.name])
    return taken


def _take(probe: socket.socket, program: Program, port: int) -> int:
    try:
        probe.bind((HOST, port))
        probe.listen()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or "ports are 0 to 65535"
        other = program.port + 100
        raise MonitoringError(
            f"port {port}, for {program.name}: {reason}; stop what listens there (another "
            f"`make monitor`, or Debian's own service: `systemctl stop {program.binaries[0]}`), "
            f"or choose another: --{program.name}-port {other}"
        ) from None
    return int(probe.getsockname()[1])


class RunningProgram:
    """A program that was started; its output is in `log`."""

    def __init__(
        self, program: Program, command: Sequence[str | Path], port: int, log: Path
    ) -> None:
        """Start it."""
        self.program = program
        self.url = f"http://{HOST}:{port}"
        self.log = log
        with log.open("wb") as stream:
            os.fchmod(stream.fileno(), 0o600)  # as for its configuration
            self.process = subprocess.Popen(
                [*_dies_with_us(), *command],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                # Ctrl-C reaches the whole process group of the terminal: all would stop at once, in
                # any order. In a group of its own each is stopped by us.
                process_group=0,
            )

    def check(self) -> None:
        """Check that it still runs.

        Raises:
            MonitoringError: it has ended; with its last lines, unless they may contain secrets.
        """
        code = self.process.poll()
        if code is not None and self.program.logs_secrets:
            raise MonitoringError(
                f"{self.program.name} {_ending(code)}; the reason is in {self.log}, "
                "which may contain secrets"
            )
        if code is not None:
            lines = self.log.read_text("utf-8", "replace").splitlines()[-LAST_LINES:]
            last = "\n".join(lines) or "(no output)"
            raise MonitoringError(f"{self.program.name} {_ending(code)}; its last lines:\n{last}")

    def wait_until_ready(self, deadline: float) -> None:
        """Poll until it is ready; `deadline` is a time of `time.monotonic`.

        Raises:
            MonitoringError: it ended, or was not ready in time.
        """
        while not self._is_ready():
            self.check()
            if time.monotonic() > deadline:
                raise MonitoringError(
                    f"{self.program.name} runs, but is not ready at {self.url} after "
                    f"{READY_WITHIN:g} s; see {self.log}"
                )
            time.sleep(PAUSE)

    def _is_ready(self) -> bool:
        try:
            # Without the proxy of the environment: this is loopback.
            response = httpx.get(self.url + self.program.ready, timeout=5, trust_env=False)
        except httpx.TransportError:
            return False
        return response.status_code == 200


def stop_all(running: Sequence[RunningProgram]) -> None:
    """Stop all programs: terminate, wait, and kill those that do not end."""
    for item in running:
        if item.process.poll() is None:
            item.process.terminate()
    deadline = time.monotonic() + GRACE
    for item in running:
        try:
            item.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            item.process.kill()
            item.process.wait()


def _ending(code: int) -> str:
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def _dies_with_us() -> list[str]:
    """A command prefix: the kernel stops the child when this process is killed."""
    setpriv = shutil.which("setpriv")  # of util-linux; without it, ports would stay in use
    return [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []
