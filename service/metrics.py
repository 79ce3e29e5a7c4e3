"""Prometheus instruments. Labels are bound once a model, so that a request only adds numbers.

With several workers the values live in files that all of them map (prometheus_client's
multiprocess mode), and any worker answers `/metrics` for all.
"""

import os
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values
from prometheus_client.values import MultiProcessValue
from prometheus_fastapi_instrumentator.metrics import Info, default

from service.errors import ServiceError
from service.model import Model

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
SHARES = tuple(step / 20 for step in range(1, 20))  # of a probability
HTTP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


def know_own_pid() -> None:
    """Spare the system call by which every added number would ask for the process's id again.

    To be called once in a worker, after the fork and before its instruments are made.
    """
    pid = os.getpid()
    values.ValueClass = MultiProcessValue(lambda: pid)  # type: ignore[no-untyped-call]


class _Sized(NamedTuple):
    """As much of a request or response as the instrumentator looks at."""

    headers: dict[str, int]


class ModelMetrics:
    """The instruments with one model's labels bound."""

    def __init__(self, metrics: "Metrics", model: Model) -> None:
        """Bind them."""
        self.classes = [
            metrics.predictions.labels(model.tag, name) for name in model.manifest.classes
        ]
        self.inference = metrics.inference.labels(model.tag)
        self.confidence = metrics.confidence.labels(model.tag)


class Metrics:
    """All instruments of one process."""

    def __init__(self) -> None:
        """Register them in a registry of their own."""
        self.registry = registry = CollectorRegistry()
        self.http = default(
            registry=registry,
            latency_highr_buckets=HTTP_SECONDS,
            latency_lowr_buckets=(0.005, 0.05, 0.5),
        )
        self.predictions = Counter(
            "model_predictions",
            "Predictions by model and class.",
            ("tag", "class"),
            registry=registry,
        )
        self.inference = Histogram(
            "model_inference_seconds",
            "Time in the runtime, a chip.",
            ("tag",),
            buckets=SECONDS,
            registry=registry,
        )
        self.confidence = Histogram(
            "model_confidence",
            "Probability of the class that was answered.",
            ("tag",),
            buckets=SHARES,
            registry=registry,
        )
        self.queue = Histogram(
            "model_queue_seconds",
            "Time between the end of an upload and the beginning of its inference.",
            buckets=SECONDS,
            registry=registry,
        )
        self.refused = Counter(
            "uploads_refused", "Uploads that were not predicted.", ("reason",), registry=registry
        )
        self.swaps = Counter(
            "model_swaps",
            "Changes of the model: result done or failed, and the last step reached.",
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
            "Workers that do not serve the model that is wanted.",
            registry=registry,
            multiprocess_mode="livesum",
        )

    def serves(self, model: Model, before: Model | None) -> None:
        """Tell which model this process serves from now on."""
        if before is not None:
            self.info.labels(before.tag, before.sha256).set(0)
        self.info.labels(model.tag, model.sha256).set(1)

    def count_request(
        self, sizes: tuple[int, int], method: str, route: str, status: int, seconds: float
    ) -> None:
        """Give a request to the instrumentator; `sizes` are bytes in and out.

        Its metrics are used without its middleware, which would take 37 us more to find out what
        the door already knows.
        """
        request: Any = _Sized({"Content-Length": sizes[0]})
        response: Any = _Sized({"Content-Length": sizes[1]})
        if self.http is not None:
            self.http(Info(request, response, method, route, str(status), seconds))

    def refuse(self, error: ServiceError) -> None:
        """Count an upload that was not predicted, by the kind of its error."""
        self.refused.labels(type(error).__name__).inc()
