"""Makes a worker serve what is wanted: at its start, and whenever that changes.

Every worker of every replica looks at the wanted tag twice a second. What can not be had leaves
the old model serving, is counted, logged and shown in `/version`, and is tried again.
"""

import asyncio
import logging
import time
from contextlib import suppress

from service.errors import BundleRefused, Conflict, NotFound, ServiceError
from service.inference.bundle import Bundle
from service.inference.model import Model, Serving
from service.swap.desired import Wanted, WantedStore
from service.swap.loader import Loader, Steps
from service.swap.swapper import Swapper
from service.swap.workers import Replica
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Tracing

LONGEST_PAUSE = 30.0  # seconds between two tries
TURN = 0.1  # seconds between two looks whether another worker has fetched what both want
log = logging.getLogger("service.swap.reconciler")


class Follower:
    """One a worker."""

    def __init__(
        self,
        swapper: Swapper,
        serving: Serving,
        loader: Loader,
        store: WantedStore,
        replica: Replica,
        metrics: Metrics,
        tracing: Tracing,
    ) -> None:
        """Take the parts; see container.py."""
        self._swapper = swapper
        self._serving = serving
        self._loader = loader
        self._store = store
        self._replica = replica
        self._metrics = metrics
        self._tracing = tracing
        self._retry_at = 0.0
        self._failures = 0
        self._tried: Wanted | None = None
        self._unreadable: str | None = None

    async def start(self) -> None:
        """Load the wanted model, or else the last one that served here, or else the local one.

        Nothing is raised when none can be had: the worker is not ready, and goes on trying.
        """
        wanted = await self._wanted()
        last = self._replica.last_served()
        name = self._loader.local_tag
        local = (name, last[1] if last is not None and last[0] == name else "")
        first = (wanted.tag, wanted.sha256) if wanted else local
        if self._unreadable and last is not None:
            first = last  # better than to change the model because of a store that is away
        for tag, sha256 in dict.fromkeys((first, last or local, local)):
            try:
                model = await self._bring_in_turn(tag, sha256, (tag, sha256) == first)
            except ServiceError as error:
                log.warning("can not be served", extra={"tag": tag, "detail": error.detail})
            except Exception:  # a bug in one way must not close the others
                log.exception("can not be served", extra={"tag": tag})
            else:
                self._swapper.switch(model)
                break
        self._compare(wanted)

    async def run(self, interval: float) -> None:
        """Load a model, then follow until cancelled; `interval` in seconds."""
        await self.start()
        while True:
            await asyncio.sleep(interval)
            try:
                await self.look()
            except Exception:  # a bug must not end the following, and shows in the log
                log.exception("could not follow")

    async def look(self) -> None:
        """Look once, and change the model when another one is wanted."""
        wanted = await self._wanted()
        if self._compare(wanted):
            return
        if wanted != self._tried:  # what failed before says nothing about another model
            self._tried, self._failures, self._retry_at = wanted, 0, 0.0
        if time.monotonic() < self._retry_at:
            return
        tag, sha256 = (wanted.tag, wanted.sha256) if wanted else (self._loader.local_tag, "")
        before = self._serving.current
        try:
            model = await self._bring(tag, sha256)
        except Conflict:
            return  # another worker fetches it; it is in the cache next time
        except Exception as error:
            self._fail(tag, error)
            return
        self._failures, self._retry_at = 0, 0.0
        if self._serving.current is not before:
            return  # a swap in this worker was faster, and knows better
        self._swapper.switch(model)
        self._metrics.swaps.labels("done", "follow").inc()
        self._compare(wanted)

    def _fail(self, tag: str, error: Exception) -> None:
        self._failures = min(self._failures + 1, 16)
        pause = min(LONGEST_PAUSE, 2.0**self._failures)
        self._retry_at = time.monotonic() + pause
        known = isinstance(error, ServiceError)
        self._metrics.swaps.labels("failed", getattr(error, "step", None) or "follow").inc()
        extra = {"tag": tag, "detail": str(error), "again_in": pause}
        log.warning("can not follow", extra=extra, exc_info=None if known else error)

    async def _wanted(self) -> Wanted | None:
        """What is wanted; None, and a sentence in `_unreadable`, when the store does not say."""
        said, self._unreadable, wanted = self._unreadable, None, None
        try:
            wanted = await self._store.read()
        except ServiceError as error:
            self._unreadable = error.detail
        if self._unreadable != said:  # once, not twice a second
            what = "can not be read" if self._unreadable else "can be read again"
            log.warning(f"the wanted tag {what}", extra={"detail": self._unreadable})
        return wanted

    def _compare(self, wanted: Wanted | None) -> bool:
        """Whether what serves is what is wanted. With nothing wanted, anything is right."""
        current = self._serving.current
        if self._unreadable and current is not None:
            return True  # nobody knows better; the metric stays as it was
        right = current is not None and (
            wanted is None
            or (current.tag, current.sha256) == (wanted.tag, wanted.sha256)
            or current.tag == wanted.tag == self._loader.local_tag
        )
        self._metrics.mismatch.set(0 if right else 1)
        return right

    async def _bring_in_turn(self, tag: str, sha256: str, fetch: bool) -> Model:
        """Bring a model, and wait for a worker that is fetching it."""
        while True:
            try:
                return await self._bring(tag, sha256, fetch)
            except Conflict:
                await asyncio.sleep(TURN)

    async def _bring(self, tag: str, sha256: str, fetch: bool = True) -> Model:
        previous = self._serving.previous
        if previous is not None and (previous.tag, previous.sha256) == (tag, sha256):
            return previous
        steps = Steps(tag, self._tracing)
        try:
            if tag == self._loader.local_tag and self._serving.current is None:
                bundle = await self._local(sha256)
            else:
                bundle = await self._find(tag, sha256, fetch, steps)
            return await self._loader.load(tag, bundle, steps)
        except ServiceError as error:
            error.step = error.step or steps.current
            raise

    async def _find(self, tag: str, sha256: str, fetch: bool, steps: Steps) -> Bundle:
        try:
            return await self._loader.cached(sha256)
        except (NotFound, BundleRefused):
            if not fetch:
                raise
        with self._replica.swapping("fetch"):  # one worker does, the others wait
            return await self._loader.find(tag, sha256, steps)

    async def _local(self, sha256: str) -> Bundle:
        """What the folder holds; after a crash what the other workers have, whatever is there now.

        When the folder has nothing that may serve: what it held when it last served.
        """
        if beside := self._replica.beside(self._loader.local_tag):
            with suppress(NotFound, BundleRefused):
                return await self._loader.cached(beside)
        try:
            return await self._loader.local()
        except BundleRefused:
            if not sha256:
                raise
            return await self._loader.cached(sha256)
