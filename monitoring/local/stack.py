"""The monitoring stack on this machine: Prometheus and its companions, from start to end."""

import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from monitoring.alerts.alertmanager import render, write
from monitoring.errors import MonitoringError
from monitoring.local.configuration import SOURCE, LocalTargets, write_configuration
from monitoring.local.programs import (
    HOST,
    PROGRAMS,
    READY_WITHIN,
    RunningProgram,
    find_programs,
    stop_all,
    take_ports,
)
from monitoring.objectives import APP

FOLDER = Path("artifacts/monitoring")
INTERVAL = 5.0  # seconds between two scrapes; elsewhere 15
ADDRESS = re.compile(r"(?:[0-9A-Za-z._-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")
RETENTION = ("--storage.tsdb.retention.time=2d", "--storage.tsdb.retention.size=512MB")


class Monitor:
    """Prometheus, Alertmanager and exporters as child processes; a context manager."""

    def __init__(
        self,
        services: Sequence[str],
        ports: Mapping[str, int],
        folder: Path = FOLDER,
        interval: float = INTERVAL,
        source: Path = SOURCE,
    ) -> None:
        """Take services as host:port, and a port for each program; 0 takes a free one.

        Raises:
            MonitoringError: a program is missing, a port is in use, or `folder` is not writable.
        """
        self.services = list(services)
        self.folder = folder.absolute()
        self.interval = interval
        self._source = source
        self.running: dict[str, RunningProgram] = {}
        self._paths = find_programs()
        self.ports = take_ports(
            {
                program.name: ports.get(program.name, program.port)
                for program in PROGRAMS
                if program.name in self._paths
            }
        )
        try:
            (self.folder / "data").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MonitoringError(f"{self.folder} cannot be written: {error.strerror}") from None

    def __enter__(self) -> "Monitor":
        """Start everything and wait until it is ready.

        Raises:
            MonitoringError: a program ended, or was not ready in time; the others are stopped.
        """
        try:
            self._write_configuration()
            commands = self._commands()
            for program in PROGRAMS:
                if program.name in self._paths:
                    self.running[program.name] = RunningProgram(
                        program,
                        [self._paths[program.name], *commands[program.name]],
                        self.ports[program.name],
                        self.folder / f"{program.name}.log",
                    )
            deadline = time.monotonic() + READY_WITHIN
            for item in self.running.values():
                item.wait_until_ready(deadline)
        except BaseException:
            stop_all(list(self.running.values()))
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop everything."""
        stop_all(list(self.running.values()))

    def url(self, name: str) -> str:
        """The address of a program."""
        return f"http://{HOST}:{self.ports[name]}"

    def check(self) -> None:
        """Check that all programs still run.

        Raises:
            MonitoringError: one has ended; `RunningProgram.check` gives the reason.
        """
        for item in self.running.values():
            item.check()

    def _commands(self) -> dict[str, list[str]]:
        """The arguments of each program."""
        data = self.folder / "data"
        listen = {name: f"--web.listen-address={HOST}:{port}" for name, port in self.ports.items()}
        return {
            "prometheus": [
                f"--config.file={self.folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={data / 'prometheus'}",
                *RETENTION,
                listen["prometheus"],
                f"--web.external-url={self.url('prometheus')}",
                # The first alert precedes the discovery of Alertmanager; the default is a minute.
                f"--rules.alert.resend-delay={max(1, round(self.interval))}s",
            ],
            "alertmanager": [
                f"--config.file={self.folder / 'alertmanager.yml'}",
                f"--storage.path={data / 'alertmanager'}",
                listen["alertmanager"],
                f"--web.external-url={self.url('alertmanager')}",
                "--cluster.listen-address=",  # no cluster
            ],
            "node-exporter": [listen["node-exporter"]],
            "pushgateway": [listen.get("pushgateway", ""), "--persistence.file="],
        }

    def _write_configuration(self) -> None:
        jobs = {"node": "node-exporter", "prometheus": "prometheus", "alertmanager": "alertmanager"}
        if "pushgateway" in self.ports:
            jobs["pushgateway"] = "pushgateway"
        targets: dict[str, list[str]] = {
            job: [f"{HOST}:{self.ports[name]}"] for job, name in jobs.items()
        }
        local = LocalTargets(
            targets | {APP: self.services},
            f"{HOST}:{self.ports['alertmanager']}",
            self.interval,
        )
        write(render(os.environ), self.folder / "alertmanager.yml")
        write_configuration(local, self.folder / "prometheus.yml", self._source)


def parse_address(text: str) -> str:
    """Read host:port.

    Raises:
        MonitoringError: it is not an address.
    """
    address = text.removeprefix("http://").removesuffix("/")
    found = ADDRESS.fullmatch(address)
    if found is None or not 0 < int(found[1]) < 65536:
        raise MonitoringError(f"service: {text[:128]!a} is not host:port: write 127.0.0.1:8000")
    return address


def default_service(environment: Mapping[str, str]) -> str:
    """The address of the service of this machine: SERVICE_PORT, as for the service itself."""
    return f"{HOST}:{environment.get('SERVICE_PORT') or 8000}"
