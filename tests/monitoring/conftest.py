"""`make monitor` as a process, and what stands in its way where programs are missing."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from monitoring.errors import MonitoringError
from monitoring.local.programs import PROGRAMS, find_programs
from tests.conftest import ROOT

T = TypeVar("T")
WITHIN = 90.0  # seconds; generous, the machine may be busy
ANY_PORTS = [part for item in PROGRAMS for part in (f"--{item.name}-port", "0")]


def until(condition: Callable[[], T | None], what: object = "it") -> T:
    """Ask again until the answer is true; give it."""
    deadline = time.monotonic() + WITHIN
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} never came true"
        time.sleep(0.05)
    return found


class Command:
    """A command of this package that runs; what it says is in `said`."""

    def __init__(self, *arguments: str, log: Path, **environment: str) -> None:
        self.log = log
        with log.open("w", encoding="utf-8") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=ROOT,
                env=os.environ | environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def said(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(encoding="utf-8")

    def wait_for(self, text: str) -> re.Match[str]:
        """Wait until it has printed what this pattern matches."""

        def look() -> re.Match[str] | None:
            ended = self.process.poll() is not None
            found = re.search(text, self.said())
            assert found or not ended, f"it ended: {self.said()}"
            return found

        return until(look, text)

    def url(self, name: str) -> str:
        """Where it says that a program listens."""
        return self.wait_for(rf"(?m)^  {name} +(http://\S+)")[1]

    def children(self) -> list[int]:
        """Process ids of its children."""
        found = subprocess.run(
            ["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False
        )
        return [int(line) for line in found.stdout.split()]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it and give its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(WITHIN)


Start = Callable[..., Command]


@pytest.fixture(scope="session", autouse=True)
def _nobody_is_told() -> Iterator[None]:
    """Take away the variables by which a test would tell people, or start a training."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("ALERT_", "RETRAIN_")):
                patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def programs() -> dict[str, Path]:
    """Where Prometheus and the others are."""
    try:
        return find_programs()
    except MonitoringError as error:
        pytest.skip(str(error))


@pytest.fixture
def start(tmp_path: Path, programs: dict[str, Path]) -> Iterator[Start]:
    """Start `make monitor` on free ports; what still runs at the end is ended."""
    started: list[Command] = []

    def run(*arguments: str, **environment: str) -> Command:
        log = tmp_path / f"monitor-{len(started)}.log"
        folder = ("--folder", str(tmp_path / "monitoring"))
        everything = ("monitoring.local", *ANY_PORTS, *folder, *arguments)
        started.append(Command(*everything, log=log, **environment))
        return started[-1]

    yield run
    for command in started:
        command.stop()
