"""Command: watch a service on this machine, without Docker and without root.

    python -m monitoring.local                               beside `make demo`, in another terminal
    python -m monitoring.local --service 127.0.0.1:8001 --service 127.0.0.1:8002
    python -m monitoring.local --prometheus-port 9190        a port of 0 takes a free one

Starts Prometheus, Alertmanager, node-exporter and, where it is installed, the Pushgateway, with
the rules that ship; everything listens on 127.0.0.1 only. Configuration, logs and data are in
artifacts/monitoring. monitoring/alerts/channels.py says which variables name people to be told;
without them nobody is. Ctrl-C ends all of it; the data stay for the next start, for two days at
most.
"""

import os
import re
import signal
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx

from monitoring.alerts.alertmanager import render, write
from monitoring.alerts.channels import read_channels
from monitoring.errors import MonitoringError, command
from monitoring.local.configuration import SOURCE, Local, write_configuration
from monitoring.local.programs import (
    HOST,
    PAUSE,
    PROGRAMS,
    READY_WITHIN,
    Running,
    find_programs,
    stop_all,
    take_ports,
)

FOLDER = Path("artifacts/monitoring")
INTERVAL = 5.0  # seconds between two scrapes; elsewhere 15
ADDRESS = re.compile(r"(?:[0-9A-Za-z._-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")
RETENTION = ("--storage.tsdb.retention.time=2d", "--storage.tsdb.retention.size=512MB")


class Monitor:
    """The programs, from their start to their end; a context manager."""

    def __init__(
        self,
        services: Sequence[str],
        ports: Mapping[str, int],
        folder: Path = FOLDER,
        interval: float = INTERVAL,
        source: Path = SOURCE,
    ) -> None:
        """Take what to watch, as host:port, and where the programs listen, by name; 0 is any.

        Raises:
            MonitoringError: a program is missing, a port is taken, or `folder` is not writable.
        """
        self.services = list(services)
        self.folder = folder.absolute()
        self.interval = interval
        self._source = source
        self.running: dict[str, Running] = {}
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
            raise MonitoringError(f"{self.folder} can not be written: {error.strerror}") from None

    def __enter__(self) -> "Monitor":
        """Start everything and wait until it is ready.

        Raises:
            MonitoringError: a program ended, or was not ready in time; the others are ended then.
        """
        try:
            self._write_configuration()
            commands = self._commands()
            for program in PROGRAMS:
                if program.name in self._paths:
                    self.running[program.name] = Running(
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
        """End everything."""
        stop_all(list(self.running.values()))

    def url(self, name: str) -> str:
        """Where a program listens."""
        return f"http://{HOST}:{self.ports[name]}"

    def check(self) -> None:
        """Look whether all still run.

        Raises:
            MonitoringError: one has ended; with what `Running.check` says of it.
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
                # The first alert comes before it knows of Alertmanager; a minute is the default.
                f"--rules.alert.resend-delay={max(1, round(self.interval))}s",
            ],
            "alertmanager": [
                f"--config.file={self.folder / 'alertmanager.yml'}",
                f"--storage.path={data / 'alertmanager'}",
                listen["alertmanager"],
                f"--web.external-url={self.url('alertmanager')}",
                "--cluster.listen-address=",  # one is no cluster
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
        local = Local(
            targets | {"landcover": self.services},
            f"{HOST}:{self.ports['alertmanager']}",
            self.interval,
        )
        write(render(os.environ), self.folder / "alertmanager.yml")
        write_configuration(local, self.folder / "prometheus.yml", self._source)


def parse_address(text: str) -> str:
    """Read host:port.

    Raises:
        MonitoringError: it is none.
    """
    address = text.removeprefix("http://").removesuffix("/")
    found = ADDRESS.fullmatch(address)
    if found is None or not 0 < int(found[1]) < 65536:
        raise MonitoringError(f"service: {text[:128]!a} is no address: write 127.0.0.1:8000")
    return address


def default_service(environment: Mapping[str, str]) -> str:
    """Where the service of this machine listens: on SERVICE_PORT, as it was told itself."""
    return f"{HOST}:{environment.get('SERVICE_PORT') or 8000}"


def answers(address: str) -> bool:
    """Whether a service answers there."""
    try:
        url = f"http://{address}/healthz"
        return httpx.get(url, timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def describe(monitor: Monitor) -> str:
    """What runs where, and what to look at."""
    lines = [f"  {name:<14} {monitor.url(name)}" for name in monitor.running]
    for service in monitor.services:
        missing = "" if answers(service) else "   (does not answer yet: make demo, or make serve)"
        lines.append(f"  {'service':<14} http://{service}{missing}")
    prometheus, told = monitor.url("prometheus"), read_channels(os.environ).names()
    return "\n".join(
        [
            "Watching:",
            *lines,
            "Look at:",
            f"  {prometheus}/targets   is everything scraped?",
            f"  {prometheus}/alerts    what is wrong; Watchdog always fires",
            f"  {monitor.url('alertmanager')}          what people are told",
            f"  {prometheus}/graph?g0.expr=model_drift_score",
            "Then, in another terminal: make demo-drift",
            f"Told: {', '.join(told) or 'nobody, as no variable names one'}.",
            f"Logs are in {monitor.folder}. The end is Ctrl-C.",
        ]
    )


def arguments() -> Namespace:
    """Read the command line."""
    parser = ArgumentParser(
        prog="python -m monitoring.local",
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--service",
        action="append",
        metavar="HOST:PORT",
        help="a service to watch, may repeat (default: 127.0.0.1 and SERVICE_PORT, or 8000)",
    )
    for program in PROGRAMS:
        parser.add_argument(
            f"--{program.name}-port",
            type=int,
            default=program.port,
            metavar="PORT",
            help=f"where {program.name} listens (default: {program.port}; 0: a free one)",
        )
    parser.add_argument(
        "--folder",
        type=Path,
        default=FOLDER,
        help=f"for configuration, logs and data (default: {FOLDER})",
    )
    parser.add_argument(
        "--interval", type=float, default=INTERVAL, help="seconds between scrapes (default: 5)"
    )
    return parser.parse_args()


@command
def main() -> None:
    """Run until Ctrl-C."""
    chosen = arguments()
    services = chosen.service or [default_service(os.environ)]
    ports = {
        program.name: getattr(chosen, f"{program.name.replace('-', '_')}_port")
        for program in PROGRAMS
    }
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    monitor = Monitor(
        [parse_address(item) for item in services],
        ports,
        chosen.folder,
        chosen.interval,
    )
    try:
        with monitor:
            print(describe(monitor), flush=True)
            while True:
                monitor.check()
                time.sleep(PAUSE)
    except KeyboardInterrupt:
        print("stopped")


if __name__ == "__main__":
    main()
