"""Prometheus instruments of requests and swaps; observations.py has those of the model.

With several workers the values live in files that all of them map (prometheus_client's
multiprocess mode, multiprocess.py), and any worker renders `/metrics` for all (exposition.py).
"""

from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, values
from prometheus_client.values import MultiProcessValue
from prometheus_fastapi_instrumentator.metrics import Info, default

from service.errors import (
    BadRequest,
    InvalidOutput,
    Overloaded,
    ServiceError,
    SlowUpload,
    TooLarge,
    Unavailable,
    Unprocessable,
    UnsupportedMedia,
)
from service.inference.model import Model

HTTP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
ROUTE_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)  # these for every route


def use_slot(slot: int) -> None:
    """Count in the allocated files of a slot, on top of the counts of its earlier workers.

    Call it once in a worker, after the fork and before its instruments are created. By default
    prometheus_client names files by process id: every new worker would begin new files, and every
    increment would query the id.
    """
    values.ValueClass = MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call]


REFUSALS = (
    BadRequest,
    InvalidOutput,
    Overloaded,
    SlowUpload,
    TooLarge,
    Unavailable,
    UnsupportedMedia,
    Unprocessable,
)
"""Reasons for refused uploads."""
ANSWERS = ("200", "500", "503", "507")
"""Statuses of `/predict` that count towards its availability objective."""
SWAP_STEPS = ("lock", "fetch", "verify", "load", "warm-up", "self-test", "switch", "follow")
"""Steps at which swaps can fail."""


class _Sized(NamedTuple):
    """The part of a request or response that the instrumentator reads."""

    headers: dict[str, int]


class Metrics:
    """All instruments of one process."""

    def __init__(self) -> None:
        """Register them in a registry of their own."""
        self.registry = registry = CollectorRegistry()
        self.http = default(
            registry=registry,
            latency_highr_buckets=HTTP_SECONDS,
            latency_lowr_buckets=ROUTE_SECONDS,
        )
        self.refused = Counter(
            "uploads_refused", "Uploads that were not predicted.", ("reason",), registry=registry
        )
        self.swaps = Counter(
            "model_swaps",
            "Model swaps by result (done or failed) and last step.",
            ("result", "step"),
            registry=registry,
        )
        self.info = Gauge(
            "model_info",
            "Workers of this replica that serve a model.",
            ("tag", "sha256"),
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.mismatch = Gauge(
            "model_wanted_mismatch",
            "Workers that do not serve the desired model.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """Create the series with 0: Prometheus sees no increase in a series that begins at 1."""
        collectors: Any = self.registry._names_to_collectors  # the instrumentator keeps its own
        for status in ANSWERS:
            collectors["http_requests_total"].labels("POST", status, "/predict")
        collectors["http_request_duration_seconds"].labels("POST", "/predict")
        for error in REFUSALS:
            self.refused.labels(error.__name__)
        for step in ("switch", "follow"):
            self.swaps.labels("done", step)
        for step in SWAP_STEPS:
            self.swaps.labels("failed", step)

    def serves(self, model: Model, before: Model | None) -> None:
        """Set the model that this process serves from now on."""
        if before is not None:
            self.info.labels(before.tag, before.sha256).set(0)
        self.info.labels(model.tag, model.sha256).set(1)

    def count_request(
        self, sizes: tuple[int, int], method: str, route: str, status: int, seconds: float
    ) -> None:
        """Pass a request to the instrumentator; `sizes` are bytes in and out.

        Only its metrics are used: its middleware takes 37 us to find out what the gateway knows.
        """
        request: Any = _Sized({"Content-Length": sizes[0]})
        response: Any = _Sized({"Content-Length": sizes[1]})
        if self.http is not None:
            self.http(Info(request, response, method, route, str(status), seconds))

    def refuse(self, error: ServiceError) -> None:
        """Count an upload that was not predicted, by the kind of its error."""
        self.refused.labels(type(error).__name__).inc()
