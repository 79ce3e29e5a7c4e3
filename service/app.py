"""`create_app`: the application that a server runs, made from what the container holds."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response

from contracts.faults import wanted
from service.container import Container
from service.errors import INTERNAL, BadRequest, NotFound, ServiceError, Unprocessable
from service.http.body import Disconnected
from service.http.gateway import GONE, UNKNOWN_ROUTE, FastRoute, Gateway
from service.http.problem import MEDIA_TYPE, problem
from service.http.routes import add_routes
from service.runtime import running

DESCRIPTION = "Predictions by HTTP, experiments by Git tag, hot swap without a restart."

EXAMPLES = {
    "/replace_ml_model": '{"tag": "landcover@v1.2.0"}',
    "/feedback": '{"request_id": "0123456789abcdef", "label": "Forest"}',
}


def create_app(container: Container) -> Gateway:
    """Build the application: routes inside, the gateway outside."""
    models = _models(container)
    routing = _routing(container)
    rooms = [*_rooms(container), *models, *routing]
    app = FastAPI(
        title="Conveyor",
        description=DESCRIPTION,
        version="1",
        lifespan=lambda _: running(container, *(room.run() for room in rooms)),
        # Relative to the address of the document, so that a proxy may put a prefix before it all.
        servers=[{"url": "."}],
        docs_url=None,
        redoc_url=None,
    )
    app.add_exception_handler(ServiceError, _service_error)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, _invalid)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, _refused)  # type: ignore[arg-type]
    app.add_exception_handler(Disconnected, _gone)
    app.add_exception_handler(Exception, _bug)
    parts = container.parts()
    add_routes(app, parts)
    for room in rooms:
        room.add_to(app)
    fast_routes: dict[tuple[str, str], FastRoute] = {("POST", "/predict"): parts.predict}
    for room in models:
        fast_routes |= room.fast_routes()
    exposition = container.exposition()
    for room in routing:
        exposition.add(room.collector())

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return get_swagger_ui_html(openapi_url="openapi.json", title=f"{app.title}: API")

    @app.get("/metrics", tags=["operations"], response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Export all metrics for Prometheus."""
        return await exposition.render()

    return Gateway(
        app,
        fast_routes,
        container.guard(),
        container.metrics(),
        container.access_log(),
        container.tracing(),
    )


def _rooms(container: Container) -> list[Any]:
    """The rooms that this service has: maps, and live frames."""
    parts = (container.settings(), container.serving())
    more = {"service.maps": (container.cache(), container.guard()), "service.live": ()}
    return [
        import_module(f"{name}.room").make_room(*parts, *own)
        for name, own in more.items()
        if find_spec(name) is not None
    ]


def _models(container: Container) -> list[Any]:
    """The room of models by name; none in a service without it."""
    if (catalogue := container.catalogue()) is None:
        return []
    parts = (container.settings(), catalogue, container.predict(), container.predictor())
    more = (container.uploads(), container.serving())
    return [import_module("service.models.room").make_room(*parts, *more)]


def _routing(container: Container) -> list[Any]:
    """The room of the rules of the traffic; none in a service without rules."""
    if (router := container.router()) is None:
        return []
    return [import_module("service.routing.room").Room(router)]


def problem_response(request: Request, error: ServiceError) -> Response:
    """Turn an error into its problem body."""
    instance = f"urn:request:{request.state.request_id}"
    body = problem(error.status, error.detail, instance, error.step, request.url.path)
    return JSONResponse(body, error.status, error.headers, MEDIA_TYPE)


async def _service_error(request: Request, error: ServiceError) -> Response:
    return problem_response(request, error)


async def _invalid(request: Request, error: RequestValidationError) -> Response:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return problem_response(request, BadRequest(f"the body is not JSON: {_cure(request)}"))
    if first["type"] == "missing" and first["loc"] == ("body",):
        return problem_response(request, Unprocessable(f"the body is empty: {_cure(request)}"))
    field = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
    return problem_response(request, Unprocessable(f"{field or 'body'}: {wanted(first)}"))


async def _refused(request: Request, error: HTTPException) -> Response:
    """Answer what FastAPI itself raises: the body is not even text, or a room is not there."""
    if error.status_code == NotFound.status:
        return problem_response(request, NotFound(UNKNOWN_ROUTE))
    return problem_response(request, BadRequest(f"{error.detail}: {_cure(request)}"))


def _cure(request: Request) -> str:
    example = EXAMPLES.get(request.url.path)
    return f"send {example}" if example else "/docs says what to send"


async def _gone(request: Request, error: Exception) -> Response:
    """The client has left: this does not count as an error of the server."""
    return Response(status_code=GONE)


async def _bug(request: Request, error: Exception) -> Response:
    """Answer with the request id; the gateway logs the stack."""
    return problem_response(request, ServiceError(INTERNAL))
