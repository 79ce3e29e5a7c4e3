"""All wiring, on one screen. Tests override providers; nothing is made at import."""

import os
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dependency_injector import containers, providers

from service.auth.keys import KeyFile
from service.auth.roles import Guard
from service.auth.tokens import TokenVerifier
from service.feedback.accuracy import AccuracyCollector, AccuracyFile, FeedbackCounters
from service.feedback.importer import FeedbackImporter, RetentionLimits
from service.feedback.journal import FOLDER, Journal
from service.feedback.recorder import JournalRecorder, NoRecorder, Recorder
from service.feedback.service import FeedbackService
from service.http.body import Uploads
from service.http.experiments import ExperimentList
from service.http.predict import Predict
from service.http.routes import Parts
from service.inference.memory import ImageMemory
from service.inference.model import Serving
from service.inference.queue import InferenceQueue
from service.prediction import ModelCatalogue, Predictor, Router
from service.registry.client import RegistryClient
from service.secrets import FEEDBACK, KEYS, MountedSecrets
from service.settings import OFF, Settings, read_settings
from service.swap.cache import BundleCache
from service.swap.configmap import ConfigMapStore
from service.swap.desired import FileStore
from service.swap.loader import ModelLoader
from service.swap.reconciler import Reconciler
from service.swap.swapper import Swapper
from service.swap.workers import WorkerRegistry
from service.telemetry.exposition import DriftCollector, DriftPolicy, Exposition, TotalsCollector
from service.telemetry.logs import AccessLog
from service.telemetry.metrics import Metrics
from service.telemetry.observations import Observations
from service.telemetry.processes import ProcessesCollector
from service.telemetry.results import NamedModelsCollector, Results
from service.telemetry.tracing import Tracing


def _store(settings: Settings) -> FileStore | ConfigMapStore:
    if not settings.configmap:
        return FileStore(settings.state / "wanted.json")
    namespace, name = settings.configmap.split("/")
    api = settings.kubernetes_api or _cluster_api()
    key = settings.release
    return ConfigMapStore(api, namespace, name, settings.kubernetes_credentials, key=key)


def _cluster_api() -> str:
    """Return the address of the API that Kubernetes sets in every pod."""
    host = os.environ.get("KUBERNETES_SERVICE_HOST", "kubernetes.default.svc")
    port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    return f"https://{f'[{host}]' if ':' in host else host}:{port}"


def _cache(settings: Settings) -> BundleCache:
    state = settings.state
    return BundleCache(state / "bundles", state / "digests", settings.models_disk << 20)


def _catalogue(*parts: Any) -> ModelCatalogue | None:
    """Models by name; None in a service without that room."""
    if find_spec("service.models") is None:
        return None
    found: ModelCatalogue = import_module("service.models.room").make_catalogue(*parts)
    return found


def _router(settings: Settings, *parts: Any) -> Router | None:
    """Rules of the traffic; None without them."""
    if not settings.routing:
        return None
    found: Router = import_module("service.routing.room").make_router(settings, *parts)
    return found


def _guard(settings: Settings, secrets: MountedSecrets) -> Guard:
    tokens = None
    if settings.jwt_issuer:
        tokens = TokenVerifier(
            settings.jwt_issuer,
            settings.jwt_audience,
            settings.jwt_jwks,
            settings.jwt_claims,
            settings.jwt_roles,
        )
    path = secrets.place(KEYS)
    current = KeyFile(path, settings.api_keys) if path else None
    return Guard(settings.api_keys, settings.roles_open_to_everybody(), tokens, current)


def _recorder(settings: Settings, journal: Journal, counts: FeedbackCounters) -> Recorder:
    if settings.feedback.get_secret_value() == OFF:
        return NoRecorder()
    return JournalRecorder(
        journal, counts.count_unrecorded, settings.keep_images > 0, settings.keep_below
    )


def _answers(
    settings: Settings, secrets: MountedSecrets, journal: Journal, counts: FeedbackCounters
) -> FeedbackService | None:
    if (url := settings.feedback.get_secret_value()) == OFF:
        return None

    last = [url]

    def current() -> str:
        with suppress(OSError, ValueError):
            last[0] = secrets.read(FEEDBACK) or last[0]
        return last[0]

    state, keep_below = settings.state, settings.keep_below
    return FeedbackService(url, state, journal.folder, keep_below, counts, current)


def _feedback_importer(
    settings: Settings,
    journal: Journal,
    recorder: Recorder,
    answers: FeedbackService | None,
    accuracy_file: AccuracyFile,
    counts: FeedbackCounters,
) -> FeedbackImporter | None:
    if answers is None or not isinstance(recorder, JournalRecorder):
        return None
    bounds = RetentionLimits(
        settings.feedback_days, settings.feedback_rows, settings.keep_images << 20
    )
    return FeedbackImporter(journal, recorder, answers, accuracy_file, counts, bounds)


def _journal_folder(settings: Settings) -> Path:
    return settings.state / FOLDER


class Container(containers.DeclarativeContainer):
    """Providers of all objects, each created at first use."""

    settings = providers.Singleton(read_settings)
    secrets = providers.Singleton(MountedSecrets, settings.provided.secrets)
    tracing = providers.Singleton(Tracing)
    metrics = providers.Singleton(Metrics)
    serving = providers.Singleton(Serving)
    access_log = providers.Singleton(AccessLog)
    guard = providers.Singleton(_guard, settings, secrets)
    desired: providers.Provider[FileStore | ConfigMapStore] = providers.Singleton(_store, settings)
    workers = providers.Singleton(WorkerRegistry, settings.provided.state)
    cache = providers.Singleton(_cache, settings)
    registry = providers.Singleton(
        RegistryClient,
        settings.provided.repository,
        settings.provided.state,
        settings.provided.refresh,
        settings.provided.fetch_timeout,
        secrets,
    )
    loader = providers.Singleton(
        ModelLoader,
        registry,
        cache,
        settings.provided.bundle,
        settings.provided.tag,
        settings.provided.device,
    )
    swapper = providers.Singleton(
        Swapper, serving, loader, desired, workers, cache, metrics, tracing
    )
    reconciler = providers.Singleton(
        Reconciler, swapper, serving, loader, desired, workers, metrics, tracing
    )
    queue = providers.Singleton(InferenceQueue, settings.provided.queue)
    memory = providers.Singleton(ImageMemory, settings.provided.upload_memory)
    uploads = providers.Singleton(
        Uploads, settings.provided.max_upload, settings.provided.upload_timeout, memory
    )
    observations = providers.Singleton(Observations, serving, settings.provided.drift_window)
    journal_folder = providers.Callable(_journal_folder, settings)
    journal = providers.Singleton(Journal, journal_folder)
    feedback_counters = providers.Singleton(FeedbackCounters, metrics.provided.registry)
    accuracy_file = providers.Singleton(AccuracyFile, journal_folder)
    recorder = providers.Singleton(_recorder, settings, journal, feedback_counters)
    answers = providers.Singleton(_answers, settings, secrets, journal, feedback_counters)
    feedback_importer = providers.Singleton(
        _feedback_importer, settings, journal, recorder, answers, accuracy_file, feedback_counters
    )
    predictor = providers.Singleton(
        Predictor,
        serving,
        queue,
        memory,
        settings.provided.max_pixels,
        metrics,
        tracing,
        observations,
        recorder,
    )
    catalogue: providers.Provider[ModelCatalogue | None] = providers.Singleton(
        _catalogue, settings, registry, loader, cache, serving, workers, metrics, tracing
    )
    router: providers.Provider[Router | None] = providers.Singleton(
        *(_router, settings, catalogue, serving, queue, predictor, recorder, answers, metrics),
    )
    predict = providers.Singleton(
        Predict,
        *(
            uploads,
            predictor,
            metrics,
            memory,
            serving,
            settings.provided.max_pixels,
            catalogue,
            router,
        ),
    )
    drift_policy = providers.Factory(
        DriftPolicy, settings.provided.drift_samples, settings.provided.drift_floor
    )
    results = providers.Singleton(Results, observations, drift_policy)
    exposition = providers.Singleton(
        Exposition,
        observations,
        metrics,
        providers.List(
            providers.Factory(TotalsCollector, observations),
            providers.Factory(DriftCollector, observations, serving, drift_policy),
            providers.Factory(NamedModelsCollector, results, workers.provided.loaded),
            providers.Factory(ProcessesCollector, workers.provided.pids),
            providers.Factory(AccuracyCollector, accuracy_file, serving),
        ),
    )
    experiments = providers.Singleton(
        ExperimentList, registry, serving, workers, cache, results, accuracy_file
    )
    parts = providers.Singleton(
        Parts,
        serving=serving,
        uploads=uploads,
        memory=memory,
        predict=predict,
        experiments=experiments,
        workers=workers,
        desired=desired,
        swapper=swapper,
        answers=answers,
        router=router,
        max_pixels=settings.provided.max_pixels,
    )
