"""The programs that watch, as ordinary child processes on loopback.

Debian and the projects themselves name them differently; both are found. None of them needs root, a
network or a system service.
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
PAUSE = 0.1  # seconds between two looks
LAST_LINES = 8  # of the log of a program that died


class Program(NamedTuple):
    """One program: how it is found, where it listens, and how it says that it is ready."""

    name: str
    binaries: tuple[str, ...]
    """Its names: Debian's first, then that of the project."""
    port: int
    """Where it listens unless told otherwise."""
    ready: str = "/-/ready"
    """What answers 200 when it is ready."""
    needed: bool = True
    told_secrets: bool = False
    """Whether its log may quote addresses with a token in them."""


PROGRAMS = (
    Program("prometheus", ("prometheus",), 9090),
    Program("alertmanager", ("prometheus-alertmanager", "alertmanager"), 9093, told_secrets=True),
    Program("node-exporter", ("prometheus-node-exporter", "node_exporter"), 9100, ready="/"),
    Program("pushgateway", ("prometheus-pushgateway", "pushgateway"), 9091, needed=False),
)


def find_programs() -> dict[str, Path]:
    """Where the programs are, by name; one that is not needed may be absent.

    Raises:
        MonitoringError: one that is needed is not installed.
    """
    found = {program.name: _find(program) for program in PROGRAMS}
    missing = [item.name for item in PROGRAMS if item.needed and found[item.name] is None]
    if missing:
        packages = [item.binaries[0] for item in PROGRAMS if item.name in missing]
        raise MonitoringError(
            f"{' and '.join(missing)} not found in PATH: `make setup-e2e` installs what the tests "
            f"need, `apt-get install {' '.join(packages)}` only this; with Docker, "
            "`docker compose up` needs neither"
        )
    return {name: path for name, path in found.items() if path is not None}


def _find(program: Program) -> Path | None:
    places = (shutil.which(binary) for binary in program.binaries)
    return next((Path(place) for place in places if place), None)


def take_ports(wanted: Mapping[str, int]) -> dict[str, int]:
    """Check that ports are free, by name of the program; for 0 a free one is chosen.

    Raises:
        MonitoringError: something listens on one, or two programs want the same.
    """
    taken: dict[str, int] = {}
    with ExitStack() as stack:  # all at once, so that no two are the same
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


class Running:
    """One program that was started; its output is in `log`."""

    def __init__(
        self, program: Program, command: Sequence[str | Path], port: int, log: Path
    ) -> None:
        """Start it."""
        self.program = program
        self.url = f"http://{HOST}:{port}"
        self.log = log
        with log.open("wb") as stream:
            os.fchmod(stream.fileno(), 0o600)  # as its configuration
            self.process = subprocess.Popen(
                [*_dies_with_us(), *command],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                # Ctrl-C reaches the whole group of the terminal: each would end on its own, in any
                # order. In groups of their own they are ended by us.
                process_group=0,
            )

    def check(self) -> None:
        """Look whether it still runs.

        Raises:
            MonitoringError: it has ended; with its last lines, unless they may have a secret.
        """
        code = self.process.poll()
        if code is not None and self.program.told_secrets:
            raise MonitoringError(
                f"{self.program.name} {_ending(code)}; {self.log} says why, and may name secrets"
            )
        if code is not None:
            lines = self.log.read_text("utf-8", "replace").splitlines()[-LAST_LINES:]
            said = "\n".join(lines) or "(nothing)"
            raise MonitoringError(f"{self.program.name} {_ending(code)}; it said at last:\n{said}")

    def wait_until_ready(self, deadline: float) -> None:
        """Ask until it is ready; `deadline` is a time of `time.monotonic`.

        Raises:
            MonitoringError: it ended, or was not ready in time.
        """
        while not self._is_ready():
            self.check()
            if time.monotonic() > deadline:
                raise MonitoringError(
                    f"{self.program.name} runs, and is not ready at {self.url} after "
                    f"{READY_WITHIN:g} s; {self.log} says what it does"
                )
            time.sleep(PAUSE)

    def _is_ready(self) -> bool:
        try:
            # Nothing between us and loopback: a proxy of the environment is for elsewhere.
            answer = httpx.get(self.url + self.program.ready, timeout=5, trust_env=False)
        except httpx.TransportError:
            return False
        return answer.status_code == 200


def stop_all(running: Sequence[Running]) -> None:
    """End all of them: ask, wait, and kill what does not end."""
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
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def _dies_with_us() -> list[str]:
    """A prefix that lets the kernel end a child when we are killed and can not do it ourselves."""
    setpriv = shutil.which("setpriv")  # of util-linux; without it, a port would stay taken
    return [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []
