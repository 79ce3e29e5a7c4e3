"""The gateway: id, route, authorization, errors, log line and metrics of every request.

Pure ASGI: a framework's base class for middleware costs 0.2 ms a request. The whole application
lies behind it, so every response is authorised, counted and logged here.
"""

import asyncio
import json
import logging
import random
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from time import perf_counter
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.auth.roles import ROLES, Guard, role_of
from service.errors import INTERNAL, MethodNotAllowed, NotFound, ServiceError, TooLarge
from service.http.body import Disconnected, read_small
from service.http.problem import MEDIA_TYPE, problem
from service.telemetry.logs import AccessLog
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Tracing

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
NOSNIFF = (b"x-content-type-options", b"nosniff")
NO_STORE = (b"cache-control", b"no-store")
# Routes that limit their bodies themselves.
UPLOADS = frozenset(
    (
        *("/predict", "/preview", "/maps", "/models/{name}/predict", "/v2/models/{name}/infer"),
        "/v2/models/{name}/versions/{version}/infer",
    )
)
LINGER = 5.0  # seconds to drain an oversized upload before closing
UNKNOWN_ROUTE = "this route does not exist: /docs lists the routes"
GONE = 499  # status in logs when the client has left
PARAMETER = re.compile(r"\\{[a-z]+\\}")

FastRoute = Callable[[Scope, Receive, Send], Awaitable[str]]
"""An ASGI application that returns the tag of the model that answered."""

log = logging.getLogger("service")


class Gateway:
    """The outermost application."""

    def __init__(
        self,
        app: ASGIApp,
        fast_routes: Mapping[tuple[str, str], FastRoute],
        guard: Guard,
        metrics: Metrics,
        access: AccessLog,
        tracing: Tracing,
    ) -> None:
        """Stand before `app`; requests of `fast_routes` bypass its layers."""
        self.app = app
        self.fast_routes = dict(fast_routes)
        self.guard = guard
        self.metrics = metrics
        self.access = access
        self.tracing = tracing
        templates = {template for _, template in ROLES}
        self.methods = {template: tuple(sorted(_methods(template))) for template in templates}
        self._exact = frozenset(item for item in templates if "{" not in item)
        self._patterns = [
            (re.compile(PARAMETER.sub("[^/]+", re.escape(item))), item)
            for item in sorted(templates - self._exact, key=len, reverse=True)
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # a WebSocket that is not accepted is refused by the server
        await _Exchange(self, scope, send).run(receive)

    def template(self, path: str) -> str:
        """Find the route of a path; `none` for all that do not exist, so that metrics stay few."""
        if path in self._exact:
            return path
        return next((item for pattern, item in self._patterns if pattern.fullmatch(path)), "none")


class _Exchange:
    """One request and its response."""

    def __init__(self, gateway: Gateway, scope: Scope, send: Send) -> None:
        self._gateway = gateway
        self._scope = scope
        self._send = send
        self._started = perf_counter()
        self._status = 0
        self._bytes_out = 0
        self._complete = False
        self._tag = ""  # of the model that answered
        self._route = gateway.template(scope["path"])
        self._state = state = scope.setdefault("state", {})
        # Identifies the request; not a secret. Callers such as proxies may repeat X-Request-Id: the
        # predictions get ids of their own: labels refer to them.
        fresh = state["prediction_id"] = f"{random.getrandbits(64):016x}"
        self._id = state["request_id"] = _callers_id(scope["headers"]) or fresh

    async def run(self, receive: Receive) -> None:
        """Dispatch the request, or refuse it; log and count it either way."""
        try:
            with self._span():
                await self._dispatch(receive)
        except TooLarge as error:
            unread = receive if error.unread else None
            await self._refuse(error.status, error.detail, None, error.headers, unread)
        except ServiceError as error:
            await self._refuse(error.status, error.detail, error.step, error.headers)
        except Disconnected:
            self._status = self._status or GONE
        except Exception:
            log.exception("internal error", extra={"id": self._id, "route": self._route})
            if not self._status:
                await self._refuse(500, INTERNAL)
            elif (
                not self._complete
            ):  # half a response is sent: only closing the connection shows the error
                raise
        finally:
            self._count()

    async def _dispatch(self, receive: Receive) -> None:
        gateway, method = self._gateway, self._scope["method"]
        if self._route == "none":
            raise NotFound(UNKNOWN_ROUTE)
        allowed = gateway.methods[self._route]
        if method not in allowed:
            raise MethodNotAllowed(f"{self._route} takes {' and '.join(allowed)}", allowed)
        role = role_of(method, self._route)
        if role is not None and not gateway.guard.is_open(role):
            await gateway.guard.authorize(role, self._scope["headers"])
        fast = gateway.fast_routes.get((method, self._route))
        if fast is not None:
            self._tag = await fast(self._scope, receive, self._forward)
            return
        if method == "POST" and self._route not in UPLOADS:
            receive = await read_small(receive, self._state)
        # The server drops the body of an answer to HEAD; the routes need not know.
        scope = self._scope if method != "HEAD" else {**self._scope, "method": "GET"}
        await gateway.app(scope, receive, self._forward)

    async def _forward(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = [*message.get("headers", ()), (b"x-request-id", self._id.encode()), NOSNIFF]
            if all(name != b"cache-control" for name, _ in headers):
                headers.append(NO_STORE)
            message = {"type": "http.response.start", "status": self._status, "headers": headers}
        else:
            self._bytes_out += len(message.get("body", b""))
            self._complete = not message.get("more_body")
        await self._send(message)

    async def _refuse(
        self,
        status: int,
        detail: str,
        step: str | None = None,
        headers: Mapping[str, str] | None = None,
        unread: Receive | None = None,
    ) -> None:
        instance, path = f"urn:request:{self._id}", self._scope["path"]
        body = json.dumps(problem(status, detail, instance, step, path)).encode()
        fields = [(key.encode(), value.encode()) for key, value in (headers or {}).items()]
        fields += [
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
        ]
        await self._forward({"type": "http.response.start", "status": status, "headers": fields})
        if unread is not None:
            await self._forward({"type": "http.response.body", "body": body, "more_body": True})
            await _discard(unread, self._state)
            body = b""
        await self._forward({"type": "http.response.body", "body": body})

    def _span(self) -> AbstractContextManager[Any]:
        tracing = self._gateway.tracing
        if not tracing.enabled:
            return tracing.span("")
        name = f"{self._scope['method']} {self._route}"
        return tracing.request(name, self._scope["headers"], self._id)

    def _count(self) -> None:
        seconds = perf_counter() - self._started
        method = self._scope["method"] if self._scope["method"] in METHODS else "other"
        status = self._status or 500
        state, gateway = self._state, self._gateway
        tag = self._tag or state.get("tag", "")
        route = state.get("route", self._route)  # a route may answer in the place of another
        prediction = state["prediction_id"] if tag else ""
        gateway.access.write(self._id, method, route, status, seconds, tag, prediction)
        # Bytes that were read: a caller can declare any length.
        sizes = (state.get("bytes_in", 0), self._bytes_out)
        gateway.metrics.count_request(sizes, method, route, status, seconds)


async def _discard(receive: Receive, state: dict[str, Any]) -> None:
    """Drain the rest for a while: a connection closed now is reset before the client reads."""
    more = True
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER):
            while more:
                message = await receive()
                state["bytes_in"] = state.get("bytes_in", 0) + len(message.get("body", b""))
                more = message.get("more_body", False)


def _callers_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The caller's `X-Request-Id` if a log can hold it, else empty."""
    for name, value in headers:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
            return value.decode()
    return ""


def _methods(template: str) -> set[str]:
    found = {method for method, route in ROLES if route == template}
    return found | {"HEAD"} if "GET" in found else found
