"""The wiring of the room: the route, the reader of the topic, and who watches.

A worker of the service reads the topic `annotated` from its end while somebody watches, and hands
each record on as it is. One that reads slowly misses frames, and delays none of the others.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.responses import Response, StreamingResponse

from service import kafka
from service.errors import Overloaded, ServiceError, UnsafeSettings
from service.inference.model import Serving
from service.schemas import problems
from service.settings import Settings

if TYPE_CHECKING:
    from confluent_kafka import Consumer

BEHIND = 4  # events that wait for one who watches; the oldest goes first
MOST = 64  # that watch one worker
BEAT = 1.0  # seconds between two looks at whether to end
QUIET = 15  # beats after which a comment keeps proxies from closing the connection
LARGEST = 2 << 20  # bytes of a record
PAUSE = 2.0  # seconds before a broker that is away is asked again
EVENTS = "text/event-stream"

log = logging.getLogger("service.live")


class Audience:
    """Who watches now, each with a short queue."""

    def __init__(self) -> None:
        """Nobody."""
        self._queues: set[asyncio.Queue[bytes]] = set()
        self.watched = asyncio.Event()

    def join(self) -> asyncio.Queue[bytes]:
        """One more watches.

        Raises:
            Overloaded: too many do.
        """
        if len(self._queues) >= MOST:
            raise Overloaded(f"{MOST} browsers watch already: try again later")
        queue: asyncio.Queue[bytes] = asyncio.Queue(BEHIND)
        self._queues.add(queue)
        self.watched.set()
        return queue

    def leave(self, queue: asyncio.Queue[bytes]) -> None:
        """One has left."""
        self._queues.discard(queue)
        if not self._queues:
            self.watched.clear()

    def show(self, event: bytes) -> None:
        """Give everybody an event."""
        for queue in self._queues:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(event)


class Room:
    """The route, and what runs beside requests."""

    def __init__(self, settings: Settings, serving: Serving) -> None:
        """Read what `settings` say, until `serving` drains."""
        self._settings = settings
        self._serving = serving
        self.audience = Audience()

    def add_to(self, app: FastAPI) -> None:
        """Register the route."""

        @app.get(
            "/live",
            tags=["live"],
            response_class=Response,
            responses={
                200: {"content": {EVENTS: {}}, "description": "Answers, until you leave"},
                204: {"description": "This service has no stream"},
                **problems(401, 403, 500, 503),
            },
        )
        async def live() -> Response:
            """Watch answers of the stream with small pictures, as server-sent events."""
            if not self._settings.stream_brokers:
                return Response(status_code=204)
            kafka.check(self._settings)
            # Proxies such as nginx would collect events into large pieces.
            headers = {"x-accel-buffering": "no"}
            events = self._events(self.audience.join())
            return StreamingResponse(events, media_type=EVENTS, headers=headers)

    async def _events(self, queue: asyncio.Queue[bytes]) -> AsyncIterator[bytes]:
        quiet = 0
        try:
            yield b"retry: 2000\n\n"
            while not self._serving.draining:
                try:
                    yield await asyncio.wait_for(queue.get(), BEAT)
                    quiet = 0
                except TimeoutError:
                    quiet += 1
                    if quiet % QUIET == 0:
                        yield b": nothing new\n\n"
        finally:
            self.audience.leave(queue)

    async def run(self) -> None:
        """Read the topic while somebody watches, until it is cancelled."""
        while True:
            await self.audience.watched.wait()
            consumer: Consumer | None = None
            try:
                consumer = await asyncio.to_thread(self._open)
                while self.audience.watched.is_set():
                    for message in await asyncio.to_thread(consumer.consume, BEHIND, BEAT / 10):
                        self._show(message.value() if message.error() is None else None)
            except (ServiceError, UnsafeSettings) as error:
                log.warning("the stream cannot be watched", extra={"detail": str(error)})
                await asyncio.sleep(PAUSE)
            except Exception as error:  # KafkaException, which only an extra has
                log.warning("the stream cannot be watched", extra={"detail": str(error)[:200]})
                await asyncio.sleep(PAUSE)
            finally:
                if consumer is not None:
                    with suppress(Exception):
                        await asyncio.to_thread(consumer.close)

    def _open(self) -> "Consumer":
        """A consumer at the end of all partitions; it belongs to no group."""
        from confluent_kafka import OFFSET_END, TopicPartition

        settings, topic = self._settings, self._settings.stream_annotated
        consumer = kafka.consumer(settings, f"{settings.stream_group}-live")
        found = consumer.list_topics(topic, PAUSE).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, OFFSET_END) for number in found])
        return consumer

    def _show(self, value: bytes | None) -> None:
        # A record of somebody else's could end the event early and begin another.
        if value and len(value) <= LARGEST and b"\n" not in value and b"\r" not in value:
            self.audience.show(b"data: %s\n\n" % value)


def make_room(settings: Settings, serving: Serving) -> Room:
    """Make it from the parts of the service."""
    return Room(settings, serving)
