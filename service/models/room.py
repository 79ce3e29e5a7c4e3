"""The wiring of the room: what the service calls, and all that it knows of models by name."""

from collections.abc import Awaitable, Mapping
from typing import NamedTuple

from fastapi import FastAPI
from prometheus_client import Counter

from service.http.body import Uploads
from service.http.gateway import FastRoute
from service.http.predict import NAMED, Predict
from service.inference.model import Serving
from service.models.catalogue import Catalogue, Limits
from service.models.oip import Protocol, add_routes, by_path
from service.prediction import Predictor
from service.registry.client import RegistryClient
from service.settings import Settings
from service.swap.cache import BundleCache
from service.swap.loader import ModelLoader
from service.swap.workers import WorkerRegistry
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Tracing

RESULTS = ("done", "NotFound", "BundleRefused", "RegistryUnavailable", "StorageFull", "Unavailable")


def make_catalogue(
    settings: Settings,
    registry: RegistryClient,
    loader: ModelLoader,
    cache: BundleCache,
    serving: Serving,
    workers: WorkerRegistry,
    metrics: Metrics,
    tracing: Tracing,
) -> Catalogue:
    """Make the catalogue from the parts of the service."""
    fetches = Counter(
        "model_fetches",
        "Bundles that were fetched as a request named them, by result.",
        ("result",),
        registry=metrics.registry,
    )
    for result in RESULTS:
        fetches.labels(result)
    limits = Limits(
        settings.models,
        settings.models_memory << 20,
        settings.models_most,
        settings.models_wait,
    )
    return Catalogue(
        *(registry, loader, cache, serving, workers, tracing, settings.state / "models", limits),
        lambda result: fetches.labels(result).inc(),
    )


class Room(NamedTuple):
    """Routes, and what runs beside requests."""

    catalogue: Catalogue
    predict: Predict
    protocol: Protocol
    warm: list[str]
    refresh: float

    def add_to(self, app: FastAPI) -> None:
        """Register the routes."""
        add_routes(app, self.predict, self.protocol)

    def fast_routes(self) -> Mapping[tuple[str, str], FastRoute]:
        """Those that bypass the layers of the framework."""
        return {("POST", NAMED): by_path(self.predict)}

    def run(self) -> Awaitable[None]:
        """Keep models warm, until it is cancelled."""
        return self.catalogue.keep_warm(self.warm, self.refresh)


def make_room(
    settings: Settings,
    catalogue: Catalogue,
    predict: Predict,
    predictor: Predictor,
    uploads: Uploads,
    serving: Serving,
) -> Room:
    """Make it from the parts of the service."""
    protocol = Protocol(catalogue, predictor, uploads, serving, settings.max_pixels)
    return Room(catalogue, predict, protocol, settings.warm, settings.refresh)
