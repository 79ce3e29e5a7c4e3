"""Reconciles a worker with the desired model: at its start and after each change.

Every worker of every replica reads the desired model twice a second. If it cannot be loaded, the
current one keeps serving; the failure is counted, logged, shown in `/version`, and retried.
"""

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass

from service.errors import BundleRefused, Conflict, NotFound, ServiceError
from service.inference.bundle import Bundle
from service.inference.model import Model, Serving
from service.swap.desired import DesiredModel, DesiredStore
from service.swap.loader import ModelLoader
from service.swap.progress import ProgressTracker
from service.swap.swapper import Swapper
from service.swap.workers import WorkerRegistry
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Tracing

LONGEST_PAUSE = 30.0  # seconds between two tries
POLL = 0.1  # seconds between two attempts while another worker fetches the same model
log = logging.getLogger("service.swap.reconciler")


@dataclass(eq=False)
class Reconciler:
    """Reconciles one worker."""

    _swapper: Swapper
    _serving: Serving
    _loader: ModelLoader
    _store: DesiredStore
    _workers: WorkerRegistry
    _metrics: Metrics
    _tracing: Tracing
    _retry_at: float = 0.0
    _failures: int = 0
    _tried: DesiredModel | None = None
    _unreadable: str | None = None

    async def load_first_model(self) -> None:
        """Load the desired model, or else the last one that served here, or else the local one.

        If none can be loaded, the worker is not ready and keeps trying; nothing is raised.
        """
        desired = await self._read_desired()
        last = self._workers.last_served()
        name = self._loader.local_tag
        local = (name, last[1] if last is not None and last[0] == name else "")
        first = (desired.tag, desired.sha256) if desired else local
        if self._unreadable and last is not None:
            first = last  # an unavailable store must not change the model
        for tag, sha256 in dict.fromkeys((first, last or local, local)):
            try:
                model = await self._obtain_in_turn(tag, sha256, (tag, sha256) == first)
            except ServiceError as error:
                log.warning(
                    "cannot load a model at start", extra={"tag": tag, "detail": error.detail}
                )
            except Exception:  # a bug with one model must not exclude the others
                log.exception("cannot load a model at start", extra={"tag": tag})
            else:
                self._swapper.switch(model)
                break
        self._compare(desired)

    async def reconcile_periodically(self, interval: float) -> None:
        """Load a model, then reconcile until cancelled; `interval` in seconds."""
        await self.load_first_model()
        while True:
            await asyncio.sleep(interval)
            try:
                await self.reconcile()
            except Exception:  # a bug must not end the loop; the log shows it
                log.exception("reconciliation failed")

    async def reconcile(self) -> None:
        """Read the desired model once, and switch to it if another one serves."""
        desired = await self._read_desired()
        if self._compare(desired):
            return
        if desired != self._tried:  # failures of another model do not count
            self._tried, self._failures, self._retry_at = desired, 0, 0.0
        if time.monotonic() < self._retry_at:
            return
        tag, sha256 = (desired.tag, desired.sha256) if desired else (self._loader.local_tag, "")
        before = self._serving.current
        try:
            model = await self._obtain(tag, sha256)
        except Conflict:
            return  # another worker fetches it into the cache
        except Exception as error:
            self._fail(tag, error)
            return
        self._failures, self._retry_at = 0, 0.0
        if self._serving.current is not before:
            return  # a swap in this worker was faster
        self._swapper.switch(model)
        self._metrics.swaps.labels("done", "follow").inc()
        self._compare(desired)

    def _fail(self, tag: str, error: Exception) -> None:
        self._failures = min(self._failures + 1, 16)
        pause = min(LONGEST_PAUSE, 2.0**self._failures)
        self._retry_at = time.monotonic() + pause
        known = isinstance(error, ServiceError)
        self._metrics.swaps.labels("failed", getattr(error, "step", None) or "follow").inc()
        extra = {"tag": tag, "detail": str(error), "again_in": pause}
        log.warning("cannot load the desired model", extra=extra, exc_info=None if known else error)

    async def _read_desired(self) -> DesiredModel | None:
        """Read the store; None, and a sentence in `_unreadable`, if it cannot be read."""
        before, self._unreadable, desired = self._unreadable, None, None
        try:
            desired = await self._store.read()
        except ServiceError as error:
            self._unreadable = error.detail
        if self._unreadable != before:  # log it once, not twice a second
            verb = "cannot read" if self._unreadable else "can again read"
            log.warning(f"{verb} the desired model", extra={"detail": self._unreadable})
        return desired

    def _compare(self, desired: DesiredModel | None) -> bool:
        """Return whether the desired model serves. Without a desired model, any is right."""
        current = self._serving.current
        if self._unreadable and current is not None:
            return True  # unknown; the metric stays as it was
        right = current is not None and (
            desired is None
            or (current.tag, current.sha256) == (desired.tag, desired.sha256)
            or current.tag == desired.tag == self._loader.local_tag
        )
        self._metrics.mismatch.set(0 if right else 1)
        return right

    async def _obtain_in_turn(self, tag: str, sha256: str, fetch: bool) -> Model:
        """Load a model, and wait for a worker that is fetching it."""
        while True:
            try:
                return await self._obtain(tag, sha256, fetch)
            except Conflict:
                await asyncio.sleep(POLL)

    async def _obtain(self, tag: str, sha256: str, fetch: bool = True) -> Model:
        previous = self._serving.previous
        if previous is not None and (previous.tag, previous.sha256) == (tag, sha256):
            return previous
        progress = ProgressTracker(tag, self._tracing)
        try:
            if tag == self._loader.local_tag and self._serving.current is None:
                bundle = await self._local(sha256)
            else:
                bundle = await self._find(tag, sha256, fetch, progress)
            return await self._loader.load_model(tag, bundle, progress)
        except ServiceError as error:
            error.step = error.step or progress.current
            raise

    async def _find(self, tag: str, sha256: str, fetch: bool, progress: ProgressTracker) -> Bundle:
        try:
            return await self._loader.read_cached(sha256)
        except (NotFound, BundleRefused):
            if not fetch:
                raise
        with self._workers.lock("fetch"):  # one worker fetches, the others wait
            return await self._loader.find_bundle(tag, sha256, progress)

    async def _local(self, sha256: str) -> Bundle:
        """Read the local bundle; after a crash, the bundle that the other workers serve.

        If the local bundle may not serve, read its predecessor from the cache.
        """
        if beside := self._workers.sha256_of(self._loader.local_tag):
            with suppress(NotFound, BundleRefused):
                return await self._loader.read_cached(beside)
        try:
            return await self._loader.read_local()
        except BundleRefused:
            if not sha256:
                raise
            return await self._loader.read_cached(sha256)
