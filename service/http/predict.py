"""`POST /predict`: an upload in, an answer out.

`Predict` is a bare ASGI application. Reading a body through a framework's request object and forms
costs more than everything else in this file (docs/benchmarks.md); it is registered in the router
and in the OpenAPI document all the same.
"""

import math
from typing import NamedTuple, cast
from urllib.parse import parse_qs

import orjson
from starlette.types import Receive, Scope, Send

from contracts.images import FITS, Buffer, Fit
from service.errors import NotFound, ServiceError, Unprocessable
from service.http.body import Uploads
from service.inference.decode import read_image
from service.inference.drawing import FORMS, annotated
from service.inference.memory import ImageMemory
from service.inference.model import Model, Serving
from service.prediction import ModelCatalogue, Predictor, Route, Router
from service.telemetry.metrics import Metrics

JSON = (b"content-type", b"application/json")
NAMED = "/models/{name}/predict"
"""Route of a prediction by a model that is named: in the path, or as `?model=` of `/predict`. Logs
and metrics have it in both cases, as the objectives of `/predict` are about what serves."""


class Choice(NamedTuple):
    """What the query of a prediction asks for."""

    fit: Fit = ""
    model: str = ""
    """A reference; empty for the model that serves."""
    wait: float = 0.0
    """Seconds."""


class Predict:
    """The prediction use case over HTTP."""

    def __init__(
        self,
        uploads: Uploads,
        predictor: Predictor,
        metrics: Metrics,
        memory: ImageMemory,
        serving: Serving,
        max_pixels: int,
        catalogue: ModelCatalogue | None,
        router: Router | None = None,
    ) -> None:
        """Take the parts; see container.py."""
        self._router = router
        self._uploads = uploads
        self._predictor = predictor
        self._metrics = metrics
        self._memory = memory
        self._serving = serving
        self._max_pixels = max_pixels
        self._catalogue = catalogue

    async def __call__(self, scope: Scope, receive: Receive, send: Send, name: str = "") -> str:
        """Answer one request (ASGI), by the model with this name; returns the tag of the model that
        answered."""
        model: Model | None = None
        route: Route | None = None
        try:
            choice = read_choice(scope["query_string"], name)
            content = await self._uploads.read(scope, receive)
            if choice.model:
                scope["state"]["route"] = NAMED
                model = await self._find(choice, content)
            elif self._router is not None:
                route = self._router.choose(scope["headers"])
        except ServiceError as error:
            self._metrics.refuse(error)
            raise
        # Not the caller's id: callers may repeat one.
        prediction_id = scope["state"]["prediction_id"]
        if route is not None:
            model = route.model
            answer = await route.predict(content, choice.fit, prediction_id)
        else:
            answer = await self._predictor.predict(content, choice.fit, prediction_id, model)
        body, kind = answer.body, JSON
        if form := wanted_form(scope["headers"]):
            drawn = await self._draw(content, body, model or self._serving.model(), form)
            kind, body = ((b"content-type", form.encode()), drawn) if drawn else (JSON, body)
        headers = [kind, (b"content-length", b"%d" % len(body)), *(route.headers if route else ())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        if route is not None:
            route.answered(content, choice.fit, answer)
        return answer.tag

    async def _find(self, choice: Choice, content: Buffer) -> Model:
        """Find the model; while it is waited for, the image counts as held."""
        if self._catalogue is None:
            raise NotFound("model: this service has no models by name: leave it out")
        self._memory.hold(len(content))
        try:
            return await self._catalogue.resolve(choice.model, choice.wait)
        finally:
            self._memory.release(len(content))

    async def _draw(self, content: Buffer, body: bytes, model: Model, form: str) -> bytes:
        """Draw the objects of an answer into its image; nothing where the answer has none."""
        answer = orjson.loads(body)
        if "objects" not in answer:
            return b""
        form, _, only = form.partition(";")

        def draw() -> bytes:
            pixels = read_image(content, self._max_pixels)
            return annotated(pixels, model.manifest.input.bands, answer, form, bool(only))

        return await self._memory.run_in_thread(content, draw)


def wanted_form(headers: list[tuple[bytes, bytes]]) -> str:
    """The media type of a picture that `Accept` names first; empty where it names none, or JSON.

    `image/png;overlay` asks for the objects alone.
    """
    for name, value in headers:
        if name == b"accept":
            for item in value.decode("latin-1").lower().split(","):
                kind, *parameters = (part.strip() for part in item.split(";"))
                if kind in FORMS:
                    return f"{kind};overlay" if "overlay" in parameters else kind
                if kind == "application/json":
                    return ""
    return ""


def read_choice(query: bytes, name: str = "") -> Choice:
    """Read `?fit=`, how an image of another size is resampled, `?model=` and `?wait=`.

    `name` is that of a model in the path.

    Raises:
        Unprocessable: one of them cannot be used.
    """
    if not query:
        return Choice(model=name) if name else DEFAULT
    found = parse_qs(query.decode("latin-1"), keep_blank_values=True)
    return Choice(_fit(found.get("fit", [])), *read_named(found, name))


def read_named(found: dict[str, list[str]], name: str = "") -> tuple[str, float]:
    """Read `?model=` and `?wait=`; see above."""
    models, waits = found.get("model", []), found.get("wait", [])
    if len(models) + bool(name) > 1 or (models and not models[0]):
        raise Unprocessable("model: name one, once: landcover@v1.2.0, landcover#staging, landcover")
    try:
        wait = float(waits[0]) if waits else 0.0
    except ValueError:
        wait = -1.0
    if not 0 <= wait < math.inf or len(waits) > 1:
        raise Unprocessable("wait: give the seconds that the model may take to arrive, such as 30")
    return (models[0] if models else name), wait


def _fit(found: list[str]) -> Fit:
    match found:
        case []:
            return ""
        case ["resize"]:  # its first name
            return "stretch"
        case ["crop" | "pad" | "stretch" as fit]:
            return cast(Fit, fit)
    raise Unprocessable(
        f"fit: use one of {', '.join(FITS)}; without it the image must have the right size"
    )


DEFAULT = Choice()
