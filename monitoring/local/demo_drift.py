"""Command: show the alert of drift when the images of a model change.

    python -m monitoring.local.demo_drift            beside `make demo` and `make monitor`
    python -m monitoring.local.demo_drift --brightness 0.5 --rate 20

Sends the images of data/ unchanged, then brighter, as if the scale of the sensor had changed, and
waits until the alert ModelDrift fires. It uses this machine only, unless --service names another.
The service forgets the images after its drift window, or with a restart. `DEMO_KEY` is a key with
the role `predict`, for a service that wants one.
"""

import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx

from contracts import commands
from monitoring.errors import MonitoringError, command
from monitoring.local.drift_view import ALERT, MonitoredService
from monitoring.local.stack import default_service, parse_address
from monitoring.local.traffic import Input, Traffic, brighter, find_images

NORMAL = 300  # images before the change; SERVICE_DRIFT_SAMPLES is 200 by default
RATE = 40.0  # images a second; two cores predict many more
BRIGHTNESS = 1.5
LIMIT = 120.0  # seconds in which the alert has to fire
EVERY = 3.0  # seconds between two lines
SIGNALS = 6  # named at the end, the worst first


class DriftDemo:
    """Normal images, then changed ones, until the alert fires."""

    def __init__(
        self, monitored: MonitoredService, options: Namespace, report: Callable[[str], None]
    ) -> None:
        """Take the service, the options of the command line, and an output for lines."""
        self._monitored = monitored
        self._options = options
        self._report = report
        self._started = time.monotonic()

    def run(self) -> bool:
        """Run to the end; whether the alert has fired.

        Raises:
            MonitoringError: a service does not respond or refuses the images.
        """
        files = find_images(self._options.data)
        wanted = self._monitored.model_input()
        if self._firing():
            self._report(f"{ALERT} fires already:")
            self._report_alert()
            return True
        self._report(f"{self._options.normal} images of {self._options.data} unchanged: no drift")
        with self._sending("normal", files, Path.read_bytes) as traffic:
            while traffic.sent < self._options.normal:
                self._wait("normal", traffic)
        factor = self._options.brightness
        self._report(f"now {factor:g} times as bright, until {ALERT} fires")
        with self._sending("changed", files, partial(_changed, wanted, factor)) as traffic:
            while not (fires := self._firing()) and self._left() > 0:
                self._wait("changed", traffic)
        if fires:
            self._report_alert()
        else:
            self._report_failure(traffic.sent)
        return fires

    @contextmanager
    def _sending(
        self, name: str, files: list[Path], body: Callable[[Path], bytes]
    ) -> Iterator[Traffic]:
        rate, headers = self._options.rate, self._monitored.headers
        with Traffic(self._monitored.service, files, body, rate, headers) as traffic:
            yield traffic
        self._line(name, traffic)

    def _wait(self, name: str, traffic: Traffic) -> None:
        """Report a line, then wait; the traffic goes on."""
        traffic.check()
        self._line(name, traffic)
        if name == "normal" and self._left() < 0:
            raise MonitoringError(f"only {traffic.sent} images in {self._options.limit:g} s")
        time.sleep(self._options.every)

    def _line(self, name: str, traffic: Traffic) -> None:
        drift = self._monitored.drift()
        if drift.scores:
            worst = f"worst {drift.scores[0]}"
        else:
            worst = f"no score: {', '.join(drift.insufficient) or 'nothing measured'}"
        states = {alert["state"] for alert in self._monitored.alerts()}
        state = f"   {ALERT} {' and '.join(sorted(states))}" if states else ""
        passed = time.monotonic() - self._started
        self._report(
            f"{passed:5.0f} s  {name:<8}{traffic.sent:>6} sent  "
            f"{drift.samples:>6} in the window  {worst}{state}"
        )

    def _firing(self) -> bool:
        return any(alert["state"] == "firing" for alert in self._monitored.alerts())

    def _left(self) -> float:
        return float(self._options.limit - (time.monotonic() - self._started))

    def _report_alert(self) -> None:
        drift = self._monitored.drift()
        firing = [alert for alert in self._monitored.alerts() if alert["state"] == "firing"]
        for alert in firing[:SIGNALS]:
            summary = alert.get("annotations", {}).get("summary")
            self._report(f"{ALERT} fires: {summary or alert['labels']}")
        drifted = {score.signal: score for score in reversed(drift.scores) if score.ratio > 1}
        worst = sorted(drifted.values(), key=lambda score: -score.ratio)
        for score in worst[:SIGNALS]:
            self._report(f"  {score}")
        if len(worst) > SIGNALS:
            self._report(f"  and {len(worst) - SIGNALS} more signals")
        self._report(f"Look at {self._monitored.prometheus}/alerts")
        for url in self._monitored.alertmanagers():
            self._report(
                f"and at  {url}/#/alerts: it notifies people and starts a training, if configured"
            )
        self._report(
            f"To forget: wait {drift.window:g} s without such images, or restart the service."
        )

    def _report_failure(self, changed: int) -> None:
        drift = self._monitored.drift()
        self._report(f"{ALERT} did not fire within {self._options.limit:g} s. Measured:")
        above = [score for score in drift.scores if score.ratio > 1]
        self._report(f"  {drift.samples} images in the window, {len(above)} scores above threshold")
        if drift.scores:
            self._report(f"  worst {drift.scores[0]}")
        if drift.insufficient:
            self._report(f"  not measured: {', '.join(drift.insufficient)}")
        if not self._monitored.is_scraped():
            place = self._monitored.service.removeprefix("http://")
            self._report(
                f"  the Prometheus at {self._monitored.prometheus} has no such target: "
                f"make monitor, or python -m monitoring.local --service {place}"
            )
        elif changed < drift.samples / 2:
            self._report("  most images are of other clients: restart the service, or raise --rate")
        elif above:
            self._report("  the service measures drift: an alert with a longer `for` fires later")


def _changed(wanted: Input, factor: float, path: Path) -> bytes:
    return brighter(path, wanted, factor)


def arguments() -> Namespace:
    """Read the command line."""
    parser = commands.parser("monitoring.local.demo_drift", __doc__)
    service = default_service(os.environ)
    parser.add_argument(
        "--service", default=service, metavar="HOST:PORT", help=f"default: {service}"
    )
    parser.add_argument(
        "--prometheus",
        default="127.0.0.1:9090",
        metavar="HOST:PORT",
        help="that of `make monitor` (default: 127.0.0.1:9090)",
    )
    parser.add_argument(
        "--data", type=Path, default=Path("data"), help="folder with images (default: data)"
    )
    parser.add_argument(
        "--normal", type=int, default=NORMAL, help="images before the change (default: 300)"
    )
    parser.add_argument(
        "--brightness", type=float, default=BRIGHTNESS, help="of the changed ones (default: 1.5)"
    )
    parser.add_argument("--rate", type=float, default=RATE, help="images a second (default: 40)")
    parser.add_argument(
        "--limit",
        type=float,
        default=LIMIT,
        help="seconds in which the alert has to fire (default: 120)",
    )
    parser.add_argument(
        "--every", type=float, default=EVERY, help="seconds between two lines (default: 3)"
    )
    chosen = parser.parse_args()
    for name in ("brightness", "rate", "limit", "every"):
        if not getattr(chosen, name) > 0:
            parser.error(f"--{name}: has to be above 0")
    return chosen


@command
def main() -> None:
    """Run the demo; exit code 1 when the alert does not fire."""
    chosen = arguments()
    service, prometheus = parse_address(chosen.service), parse_address(chosen.prometheus)
    with httpx.Client(timeout=10, trust_env=False) as client:
        monitored = MonitoredService(service, prometheus, client, os.environ.get("DEMO_KEY", ""))
        fired = DriftDemo(monitored, chosen, partial(print, flush=True)).run()
    sys.exit(0 if fired else 1)


if __name__ == "__main__":
    main()
