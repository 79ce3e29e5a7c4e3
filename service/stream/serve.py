"""One stream worker as a process: the loop, the model that it follows, and a port for metrics."""

import asyncio
import hashlib
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib import import_module
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from service import kafka
from service.container import Container
from service.errors import UnsafeSettings
from service.files import StillLocked, locked
from service.runtime import running
from service.settings import Settings
from service.telemetry.logs import configure
from service.telemetry.multiprocess import multiprocess_dir
from service.telemetry.observations import Observations

log = logging.getLogger("service.stream")


async def serve(settings: Settings) -> None:
    """Answer frames until SIGTERM or SIGINT.

    Raises:
        Broken: the stream cannot go on.
        UnsafeSettings, Unavailable: it cannot start.
    """
    configure(settings.log_level)
    kafka.check(settings)
    # The counters' folder goes with the worker; that of a killed one, with the next start.
    with _alone(settings), multiprocess_dir(1) as counters:
        stuck = await _serve(settings, counters.path)
    if stuck:  # a thread in librdkafka, which would keep the interpreter from ending
        sys.stdout.flush()
        os._exit(0)


async def _serve(settings: Settings, counters: Path) -> bool:
    """Answer until a signal; returns whether a thread still waits for a broker that is away."""
    from service.stream.client import Client
    from service.stream.metrics import StreamMetrics
    from service.stream.worker import NoCatalogue, StreamWorker

    container = Container()
    container.settings.override(settings)
    serving = container.serving()
    container.observations.override(Observations(serving, settings.drift_window, folder=counters))
    router = container.router()
    rooms = [import_module("service.routing.room").Room(router)] if router else []
    metrics = StreamMetrics(container.metrics().registry, settings.stream_frames)
    worker = StreamWorker(
        settings,
        Client(settings, metrics.read_statistics),
        container.predictor(),
        serving,
        metrics,
        container.catalogue() or NoCatalogue(serving),
        router,
    )
    listener = _listen(settings)
    exposition = container.exposition()
    for room in rooms:
        exposition.add(room.collector())

    async def exported(_: Request) -> Response:
        return await exposition.render()

    async def alive(_: Request) -> Response:
        return PlainTextResponse("ok")

    async def ready(_: Request) -> Response:
        model = serving.current
        name = {"model": model.tag} if model else {}
        return JSONResponse(name, 200 if model and not worker.stopping.is_set() else 503)

    @asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        async with running(container, *(room.run() for room in rooms)):
            yield

    routes = [Route("/metrics", exported), Route("/healthz", alive), Route("/readyz", ready)]
    app = Starlette(routes=routes, lifespan=life)
    loop = asyncio.get_running_loop()
    server = Server(app, lambda: loop.call_soon_threadsafe(worker.stop))
    exporting = asyncio.ensure_future(server.serve([listener]))
    host, port = listener.getsockname()[:2]
    log.info("streaming", extra={"port": port, "host": host, "topic": settings.stream_frames})
    answering = asyncio.ensure_future(worker.run())
    await asyncio.wait((exporting, answering), return_when=asyncio.FIRST_COMPLETED)
    worker.stop()
    try:
        await answering
    finally:
        server.should_exit = True
        await exporting
    log.info("stopped")
    return worker.stuck


class Server(uvicorn.Server):
    """Serves the port for metrics; what a signal stops is the worker, and then this."""

    def __init__(self, app: Starlette, stop: Callable[[], object]) -> None:
        """Call `stop` at a signal."""
        super().__init__(uvicorn.Config(app, log_config=None, access_log=False, ws="none"))
        self._stop = stop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Let the worker finish what it has taken."""
        self._stop()


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Be the one worker of this name on this machine; among machines the broker sees to it."""
    if not settings.stream_id:
        yield
        return
    name = hashlib.sha256(settings.stream_id.encode()).hexdigest()[:16]
    try:
        with locked(settings.state / f"stream-{name}.lock"):
            yield
    except StillLocked:
        raise UnsafeSettings(
            f"SERVICE_STREAM_ID: another worker on this machine is {settings.stream_id!a}: "
            "give each a name of its own, or none"
        ) from None


def _listen(settings: Settings) -> socket.socket:
    try:
        return socket.create_server((settings.host, settings.stream_port))
    except OSError as error:
        raise UnsafeSettings(
            f"SERVICE_STREAM_PORT: cannot listen on {settings.host}:{settings.stream_port}: "
            f"{error.strerror}: another worker has it? Take another port, or 0"
        ) from None
