"""Makes a worker serve what is wanted: at its start, and whenever that changes.

Every worker of every replica looks at the wanted tag twice a second. What can not be had leaves
the old model serving, is counted, logged and shown in `/version`, and is tried again.
"""

import asyncio
import logging
import time

from service.errors import BundleRefused, Conflict, NotFound, ServiceError
from service.loading import Loader, Steps
from service.metrics import Metrics
from service.model import Model, Serving
from service.replica import Replica
from service.state import Wanted, WantedStore
from service.swap import Swapper
from service.tags import LOCAL
from service.tracing import Tracing

LONGEST_PAUSE = 60.0  # seconds between two tries
log = logging.getLogger("service.follow")


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

    async def start(self) -> None:
        """Load the wanted model, or else the last one that served here, or else the local one.

        Nothing is raised when none can be had: the worker is not ready, and goes on trying.
        """
        wanted = await self._wanted()
        choices = [(wanted.tag, wanted.sha256)] if wanted else []
        last = self._replica.last_served()
        if last is not None and wanted is not None:
            choices.append(last)
        choices.append((LOCAL, ""))
        for tag, sha256 in choices:
            try:
                self._swapper.switch(await self._bring(tag, sha256))
            except ServiceError as error:
                log.warning("can not be served", extra={"tag": tag, "detail": error.detail})
            else:
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
        if self._compare(wanted) or time.monotonic() < self._retry_at:
            return
        tag, sha256 = (wanted.tag, wanted.sha256) if wanted else (LOCAL, "")
        try:
            model = await self._bring(tag, sha256)
        except Conflict:
            return  # another worker fetches it; it is in the cache next time
        except ServiceError as error:
            self._failures += 1
            pause = min(LONGEST_PAUSE, 2.0**self._failures)
            self._retry_at = time.monotonic() + pause
            self._metrics.swaps.labels("failed", error.step or "follow").inc()
            log.warning(
                "can not follow", extra={"tag": tag, "detail": error.detail, "again_in": pause}
            )
            return
        self._failures, self._retry_at = 0, 0.0
        self._swapper.switch(model)
        self._metrics.swaps.labels("done", "follow").inc()
        self._compare(wanted)

    async def _wanted(self) -> Wanted | None:
        try:
            return await self._store.read()
        except ServiceError as error:
            log.warning("the wanted tag can not be read", extra={"detail": error.detail})
            return None

    def _compare(self, wanted: Wanted | None) -> bool:
        """Whether what serves is what is wanted. With nothing wanted, anything is right."""
        current = self._serving.current
        right = current is not None and (
            wanted is None
            or (current.tag, current.sha256) == (wanted.tag, wanted.sha256)
            or current.tag == wanted.tag == LOCAL
        )
        self._metrics.mismatch.set(0 if right else 1)
        return right

    async def _bring(self, tag: str, sha256: str) -> Model:
        previous = self._serving.previous
        if previous is not None and (previous.tag, previous.sha256) == (tag, sha256):
            return previous
        steps = Steps(tag, self._tracing)
        try:
            if tag == LOCAL and self._serving.current is None:
                bundle = await self._loader.local()
            else:
                try:
                    bundle = await self._loader.cached(sha256)
                except (NotFound, BundleRefused):
                    with self._replica.swapping("fetch"):  # one worker does, the others wait
                        bundle = await self._loader.find(tag, sha256, steps)
            return await self._loader.load(tag, bundle, steps)
        except ServiceError as error:
            error.step = error.step or steps.current
            raise
