"""Command: show what happens when the images of a model change.

    python -m monitoring.local.demo_drift            beside `make demo` and `make monitor`
    python -m monitoring.local.demo_drift --brightness 0.5 --rate 20

Sends the service images of data/ as they are, then the same ones brighter, as if the scale of the
sensor had changed, and waits until the alert ModelDrift fires. It talks to this machine only,
unless --service says otherwise. The service forgets when its window has passed, or with a restart.
`DEMO_KEY` is a key with the role `predict`, for a service that wants one.
"""

import os
import sys
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx

from monitoring.errors import MonitoringError, command
from monitoring.local.__main__ import default_service, parse_address
from monitoring.local.drift_view import ALERT, Watched
from monitoring.local.traffic import Input, Traffic, brighter, find_images

NORMAL = 300  # images before the change; SERVICE_DRIFT_SAMPLES is 200 unless it is set
RATE = 40.0  # images a second; two cores answer many more
BRIGHTNESS = 1.5
LIMIT = 120.0  # seconds until the alert has to fire
EVERY = 3.0  # seconds between two lines
SIGNALS = 6  # that are named at the end, the worst first


class Story:
    """Normal images, then changed ones, until the alert fires."""

    def __init__(self, watched: Watched, chosen: Namespace, say: Callable[[str], None]) -> None:
        """Take the two, what the command line says, and where lines go."""
        self._watched = watched
        self._chosen = chosen
        self._say = say
        self._started = time.monotonic()

    def run(self) -> bool:
        """Tell it; whether the alert has fired.

        Raises:
            MonitoringError: something is missing or refuses.
        """
        files = find_images(self._chosen.data)
        wanted = self._watched.input()
        if self._firing():
            self._say(f"{ALERT} fires already:")
            self._conclude()
            return True
        self._say(f"{self._chosen.normal} images of {self._chosen.data} as they are: no drift")
        with self._sending("normal", files, Path.read_bytes) as traffic:
            while traffic.sent < self._chosen.normal:
                self._tell("normal", traffic)
        factor = self._chosen.brightness
        self._say(f"now {factor:g} times as bright, until {ALERT} fires")
        with self._sending("changed", files, partial(_changed, wanted, factor)) as traffic:
            while not (fires := self._firing()) and self._left() > 0:
                self._tell("changed", traffic)
        if fires:
            self._conclude()
        else:
            self._explain(traffic.sent)
        return fires

    @contextmanager
    def _sending(
        self, name: str, files: list[Path], body: Callable[[Path], bytes]
    ) -> Iterator[Traffic]:
        rate, headers = self._chosen.rate, self._watched.headers
        with Traffic(self._watched.service, files, body, rate, headers) as traffic:
            yield traffic
        self._line(name, traffic)

    def _tell(self, name: str, traffic: Traffic) -> None:
        """A line, then a moment; the traffic goes on."""
        traffic.check()
        self._line(name, traffic)
        if name == "normal" and self._left() < 0:
            raise MonitoringError(f"only {traffic.sent} images in {self._chosen.limit:g} s")
        time.sleep(EVERY)

    def _line(self, name: str, traffic: Traffic) -> None:
        look = self._watched.look()
        if look.scores:
            worst = f"worst {look.scores[0]}"
        else:
            worst = f"no score: {', '.join(look.insufficient) or 'nothing measured'}"
        states = {alert["state"] for alert in self._watched.alerts()}
        state = f"   {ALERT} {' and '.join(sorted(states))}" if states else ""
        passed = time.monotonic() - self._started
        self._say(
            f"{passed:5.0f} s  {name:<8}{traffic.sent:>6} sent  "
            f"{look.samples:>6} in the window  {worst}{state}"
        )

    def _firing(self) -> bool:
        return any(alert["state"] == "firing" for alert in self._watched.alerts())

    def _left(self) -> float:
        return float(self._chosen.limit - (time.monotonic() - self._started))

    def _conclude(self) -> None:
        look = self._watched.look()
        firing = [alert for alert in self._watched.alerts() if alert["state"] == "firing"]
        for alert in firing[:SIGNALS]:
            summary = alert.get("annotations", {}).get("summary")
            self._say(f"{ALERT} fires: {summary or alert['labels']}")
        drifted = {score.signal: score for score in reversed(look.scores) if score.ratio > 1}
        worst = sorted(drifted.values(), key=lambda score: -score.ratio)
        for score in worst[:SIGNALS]:
            self._say(f"  {score}")
        if len(worst) > SIGNALS:
            self._say(f"  and {len(worst) - SIGNALS} more signals")
        self._say(f"Look at {self._watched.prometheus}/alerts")
        for url in self._watched.alertmanagers():
            self._say(
                f"and at  {url}/#/alerts, which tells people and starts a training, if set up"
            )
        self._say(f"To forget: wait {look.window:g} s without such images, or restart the service.")

    def _explain(self, changed: int) -> None:
        look = self._watched.look()
        self._say(f"{ALERT} did not fire within {self._chosen.limit:g} s. What was seen:")
        above = [score for score in look.scores if score.ratio > 1]
        self._say(f"  {look.samples} images in the window, {len(above)} scores above threshold")
        if look.scores:
            self._say(f"  worst {look.scores[0]}")
        if look.insufficient:
            self._say(f"  not judged: {', '.join(look.insufficient)}")
        if not self._watched.watched():
            place = self._watched.service.removeprefix("http://")
            self._say(
                f"  the Prometheus at {self._watched.prometheus} scrapes no such service: "
                f"make monitor, or python -m monitoring.local --service {place}"
            )
        elif changed < look.samples / 2:
            self._say("  most of them are not ours: restart the service, or raise --rate")
        elif above:
            self._say("  the service measures drift: an alert that waits minutes fires later")


def _changed(wanted: Input, factor: float, path: Path) -> bytes:
    return brighter(path, wanted, factor)


def arguments() -> Namespace:
    """Read the command line."""
    parser = ArgumentParser(
        prog="python -m monitoring.local.demo_drift",
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
    )
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
        "--limit", type=float, default=LIMIT, help="seconds until it has to fire (default: 120)"
    )
    chosen = parser.parse_args()
    for name in ("brightness", "rate", "limit"):
        if not getattr(chosen, name) > 0:
            parser.error(f"--{name}: it has to be above 0")
    return chosen


@command
def main() -> None:
    """Tell the story; exit code 1 when the alert does not fire."""
    chosen = arguments()
    service, prometheus = parse_address(chosen.service), parse_address(chosen.prometheus)
    with httpx.Client(timeout=10, trust_env=False) as client:
        watched = Watched(service, prometheus, client, os.environ.get("DEMO_KEY", ""))
        fired = Story(watched, chosen, partial(print, flush=True)).run()
    sys.exit(0 if fired else 1)


if __name__ == "__main__":
    main()
