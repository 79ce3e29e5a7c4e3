"""What runs beside requests in a worker: reconciler, counters, feedback importer; and their end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress

from service.container import Container


@asynccontextmanager
async def running(container: Container, *more: Awaitable[None]) -> AsyncIterator[None]:
    """Run the background tasks of a worker until the block ends, then close what it opened.

    `more` are those of rooms that a service may lack.

    HTTP's lifespan is one caller; a worker without HTTP is another.
    """
    # In the background: fetching a model can take minutes, in which /healthz has to answer.
    importer = container.feedback_importer()
    loops: list[Awaitable[None]] = [
        *more,
        container.reconciler().reconcile_periodically(container.settings().reconcile),
        container.observations().flush_periodically(),
    ]
    if importer is not None:
        loops.append(importer.import_periodically())
    tasks = [asyncio.ensure_future(loop) for loop in loops]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
        container.observations().flush()
        if importer is not None:
            await importer.close()
        container.workers().leave()
        await container.registry().close()
        await container.desired().close()
        container.tracing().close()
        container.access_log().flush()
