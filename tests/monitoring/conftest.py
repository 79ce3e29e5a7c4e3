"""`make monitor` as a process."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from monitoring.errors import MonitoringError
from monitoring.local.configuration import SOURCE
from monitoring.local.programs import PROGRAMS, find_programs
from tests.conftest import ROOT
from tests.make.processes import WITHIN, children, until

ANY_PORTS = [part for item in PROGRAMS for part in (f"--{item.name}-port", "0")]


class Command:
    """A running command of this package."""

    def __init__(self, *arguments: str, log: Path, **environment: str) -> None:
        self.log = log
        with log.open("w", encoding="utf-8") as stream:
            self.process = subprocess.Popen(
                # As in a terminal, also where the tests run in the background of a shell.
                ["/usr/bin/env", "--default-signal=INT", sys.executable, "-m", *arguments],
                cwd=ROOT,
                env=os.environ | environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def output(self) -> str:
        """Its output so far."""
        return self.log.read_text(encoding="utf-8")

    def wait_for(self, text: str) -> re.Match[str]:
        """Wait until its output matches a pattern."""

        def look() -> re.Match[str] | None:
            ended = self.process.poll() is not None
            found = re.search(text, self.output())
            assert found or not ended, f"it ended: {self.output()}"
            return found

        return until(look, text)

    def url(self, name: str) -> str:
        """The address of a program, according to its output."""
        return self.wait_for(rf"(?m)^  {name} +(http://\S+)")[1]

    def children(self) -> list[int]:
        """Process ids of its children."""
        return children(self.process.pid)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop it; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(WITHIN)


Start = Callable[..., Command]


def hurried_source(folder: Path, hold: str | None = None) -> Path:
    """A copy of the shipped configuration of Prometheus for people who do not wait.

    All groups of rules have the common interval; `hold` replaces the `for` of all alerts.
    """
    shutil.copytree(SOURCE.parent, folder)
    for path in (folder / "rules").glob("*.yml"):
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        for group in document["groups"]:
            group.pop("interval", None)
            for rule in group["rules"]:
                if hold and "for" in rule:
                    rule["for"] = hold
        path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return folder / SOURCE.name


@pytest.fixture(scope="session", autouse=True)
def _no_receivers() -> Iterator[None]:
    """Remove the variables that would notify people or start a training."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("ALERT_", "RETRAIN_")):
                patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def programs() -> dict[str, Path]:
    """Paths of Prometheus and the others."""
    try:
        return find_programs()
    except MonitoringError as error:
        pytest.skip(str(error))


@pytest.fixture
def start(tmp_path: Path, programs: dict[str, Path]) -> Iterator[Start]:
    """Start `make monitor` on free ports; it is stopped at the end of the test."""
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
