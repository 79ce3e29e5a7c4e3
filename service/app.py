"""`create_app`: the application that a server runs, made from what the container holds."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from prometheus_fastapi_instrumentator import Instrumentator
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response

from service.container import Container
from service.door import GONE, Door
from service.errors import (
    INTERNAL,
    MEDIA_TYPE,
    BadRequest,
    ServiceError,
    Unprocessable,
    problem,
)
from service.predict import Disconnected
from service.routes import add_routes

DESCRIPTION = "Predictions by HTTP, experiments by Git tag, hot swap without a restart."


def create_app(container: Container) -> Door:
    """Build the application: routes inside, the door outside."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # In the background: fetching a model can take minutes, in which /healthz has to answer.
        interval = container.settings().reconcile
        following = asyncio.create_task(container.follower().run(interval))
        try:
            yield
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following
            container.replica().leave()
            await container.registry().close()
            await container.store().close()
            container.tracing().close()
            container.access_log().flush()

    app = FastAPI(
        title="Conveyor", description=DESCRIPTION, version="1", lifespan=lifespan, redoc_url=None
    )
    app.add_exception_handler(ServiceError, _service_error)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, _invalid)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, _refused)  # type: ignore[arg-type]
    app.add_exception_handler(Disconnected, _gone)
    app.add_exception_handler(Exception, _bug)
    parts = container.parts()
    add_routes(app, parts)
    metrics = container.metrics()
    Instrumentator(registry=metrics.registry).expose(
        app, tags=["operations"], response_class=PlainTextResponse
    )
    return Door(
        app,
        {("POST", "/predict"): parts.predict},
        container.guard(),
        metrics,
        container.access_log(),
        container.tracing(),
    )


def answer(request: Request, error: ServiceError) -> Response:
    """Turn an error into its problem body."""
    instance = f"urn:request:{request.state.request_id}"
    body = problem(error.status, error.detail, instance, error.step)
    return JSONResponse(body, error.status, error.headers, MEDIA_TYPE)


async def _service_error(request: Request, error: ServiceError) -> Response:
    return answer(request, error)


async def _invalid(request: Request, error: RequestValidationError) -> Response:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        detail = 'the body is no JSON: send {"tag": "landcover@v1.2.0"}'
        return answer(request, BadRequest(detail))
    field = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
    return answer(request, Unprocessable(f"{field or 'body'}: {first['msg']}"))


async def _refused(request: Request, error: HTTPException) -> Response:
    return answer(request, BadRequest(str(error.detail)))


async def _gone(request: Request, error: Exception) -> Response:
    """Nobody will read this; it is not an error of the server, and must not be counted as one."""
    return Response(status_code=GONE)


async def _bug(request: Request, error: Exception) -> Response:
    """The door logs what comes after this with its stack; the client learns the id to ask for."""
    return answer(request, ServiceError(INTERNAL))
