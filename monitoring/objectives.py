"""Every number and name that rules, panels and pages share, once (after kubernetes-mixin's config).

After a change: `make rules dashboards`. Tests name the sentences in docs/ that have to follow.
"""

from pathlib import Path
from typing import NamedTuple

import yaml

PARAMS = Path(__file__).parents[1] / "params.yaml"
APP: str = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))["model"]["name"]
"""The application: its job in Prometheus (k8s/base gives its Service the same name)."""

# Selectors.
SERVICE = f'job="{APP}"'
PREDICT = 'handler="/predict"'
FAILED = 'status=~"5.."'  # the instrumentator groups them: 5xx
NO_REVIEW = 'namespace!~".*review.*"'
"""Everything but review apps, which never alert."""
WATCHED = f"{SERVICE},{NO_REVIEW}"
"""This model's service: another one on the same Prometheus has rules of its own."""
STREAM = f'job="{APP}-stream"'
"""The workers of the stream: they answer no requests, and alerts about requests pass them over."""
STREAM_WATCHED = f"{STREAM},{NO_REVIEW}"
PROBES = "certificates"
"""The job of the blackbox exporter."""
JOBS = (
    f"{APP}(-stream)?|node(-exporter)?|prometheus(-k8s)?|alertmanager(-main)?|pushgateway"
    f"|dcgm(-exporter)?|{PROBES}"
)
"""Every job whose targets MetricsStale misses: those of prometheus.yml and of kube-prometheus."""


class Objective(NamedTuple):
    """What share of the requests to /predict has to be good, over DAYS."""

    bad: str
    """What the others are called in the names of series."""
    target: float

    @property
    def budget(self) -> float:
        """The share that may be bad."""
        return round(1 - self.target, 6)


class BurnRate(NamedTuple):
    """An alert when the budget burns `factor` times too fast, in a long and in a short window.

    The long one shows that it matters, the short one that it is not over yet.
    """

    severity: str
    long: str
    short: str
    factor: float


DAYS = 30
AVAILABILITY = Objective("errors", 0.995)
LATENCY = Objective("slow", 0.99)
QUICK = 0.25  # seconds; a bound of the histogram's buckets. Slower is bad
# Site Reliability Workbook, chapter 5 (Google 2018, "Alerting on SLOs").
BURN_RATES = (
    BurnRate("page", "1h", "5m", 14.4),
    BurnRate("page", "6h", "30m", 6),
    BurnRate("ticket", "1d", "2h", 3),
    BurnRate("ticket", "3d", "6h", 1),
)
BURNING_FOR = {"page": "2m", "ticket": "15m"}
LEAST_REQUESTS = 100  # in the long window; with fewer a handful of failures would decide

# The model.
LEAST_EXPECTED = 20  # predictions of a class in an hour; Poisson: e^-20 is once in 500 million
CONFIDENCE_SHARE = 0.75  # of the reference's mean
CONFIDENCE_PREDICTIONS = 200  # in 15 minutes, at least
LEAST_LABELS = 50  # for the live accuracy to count
FAILED_SWAPS = 3  # on one replica in half an hour

# The stream.
CATCH_UP = 300  # seconds that it takes, at the rate of now, to answer what waits
LEAST_WAITING = 100  # frames; fewer are no backlog
DEAD_SHARE = 0.05  # of the frames in 15 minutes
LEAST_DEAD = 20  # of them

# The platform.
DISK_LEFT = {"page": 0.03, "ticket": 0.1}
EXPIRY_DAYS = 14  # before a certificate or a token ends


def seconds(window: str) -> int:
    """How long a window such as `6h` is."""
    return int(window[:-1]) * {"m": 60, "h": 3600, "d": 86400}[window[-1]]


def percent(share: float) -> str:
    """A share as people read it: `99.5 %`."""
    return f"{100 * share:.4g} %"


def windows(days: bool) -> list[str]:
    """The windows of BURN_RATES, the shortest first: those of days, or the shorter ones."""
    found = {window for rate in BURN_RATES for window in (rate.long, rate.short)}
    return sorted((window for window in found if window.endswith("d") == days), key=seconds)
