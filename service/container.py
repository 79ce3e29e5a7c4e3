"""All wiring, on one screen. Tests override providers; nothing is made at import."""

import os
from pathlib import Path

from dependency_injector import containers, providers

from service.auth.roles import Guard
from service.auth.tokens import TokenVerifier
from service.feedback.accuracy import Board, FeedbackCounts, LiveMetrics
from service.feedback.importer import Bounds, Keeper
from service.feedback.journal import FOLDER, Spool
from service.feedback.recorder import NoRecorder, Recorder, SpoolRecorder
from service.feedback.service import Answers
from service.http.predict import Limits, Predict, Uploads
from service.http.routes import Parts
from service.inference.model import Serving
from service.inference.queue import Turns
from service.registry.client import Registry
from service.settings import OFF, Settings, read_settings
from service.swap.cache import BundleCache
from service.swap.configmap import ConfigMapStore
from service.swap.desired import FileStore
from service.swap.loader import Loader
from service.swap.reconciler import Follower
from service.swap.swapper import Swapper
from service.swap.workers import Replica
from service.telemetry.exposition import Drift, Exposition, Judgement, Totals
from service.telemetry.logs import AccessLog
from service.telemetry.metrics import Metrics
from service.telemetry.observations import Observations
from service.telemetry.processes import Processes
from service.telemetry.tracing import Tracing


def _store(settings: Settings) -> FileStore | ConfigMapStore:
    if not settings.configmap:
        return FileStore(settings.state / "wanted.json")
    namespace, name = settings.configmap.split("/")
    api = settings.kubernetes_api or _cluster_api()
    key = settings.release
    return ConfigMapStore(api, namespace, name, settings.kubernetes_credentials, key=key)


def _cluster_api() -> str:
    """What Kubernetes tells every pod."""
    host = os.environ.get("KUBERNETES_SERVICE_HOST", "kubernetes.default.svc")
    port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    return f"https://{f'[{host}]' if ':' in host else host}:{port}"


def _cache(settings: Settings) -> BundleCache:
    return BundleCache(settings.state / "bundles")


def _guard(settings: Settings) -> Guard:
    tokens = None
    if settings.jwt_issuer:
        tokens = TokenVerifier(
            settings.jwt_issuer,
            settings.jwt_audience,
            settings.jwt_jwks,
            settings.jwt_claims,
            settings.jwt_roles,
        )
    return Guard(settings.api_keys, settings.roles_open_to_everybody(), tokens)


def _limits(settings: Settings) -> Limits:
    return Limits(
        settings.max_upload, settings.max_pixels, settings.upload_timeout, settings.upload_memory
    )


def _recorder(settings: Settings, spool: Spool, counts: FeedbackCounts) -> Recorder:
    if settings.feedback.get_secret_value() == OFF:
        return NoRecorder()
    return SpoolRecorder(spool, counts.unrecorded, settings.keep_images > 0, settings.keep_below)


def _answers(settings: Settings, spool: Spool, counts: FeedbackCounts) -> Answers | None:
    if (url := settings.feedback.get_secret_value()) == OFF:
        return None
    return Answers(url, settings.state, spool.folder, settings.keep_below, counts)


def _keeper(
    settings: Settings,
    spool: Spool,
    recorder: Recorder,
    answers: Answers | None,
    board: Board,
    counts: FeedbackCounts,
) -> Keeper | None:
    if answers is None or not isinstance(recorder, SpoolRecorder):
        return None
    bounds = Bounds(settings.feedback_days, settings.feedback_rows, settings.keep_images << 20)
    return Keeper(spool, recorder, answers, board, counts, bounds)


def _spool_folder(settings: Settings) -> Path:
    return settings.state / FOLDER


class Container(containers.DeclarativeContainer):
    """One of each, made when first asked for."""

    settings = providers.Singleton(read_settings)
    tracing = providers.Singleton(Tracing)
    metrics = providers.Singleton(Metrics)
    serving = providers.Singleton(Serving)
    access_log = providers.Singleton(AccessLog)
    guard = providers.Singleton(_guard, settings)
    store: providers.Provider[FileStore | ConfigMapStore] = providers.Singleton(_store, settings)
    replica = providers.Singleton(Replica, settings.provided.state)
    cache = providers.Singleton(_cache, settings)
    registry = providers.Singleton(
        Registry,
        settings.provided.repository,
        settings.provided.state,
        settings.provided.refresh,
        settings.provided.fetch_timeout,
    )
    loader = providers.Singleton(
        Loader, registry, cache, settings.provided.bundle, settings.provided.tag
    )
    swapper = providers.Singleton(Swapper, serving, loader, store, replica, cache, metrics, tracing)
    follower = providers.Singleton(
        Follower, swapper, serving, loader, store, replica, metrics, tracing
    )
    turns = providers.Singleton(Turns, settings.provided.queue)
    uploads = providers.Singleton(Uploads, providers.Callable(_limits, settings))
    observations = providers.Singleton(Observations, serving, settings.provided.drift_window)
    spool_folder = providers.Callable(_spool_folder, settings)
    spool = providers.Singleton(Spool, spool_folder)
    feedback_counts = providers.Singleton(FeedbackCounts, metrics.provided.registry)
    board = providers.Singleton(Board, spool_folder)
    recorder = providers.Singleton(_recorder, settings, spool, feedback_counts)
    answers = providers.Singleton(_answers, settings, spool, feedback_counts)
    keeper = providers.Singleton(
        _keeper, settings, spool, recorder, answers, board, feedback_counts
    )
    predict = providers.Singleton(
        Predict, serving, uploads, turns, metrics, tracing, observations, recorder
    )
    judgement = providers.Factory(
        Judgement, settings.provided.drift_samples, settings.provided.drift_floor
    )
    exposition = providers.Singleton(
        Exposition,
        observations,
        metrics,
        providers.List(
            providers.Factory(Totals, observations),
            providers.Factory(Drift, observations, serving, judgement),
            providers.Factory(Processes, replica.provided.processes),
            providers.Factory(LiveMetrics, board, serving),
        ),
    )
    parts = providers.Singleton(
        Parts,
        serving=serving,
        uploads=uploads,
        predict=predict,
        registry=registry,
        replica=replica,
        store=store,
        swapper=swapper,
        answers=answers,
        max_pixels=settings.provided.max_pixels,
    )
