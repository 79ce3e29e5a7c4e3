"""Command: watch a service on this machine, without Docker and without root.

    python -m monitoring.local                               beside `make demo`, in another terminal
    python -m monitoring.local --service 127.0.0.1:8001 --service 127.0.0.1:8002
    python -m monitoring.local --prometheus-port 9190        a port of 0 takes a free one

Starts Prometheus, Alertmanager, node-exporter and, if installed, the Pushgateway, with the rules
that ship; everything listens on 127.0.0.1 only. Configuration, logs and data are in
artifacts/monitoring. The variables of monitoring/alerts/channels.py name receivers of alerts;
without them no one is notified. Ctrl-C stops everything. The data stay for the next start, for two
days at most.
"""

import os
import signal
import time
from argparse import Namespace
from pathlib import Path

import httpx

from contracts import commands
from monitoring.alerts.channels import channel_names, read_settings
from monitoring.errors import command
from monitoring.local.programs import PAUSE, PROGRAMS
from monitoring.local.stack import FOLDER, INTERVAL, Monitor, default_service, parse_address


def is_healthy(address: str) -> bool:
    """Whether a service responds there."""
    try:
        url = f"http://{address}/healthz"
        return httpx.get(url, timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def describe(monitor: Monitor) -> str:
    """What runs where, and pages worth opening."""
    lines = [f"  {name:<14} {monitor.url(name)}" for name in monitor.running]
    for service in monitor.services:
        missing = (
            "" if is_healthy(service) else "   (does not respond yet: make demo, or make serve)"
        )
        lines.append(f"  {'service':<14} http://{service}{missing}")
    prometheus, channels = monitor.url("prometheus"), channel_names(read_settings(os.environ))
    sent = f"to: {', '.join(channels)}" if channels else "nowhere: no ALERT_ variable is set"
    return "\n".join(
        [
            "Watching:",
            *lines,
            "Open:",
            f"  {prometheus}/targets   is everything scraped?",
            f"  {prometheus}/alerts    alerts; Watchdog always fires",
            f"  {monitor.url('alertmanager')}          notifications",
            f"  {prometheus}/graph?g0.expr=model_drift_score",
            "Then, in another terminal: make demo-drift",
            f"Alerts are sent {sent}.",
            f"Logs are in {monitor.folder}. Ctrl-C stops everything.",
        ]
    )


def arguments() -> Namespace:
    """Read the command line."""
    parser = commands.parser("monitoring.local", __doc__)
    parser.add_argument(
        "--service",
        action="append",
        metavar="HOST:PORT",
        help="a service to scrape, may be repeated (default: 127.0.0.1 and SERVICE_PORT, or 8000)",
    )
    for program in PROGRAMS:
        parser.add_argument(
            f"--{program.name}-port",
            type=int,
            default=program.port,
            metavar="PORT",
            help=f"port of {program.name} (default: {program.port}; 0: a free one)",
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
