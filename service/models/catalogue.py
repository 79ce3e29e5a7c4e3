"""The models that are loaded beside the one that serves, for requests that name them.

    reference -> version (the listing of the registry) -> loaded? -> on the disk? -> DVC remote

Each step is taken once however many ask: within a worker they wait for one task, among the workers
of a replica one holds the lock of a fetch. What is loaded stays within a number of bytes and of
models: those that nobody has asked for longest go first, the warm ones and those in flight never.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from contracts.tags import Assignment, match_tag
from service.errors import (
    INTERNAL,
    BeingFetched,
    BundleRefused,
    Forbidden,
    NotFound,
    Overloaded,
    ServiceError,
    StorageFull,
    Unavailable,
)
from service.files import StillLocked, locked
from service.inference.bundle import Bundle
from service.inference.model import Model, Serving
from service.models.reference import Named, check_reference
from service.registry.client import RegistryClient
from service.schemas import Experiment
from service.swap.cache import BundleCache, disk_errors
from service.swap.loader import ModelLoader
from service.swap.progress import ProgressTracker
from service.swap.workers import WorkerRegistry
from service.telemetry.tracing import Tracing

FETCHES = 4  # at once, of all workers; each is a process that imports DVC
WAITING = 32  # models that may be on their way in a worker
POLL = 0.1  # seconds between two looks at the lock of a fetch
FAILED = 5.0  # seconds in which a failure is answered again instead of tried again
FROM_DISK = 10.0  # seconds that a request waits for a model that only has to be loaded
log = logging.getLogger("service.models")


class Limits(NamedTuple):
    """What requests may take of this server."""

    names: Sequence[str]
    """Patterns of the tags that may be fetched."""
    memory: int
    """Bytes of the graphs that a worker keeps loaded."""
    most: int
    """Models that a worker keeps loaded."""
    wait: float
    """Longest wait of a request, seconds."""


class Key(NamedTuple):
    """A version, and the bundle that its commit had when it was asked for."""

    tag: str
    digest: str


class Loaded(NamedTuple):
    """A model in memory."""

    model: Model
    size: int
    """Bytes of its graph: the weights are nearly all that a model needs."""


@dataclass(eq=False)
class Catalogue:
    """Resolves references to loaded models. Belongs to one event loop."""

    _registry: RegistryClient
    _loader: ModelLoader
    _cache: BundleCache
    _serving: Serving
    _workers: WorkerRegistry
    _tracing: Tracing
    _folder: Path  # of the locks
    _limits: Limits
    _count: Callable[[str], None]  # a fetch, by its result
    _loaded: OrderedDict[Key, Loaded] = field(default_factory=OrderedDict)  # the last used last
    _tasks: dict[Key, asyncio.Task[Model]] = field(default_factory=dict)
    _failed: dict[Key, tuple[float, ServiceError]] = field(default_factory=dict)
    _warm: frozenset[Key] = frozenset()
    _listed: tuple[object, Named] = (None, Named(()))
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def resolve(self, reference: str, wait: float = 0.0) -> Model:
        """Return the loaded model of a reference; fetch it, and wait at most so many seconds.

        Raises:
            Unprocessable, NotFound, Forbidden: there is none, or requests may not have it.
            BeingFetched: it takes longer.
            ServiceError: it cannot be fetched, or must not serve.
        """
        found = await self.find(reference)
        if isinstance(found, Model):
            return found
        key = self.key(found)
        if (loaded := self._loaded.get(key)) is not None:
            self._loaded.move_to_end(key)
            return loaded.model
        task = self._tasks.get(key) or self._start(key)
        longest = min(wait, self._limits.wait)
        if self._cache.find(key.digest):
            longest = max(longest, FROM_DISK)
        done, _ = await asyncio.wait({task}, timeout=longest)
        if not done:
            raise BeingFetched(
                f"model: {key.tag} is being fetched: try again, or wait for it with ?wait=30"
            )
        return self._result(task)

    async def find(self, reference: str) -> Model | Experiment:
        """Find what a reference names: the model that serves, or an entry of the registry.

        Raises:
            Unprocessable, NotFound, Forbidden, RegistryUnavailable: as above.
        """
        check_reference(reference)
        alias = isinstance(match_tag(reference), Assignment)  # it may have moved since
        for model in (self._serving.current, self._serving.previous):
            if model is not None and not alias and reference == model.tag:
                return model
        current = self._serving.current
        if current is not None and reference in names_of(current):
            return current
        item = (await self.listing()).find(reference)
        if not any(fnmatchcase(item.tag, pattern) for pattern in self._limits.names):
            raise Forbidden(
                f"model: requests may not load {item.tag} here: SERVICE_MODELS of this service "
                f"admits {', '.join(self._limits.names) or 'nothing'}"
            )
        for model in (current, self._serving.previous):
            if model is not None and item.tag == model.tag:
                return model
        return item

    async def listing(self) -> Named:
        """Return the models of the registry, as it was looked at a second ago at most.

        Raises:
            RegistryUnavailable: Git cannot be read, and never could.
        """
        experiments = (await self._registry.experiments()).experiments
        if self._listed[0] is not experiments:
            self._listed = experiments, Named(experiments)
        return self._listed[1]

    def is_here(self, found: Model | Experiment) -> bool:
        """Whether a request for it would be answered at once, or after a moment of loading."""
        if isinstance(found, Model) or self.key(found) in self._loaded:
            return True
        return self._cache.find(found.bundle_digest) is not None

    def key(self, item: Experiment) -> Key:
        """Return what identifies a model. Raises NotFound for a commit without one."""
        if item.bundle_digest is None:
            raise NotFound(f"model: {item.tag} is a commit without a model: {item.problem}")
        return Key(item.tag, item.bundle_digest)

    async def keep_warm(self, references: Sequence[str], pause: float) -> None:
        """Load models before anybody asks, and follow their stages, until cancelled."""
        said: dict[str, str] = {}
        try:
            while True:
                warm = set()
                for reference in references:
                    try:
                        found = await self.find(reference)
                        if not isinstance(found, Model):
                            warm.add(self.key(found))
                            self._warm |= warm
                            await self._result_of(self.key(found))
                        said.pop(reference, None)
                    except ServiceError as error:
                        if said.get(reference) != error.detail:  # once, not each time
                            extra = {"model": reference, "detail": error.detail}
                            log.warning("a model is not kept warm", extra=extra)
                        said[reference] = error.detail
                self._warm = frozenset(warm)
                await asyncio.sleep(pause)
        finally:
            for task in self._tasks.values():
                task.cancel()

    async def _result_of(self, key: Key) -> None:
        if key not in self._loaded:
            task = self._tasks.get(key) or self._start(key)
            await asyncio.wait({task})
            self._result(task)

    def _start(self, key: Key) -> asyncio.Task[Model]:
        moment, error = self._failed.get(key, (0.0, None))
        if error is not None and time.monotonic() - moment < FAILED:
            raise again(error)
        if len(self._tasks) >= WAITING:
            raise Overloaded(f"{WAITING} models are being fetched: try again in a while")
        task = asyncio.create_task(self._obtain(key))
        self._tasks[key] = task
        task.add_done_callback(lambda done: self._end(key, done))
        return task

    def _end(self, key: Key, task: asyncio.Task[Model]) -> None:
        """Forget a task; remember how it failed."""
        del self._tasks[key]
        if task.cancelled() or (error := task.exception()) is None:
            return
        if not isinstance(error, ServiceError):
            log.error("loading a model failed", extra={"tag": key.tag}, exc_info=error)
            error = ServiceError(INTERNAL)
        else:
            log.warning("model not loaded", extra={"tag": key.tag, "detail": error.detail})
        now = time.monotonic()
        recent = {it: kept for it, kept in self._failed.items() if now - kept[0] < FAILED}
        self._failed = recent | {key: (now, again(error))}

    def _result(self, task: asyncio.Task[Model]) -> Model:
        if task.cancelled():
            raise BeingFetched("this worker is stopping: try again")
        if (error := task.exception()) is None:
            return task.result()
        raise again(error) if isinstance(error, ServiceError) else ServiceError(INTERNAL)

    async def _obtain(self, key: Key) -> Model:
        progress = ProgressTracker(key.tag, self._tracing)
        try:
            for _ in range(2):  # one that was altered on the disk is deleted there
                await self._fetch(key, progress)
                async with self._one_at_a_time:  # of graphs in memory, and of cores
                    try:
                        bundle = await self._loader.read_cached(self._cache.find(key.digest) or "")
                    except (NotFound, BundleRefused):
                        continue
                    return await self._load(key, bundle, progress)
            raise Unavailable(f"model: the disk keeps no bundle of {key.tag}: try again")
        except ServiceError as error:
            error.step = error.step or progress.current
            raise

    async def _fetch(self, key: Key, progress: ProgressTracker) -> None:
        """Bring a bundle to the disk; one process does."""
        if self._cache.find(key.digest):
            return
        async with self._turn(key):
            if self._cache.find(key.digest):
                return
            try:
                bundle = await self._loader.fetch_bundle(key.tag, progress)
            except ServiceError as error:
                self._count(type(error).__name__)
                raise
            self._count("done")
            serving = (self._serving.current, self._serving.previous)
            in_use = {model.sha256 for model in serving if model is not None}
            await asyncio.to_thread(self._cache.prune, in_use | {bundle.manifest.sha256})
            if self._cache.find(key.digest) != bundle.manifest.sha256:
                raise Unavailable(f"model: {key.tag} was moved meanwhile: try again")

    async def _load(self, key: Key, bundle: Bundle, progress: ProgressTracker) -> Model:
        size = len(bundle.graph)
        self._make_room(key, size)
        model = await self._loader.load_model(key.tag, bundle, progress)
        self._loaded[key] = Loaded(model, size)
        self._publish()
        return model

    @asynccontextmanager
    async def _turn(self, key: Key) -> AsyncIterator[None]:
        """Hold one of the locks for fetches, always the same one for a bundle."""
        path = self._folder / f"fetch-{int(key.digest[:8], 16) % FETCHES}.lock"
        with ExitStack() as stack:
            while True:
                try:
                    with disk_errors():
                        stack.enter_context(locked(path))
                    break
                except StillLocked:
                    await asyncio.sleep(POLL)
            yield

    def _make_room(self, key: Key, size: int) -> None:
        """Unload models until so many bytes fit.

        Raises:
            StorageFull: they never do.
            Overloaded: they do not now.
        """
        limits = self._limits
        if size > limits.memory:
            raise StorageFull(
                f"model: {key.tag} has {size >> 20} MiB, and models by name may have "
                f"{limits.memory >> 20} MiB here: raise SERVICE_MODELS_MEMORY"
            )
        held, count = sum(item.size for item in self._loaded.values()), len(self._loaded)
        leaving = []
        for other, item in self._loaded.items():
            if held + size <= limits.memory and count < limits.most:
                break
            if item.model.in_flight == 0 and other not in self._warm:
                leaving.append(other)
                held, count = held - item.size, count - 1
        if held + size > limits.memory or count >= limits.most:
            raise Overloaded(
                f"model: there is no room for {key.tag} beside those that are in use or kept warm: "
                "try again, or raise SERVICE_MODELS_MEMORY or SERVICE_MODELS_MOST"
            )
        for other in leaving:
            del self._loaded[other]
        self._publish()

    def _publish(self) -> None:
        """Tell the counters of predictions and the other workers what is loaded."""
        self._serving.beside = tuple(item.model for item in self._loaded.values())
        self._workers.write_loaded([key.tag for key in self._loaded])


def names_of(model: Model) -> set[str]:
    """The names by which a model is the default: that of its bundle, and that of its tag."""
    return {model.manifest.name} | ({model.tag.partition("@")[0]} if "@" in model.tag else set())


def again(error: ServiceError) -> ServiceError:
    """Copy an error: one that is raised for every caller would collect all of their frames."""
    return type(error)(error.detail, error.step)
