"""The loop of a stream worker: take what waits, answer it in one run, deliver, commit.

    take N+1  ||  deliver and commit N
    answer N+1
    wait for N
    deliver and commit N+1  ||  take N+2

So a worker that is killed leaves one batch at most that was delivered and not committed; whoever
answers it again gives the same ids.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from contracts import frames as contract
from contracts.frames import Frame
from service.errors import NotFound, RegistryUnavailable, ServiceError, Unavailable
from service.inference.model import Model, Serving
from service.prediction import Image, ModelCatalogue, Predicted, Predictor, Route, Router
from service.settings import Settings
from service.stream import frames
from service.stream.client import GIVE_UP, Client, Undelivered
from service.stream.frames import Waiting
from service.stream.metrics import StreamMetrics
from service.stream.records import Pictures, Record, answer, dead_letter, fitting

if TYPE_CHECKING:
    from confluent_kafka import Message

QUIET = 60.0  # seconds without another line about dead letters of one kind
PAUSE = 1.0  # seconds before what is unavailable is tried again

log = logging.getLogger("service.stream")


class Stopped(Exception):
    """The worker is to stop while frames wait; they stay in the topic."""


class NoCatalogue:
    """Knows the model that serves, and no other."""

    def __init__(self, serving: Serving) -> None:
        """Look at what serves."""
        self._serving = serving

    async def resolve(self, reference: str, wait: float = 0.0) -> Model:
        """Return the model that serves, if it is the one that is meant."""
        model = self._serving.model()
        if reference in (model.tag, model.manifest.name):
            return model
        raise NotFound(
            f"model is {reference[:64]!a}, {model.tag} serves: leave the header out, or name it"
        )


class StreamWorker:
    """Answers frames until it is stopped."""

    def __init__(
        self,
        settings: Settings,
        client: Client,
        predictor: Predictor,
        serving: Serving,
        metrics: StreamMetrics,
        catalogue: ModelCatalogue,
        router: Router | None = None,
    ) -> None:
        """Take the parts; see command.py."""
        self._settings = settings
        self._client = client
        self._predictor = predictor
        self._serving = serving
        self._metrics = metrics
        self._catalogue = catalogue
        self._router = router
        self._pictures = Pictures(settings.stream_annotated, settings.stream_pictures)
        self._rate = Rate()
        self._said: dict[str, float] = {}  # kind of error -> when it was logged
        self.stopping = asyncio.Event()
        self.stuck = False
        """Whether a thread still waits for a broker that is away."""

    def stop(self) -> None:
        """Finish what was taken, or give it up where the broker is away; call it on the loop."""
        self.stopping.set()
        self._client.stopping = True

    async def run(self) -> None:
        """Answer until `stop`, then leave the group.

        Raises:
            Broken: the stream cannot go on; nothing that was taken is lost.
        """
        settling: Future[None] | None = None
        try:
            while not self.stopping.is_set():
                if self._serving.current is None:
                    await self._pause()
                    continue
                messages = await asyncio.to_thread(self._client.take)
                records = await self._answer(messages) if messages else []
                if settling is not None:
                    await self._settled(settling)
                    settling = None
                if messages and not self.stopping.is_set():
                    settling = self._client.settle(records, messages)
                    if self._settings.stream_transactions:  # an abort goes back to these messages
                        await self._settled(settling)
            if settling is not None:
                await self._settled(settling)
        except (Stopped, Undelivered):
            log.warning("stopped with frames that are not answered; they stay in the topic")
        finally:
            self.stuck = not await asyncio.to_thread(self._client.close)

    async def _settled(self, settling: "Future[None]") -> None:
        """Wait for a batch; while the broker is away for ever, but not when it is to stop."""
        done = asyncio.wrap_future(settling)
        stop = asyncio.ensure_future(self.stopping.wait())
        await asyncio.wait((done, stop), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not done.done():
            await asyncio.wait((done,), timeout=GIVE_UP)
        if not done.done():
            raise Undelivered
        await done

    async def _pause(self) -> None:
        try:
            await asyncio.wait_for(self.stopping.wait(), PAUSE)
        except TimeoutError:
            return

    async def _answer(self, messages: "Sequence[Message]") -> list[Record]:
        """The records that messages lead to, in their order."""
        self._metrics.batch.observe(len(messages))
        now = datetime.now(UTC)
        waiting = self._drop_stale([frames.read(message, now) for message in messages])
        routes = [self._route(one) for one in waiting]
        groups: dict[object, list[int]] = {}
        for place, (one, route) in enumerate(zip(waiting, routes, strict=True)):
            groups.setdefault(_together(one, route), []).append(place)
        found: dict[int, Predicted | ServiceError] = {}
        for places in groups.values():
            part = [waiting[place] for place in places]
            part, answers = await self._predict(part, routes[places[0]])
            for place, one, said in zip(places, part, answers, strict=True):
                waiting[place], found[place] = one, said
            await asyncio.sleep(0)
        records: list[Record] = []
        answered: list[tuple[Waiting, Predicted]] = []
        for place, (one, route) in enumerate(zip(waiting, routes, strict=True)):
            said = fitting(found[place])
            if isinstance(said, Predicted):
                answered.append((one, said))
                records.append(answer(self._settings.stream_results, one, said, route))
                # Where frames wait, no copy is made of one that was answered.
                if route and one.image and len(messages) < self._settings.stream_batch:
                    route.answered(one.image.content, one.image.fit, said)
            else:
                records.append(self._bury(one, said))
        self._count(answered)
        model_now = self._serving.current
        if model_now is not None:
            bands = model_now.manifest.input.bands
            lag, rate = self._metrics.total_lag(), self._rate.each_second
            records += self._pictures.draw(answered, bands, lag, rate)
        return records

    def _drop_stale(self, waiting: list[Waiting]) -> list[Waiting]:
        """Of each live source keep only the newest frame: an old one helps nobody."""
        newest = {
            one.frame.source: one.message
            for one in waiting
            if one.frame is not None and one.frame.live
        }
        kept = [
            one
            for one in waiting
            if one.frame is None or not one.frame.live or newest[one.frame.source] is one.message
        ]
        self._metrics.frames.labels("dropped").inc(len(waiting) - len(kept))
        return kept

    def _route(self, one: Waiting) -> Route | None:
        """What the rules of the traffic choose for a frame that names no model."""
        if self._router is None or one.frame is None or one.frame.model:
            return None
        named = contract.texts(one.message.headers())
        return self._router.choose(
            [(name.lower().encode(), text.encode()) for name, text in named.items()]
        )

    async def _predict(
        self, part: list[Waiting], route: Route | None
    ) -> tuple[list[Waiting], list[Predicted | ServiceError]]:
        """Answer frames of one model. What is unavailable is waited for: no frame is lost by it."""
        if part[0].refused is not None:
            return part, [one.refused for one in part if one.refused is not None]
        reference = part[0].frame.model if part[0].frame else ""
        while True:
            try:
                infer = route.predict_several if route else await self._of(reference)
                if part[0].image is None:
                    part = [await self._fetched(part[0])]
                return part, infer([one.image for one in part if one.image is not None])
            except RegistryUnavailable as error:  # the others need not wait for Git
                absent = NotFound(f"model is {reference[:64]!a}: {error.detail} Then replay it.")
                return part, [absent for _ in part]
            except Unavailable as error:
                log.warning("frames wait", extra={"detail": error.detail})
                await self._pause()
                if self.stopping.is_set():
                    raise Stopped from None
            except ServiceError as error:
                return part, [error for _ in part]
            except Exception as error:  # a bug must not meet the same frame for ever
                log.exception("frames were not answered")
                return part, [ServiceError(f"internal error: {type(error).__name__}") for _ in part]

    async def _of(
        self, reference: str
    ) -> Callable[[Sequence[Image]], list[Predicted | ServiceError]]:
        """Let the model that is named answer, or the one that serves."""
        model = await self._catalogue.resolve(reference) if reference else None
        return partial(self._predictor.predict_several, model=model)

    async def _fetched(self, one: Waiting) -> Waiting:
        frame: Frame | None = one.frame
        assert frame is not None
        below, limit = self._settings.stream_references, self._settings.max_upload
        content = await asyncio.to_thread(frames.fetch, frame.reference, below, limit)
        return one._replace(image=frames.image_of(frame, content, one.id))

    def _bury(self, one: Waiting, error: ServiceError) -> Record:
        self._metrics.frames.labels("dead").inc()
        kind, now = type(error).__name__, time.monotonic()
        self._metrics.dead.labels(kind).inc()
        if now - self._said.get(kind, -QUIET) >= QUIET:  # a broken source sends many
            self._said[kind] = now
            log.warning("dead letter", extra={"id": one.id, "detail": error.detail[:200]})
        return dead_letter(self._settings.stream_dead, one, error)

    def _count(self, answered: Sequence[tuple[Waiting, Predicted]]) -> None:
        self._rate.add(len(answered))
        self._metrics.frames.labels("answered").inc(len(answered))
        now = datetime.now(UTC)
        for one, _ in answered:
            if one.frame is not None:
                age = (now - one.frame.captured_at).total_seconds()
                self._metrics.age.observe(max(0.0, age))


class Rate:
    """Frames a second, over the last seconds."""

    def __init__(self, seconds: float = 5.0) -> None:
        """Look back over so many seconds."""
        self._seconds = seconds
        self._began, self._count = time.monotonic(), 0
        self.each_second = 0.0

    def add(self, count: int) -> None:
        """Count frames now."""
        self._count += count
        passed = time.monotonic() - self._began
        if passed >= self._seconds:
            self.each_second = self._count / passed
            self._began, self._count = time.monotonic(), 0


def _together(one: Waiting, route: Route | None) -> object:
    """What goes through the graph together has equal keys; an image to be fetched has its own."""
    if one.refused is not None or one.frame is None:
        return "refused"
    if one.image is None:
        return one.id
    return (one.frame.model, id(route.model) if route else None)
