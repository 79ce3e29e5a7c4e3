"""Swaps the model while the service answers.

    lock -> fetch -> verify -> load -> warm-up -> self-test -> write the desired model -> switch

The current model serves until the switch, and goes on serving after a failure; the error names the
failed step. A swap writes the desired model for all replicas, by compare-and-set; every other
worker reconciles with it (reconciler.py).
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from service.errors import BundleRefused, Conflict, ServiceError, Unavailable
from service.inference.bundle import Bundle
from service.inference.model import Model, Serving
from service.schemas import ModelRef, SwapAnswer
from service.swap.cache import BundleCache
from service.swap.desired import CHANGED, DesiredModel, DesiredStore
from service.swap.loader import ModelLoader
from service.swap.progress import ProgressTracker
from service.swap.workers import WorkerRegistry
from service.tags import parse_tag
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Tracing

SETTLE = 10.0  # seconds that a swap waits for the other workers, which poll twice a second


@dataclass(eq=False)
class Swapper:
    """Swaps the model: in this worker at once, in others through the desired model."""

    _serving: Serving
    _loader: ModelLoader
    _store: DesiredStore
    _workers: WorkerRegistry
    _cache: BundleCache
    _metrics: Metrics
    _tracing: Tracing

    async def replace(self, tag: str) -> SwapAnswer:
        """Serve the model of a tag.

        Raises:
            ServiceError: with the failed step; the old model continues to serve.
        """
        parse_tag(tag)
        with self._guarded(tag) as progress:
            stored = await self._store.read()
            bundle = await self._loader.fetch_bundle(tag, progress)
            with progress.step("verify"):
                _check_compatible(bundle, self._serving.current)
            model = await self._loader.load_model(tag, bundle, progress)
            return await self._commit(model, stored, progress)

    async def rollback(self) -> SwapAnswer:
        """Serve the previous model; it is still loaded, or else cached.

        Raises:
            Conflict: no model served before.
        """
        with self._guarded("rollback") as progress:
            stored = await self._store.read()
            model = self._serving.previous
            if stored is not None and stored.previous_tag and stored.previous_sha256:
                progress.tag = stored.previous_tag
                label = (stored.previous_tag, stored.previous_sha256)
                if model is None or (model.tag, model.sha256) != label:
                    bundle = await self._loader.find_bundle(*label, progress)
                    model = await self._loader.load_model(label[0], bundle, progress)
            if model is None:
                raise Conflict("there is no model before this one: replace it by tag instead")
            return await self._commit(model, stored, progress)

    async def _commit(
        self, model: Model, stored: DesiredModel | None, progress: ProgressTracker
    ) -> SwapAnswer:
        started = datetime.fromisoformat(progress.started)
        with progress.step("switch"):
            desired = await self._write(model, stored)
            self.switch(model)
            progress.switched = True
            await self._settle(model)
        tag, sha256 = desired.previous_tag, desired.previous_sha256
        return SwapAnswer(
            model=model.info(),
            previous=ModelRef(tag=tag, sha256=sha256) if tag and sha256 else None,
            workers=self._workers.served(),
            seconds=round((datetime.now(UTC) - started).total_seconds(), 3),
        )

    async def _write(self, model: Model, stored: DesiredModel | None) -> DesiredModel:
        """Make it the desired model of all replicas, by compare-and-set against `stored`.

        Raises:
            Conflict: another swap was faster; its model will serve.
        """
        if stored is not None and (stored.tag, stored.sha256) == (model.tag, model.sha256):
            if await self._store.read() != stored:
                raise Conflict(CHANGED)
            return stored
        tag, sha256 = _before(stored, self._serving.current, self._loader.local_tag)
        desired = DesiredModel(
            tag=model.tag,
            sha256=model.sha256,
            previous_tag=tag,
            previous_sha256=sha256,
            version=stored.version + 1 if stored else 1,
            changed=datetime.now(UTC),
        )
        try:
            await self._store.write(desired)
        except Unavailable:  # perhaps only the response was lost
            if not await self._is_stored(desired):
                raise
        return desired

    async def _is_stored(self, desired: DesiredModel) -> bool:
        try:
            return await self._store.read() == desired
        except Unavailable:
            return False

    def switch(self, model: Model) -> None:
        """Serve a model in this worker, from the next chip on."""
        before = self._serving.current
        if before is not None and (before.tag, before.sha256) == (model.tag, model.sha256):
            return
        self._serving.switch(model)
        self._metrics.serves(model, before)
        self._workers.write_model(model)
        self._cache.prune({model.sha256, before.sha256 if before else ""})

    async def _settle(self, model: Model) -> None:
        """Wait until all workers of this replica serve the model: the answer lists them."""
        deadline = time.monotonic() + SETTLE
        while time.monotonic() < deadline:
            found = {(worker.tag, worker.sha256) for worker in self._workers.served()}
            if found <= {(model.tag, model.sha256)}:
                return
            await asyncio.sleep(0.02)

    @contextmanager
    def _guarded(self, tag: str) -> Iterator[ProgressTracker]:
        progress = ProgressTracker(tag, self._tracing, self._workers)
        with self._locked():
            try:
                yield progress
            except ServiceError as error:
                error.step = error.step or progress.current
                self._end(progress, error.detail)
                raise
            except BaseException:  # a cancelled request, or a bug
                self._end(
                    progress, None if progress.switched else "it was stopped before it had ended"
                )
                raise
            self._end(progress, None)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with ExitStack() as stack:
            try:
                stack.enter_context(self._workers.lock())
            except ServiceError as error:
                error.step = "lock"
                self._metrics.swaps.labels("failed", "lock").inc()
                raise
            yield

    def _end(self, progress: ProgressTracker, detail: str | None) -> None:
        self._metrics.swaps.labels("done" if detail is None else "failed", progress.current).inc()
        progress.end(detail)


def _before(
    stored: DesiredModel | None, current: Model | None, local: str
) -> tuple[str | None, str | None]:
    """Return tag and digest for a rollback: those of the desired model, which serves elsewhere.

    With the local bundle the serving model counts: its folder may hold any bundle.
    """
    if stored is not None and not (current is not None and current.tag == stored.tag == local):
        return stored.tag, stored.sha256
    return (current.tag, current.sha256) if current else (None, None)


def _check_compatible(bundle: Bundle, current: Model | None) -> None:
    """Refuse a model that takes other chips than the current one: clients would fail."""
    if current is None:
        return
    old, new = current.manifest.input, bundle.manifest.input
    if (old.shape, old.dtype, old.bands) != (new.shape, new.dtype, new.bands):
        raise BundleRefused(
            f"the model takes {new.dtype} chips {new.shape} of {', '.join(new.bands)}; clients of "
            f"this service send {old.dtype} {old.shape} of {', '.join(old.bands)}: serve it "
            "beside this one, with SERVICE_BUNDLE"
        )
