"""The HTTP routes, except for `/predict` (predict.py), behind the gateway (gateway.py)."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

import numpy as np
from fastapi import FastAPI, Query, Request
from fastapi.routing import APIRoute
from starlette.responses import Response
from starlette.types import ASGIApp

from contracts import tags
from service.errors import NotFound, ServiceError, Unavailable
from service.feedback.service import FeedbackService
from service.http.body import Uploads
from service.http.experiments import ExperimentList, add_experiments
from service.http.feedback import add_feedback
from service.http.gateway import FastRoute
from service.http.page import add_page
from service.http.predict import Predict
from service.http.problem import MEDIA_TYPE
from service.inference.bundle import decode_chip
from service.inference.decode import read_image
from service.inference.memory import ImageMemory
from service.inference.model import Serving
from service.inference.preview import true_colour
from service.prediction import Router
from service.schemas import (
    InstancePrediction,
    MapPrediction,
    ModelRef,
    ObjectPrediction,
    Prediction,
    RoutingRef,
    Sample,
    SwapAnswer,
    SwapRequest,
    Version,
    problems,
)
from service.swap.desired import DesiredStore
from service.swap.swapper import Swapper
from service.swap.workers import WorkerRegistry

PNG = "image/png"
JSON = "application/json"
UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            },
            **{
                kind: {"schema": {"type": "string", "format": "binary"}}
                for kind in ("image/tiff", PNG, "image/jpeg", "application/octet-stream")
            },
        },
    }
}
UPLOAD_ERRORS = (400, 401, 403, 408, 413, 415, 422, 503)


@dataclass(frozen=True)
class Parts:
    """Objects that the routes call."""

    serving: Serving
    uploads: Uploads
    memory: ImageMemory
    predict: Predict
    experiments: ExperimentList
    workers: WorkerRegistry
    desired: DesiredStore
    swapper: Swapper
    answers: FeedbackService | None
    router: Router | None
    max_pixels: int


class DocumentedRoute(APIRoute):
    """A route whose endpoint is an ASGI application; its signature is for the OpenAPI document."""

    def answer_with(self, app: FastRoute) -> None:
        """Replace the endpoint."""
        self.app = cast(ASGIApp, app)  # the returned tag is for the gateway


def add_routes(app: FastAPI, parts: Parts) -> None:
    """Register every route."""
    _add_predictions(app, parts)
    _add_samples(app, parts)
    add_experiments(app, parts.experiments)
    _add_swaps(app, parts)
    add_feedback(app, parts.answers)
    _add_health(app, parts)
    add_page(app)
    _describe_problems(app)


def _describe_problems(app: FastAPI) -> None:
    """FastAPI documents every model as application/json; an error is application/problem+json."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        operations = (item for path in document["paths"].values() for item in path.values())
        for operation in operations:
            for status, response in operation["responses"].items():
                content = response.get("content", {})
                if status >= "400" and JSON in content:
                    content[MEDIA_TYPE] = content.pop(JSON)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def add_prediction(
    app: FastAPI, path: str, described: Callable[..., None], predict: FastRoute
) -> None:
    """Register a route that predicts, with the signature and the text of another function."""
    route = DocumentedRoute(
        path,
        described,
        methods=["POST"],
        response_model=Prediction | MapPrediction | InstancePrediction | ObjectPrediction,
        responses={
            200: {"content": {PNG: {}, "image/jpeg": {}}},
            **problems(*UPLOAD_ERRORS, 404, 507),
        },
        openapi_extra=UPLOAD,
        tags=["predictions"],
    )
    route.answer_with(predict)
    app.router.routes.append(route)


def _add_predictions(app: FastAPI, parts: Parts) -> None:
    def predict(
        fit: Literal["crop", "pad", "stretch", "resize"] | None = None,
        model: Annotated[
            str | None,
            Query(
                min_length=1,
                max_length=tags.LONGEST,
                description="`landcover@v1.2.0`, `landcover#staging`, or what serves without it.",
            ),
        ] = None,
        wait: Annotated[
            float, Query(ge=0, le=86_400, description="Seconds that this model may take to arrive.")
        ] = 0.0,
    ) -> None:
        """Classify one chip: GeoTIFF, TIFF, PNG, JPEG or NPY, with the bands and size that
        `/version` names. `fit` resamples an image of another size: `crop` takes its middle, `pad`
        adds a border, `stretch` (or `resize`) gives up its proportions.

        Of a model that finds objects, `Accept: image/png` or `image/jpeg` asks for the image with
        them, and `image/png;overlay` for them alone, on nothing."""

    add_prediction(app, "/predict", predict, parts.predict)

    @app.post(
        "/preview",
        tags=["predictions"],
        response_class=Response,
        responses={200: {"content": {PNG: {}}}, **problems(*UPLOAD_ERRORS)},
        openapi_extra=UPLOAD,
    )
    async def preview(request: Request) -> Response:
        """Show an image of any bands as a true-colour PNG, of 512 pixels at most.

        The header `X-Image-Size` has the width and height of the image itself: `1280x720`.
        """
        content = await parts.uploads.read(request.scope, request.receive)
        bands = parts.serving.model().manifest.input.bands

        def render() -> tuple[bytes, str]:
            pixels = read_image(content, parts.max_pixels)  # (bands, H, W)
            return true_colour(pixels, bands), f"{pixels.shape[2]}x{pixels.shape[1]}"

        picture, size = await parts.memory.run_in_thread(content, render)
        return Response(picture, media_type=PNG, headers={"X-Image-Size": size})


def _add_samples(app: FastAPI, parts: Parts) -> None:
    def chip(index: int) -> np.ndarray[Any, Any]:
        manifest = parts.serving.model().manifest
        if not 0 <= index < len(manifest.golden):
            raise NotFound(f"index: there are samples 0 to {len(manifest.golden) - 1}")
        return decode_chip(manifest.golden[index].chip, manifest.input)

    @app.get("/samples", tags=["predictions"], responses=problems(401, 403, 503))
    async def samples() -> list[Sample]:
        """List the sample images that the model carries, with its answers."""
        model = parts.serving.model()
        return [
            Sample(index=index, answer=model.task.golden_label(index))
            for index in range(len(model.manifest.golden))
        ]

    @app.get(
        "/samples/{index}.png",
        tags=["predictions"],
        response_class=Response,
        responses={200: {"content": {PNG: {}}}, **problems(401, 403, 404, 422, 503)},
    )
    async def sample_picture(index: int) -> Response:
        """Show a sample as a true-colour PNG."""
        bands = parts.serving.model().manifest.input.bands
        return Response(true_colour(chip(index), bands), media_type=PNG)

    @app.get(
        "/samples/{index}",
        tags=["predictions"],
        response_class=Response,
        responses={
            200: {"content": {"application/octet-stream": {}}},
            **problems(401, 403, 404, 422, 503),
        },
    )
    async def sample(index: int) -> Response:
        """Download a sample as NPY, (bands, height, width)."""
        content = io.BytesIO()
        np.save(content, chip(index), allow_pickle=False)
        return Response(content.getvalue(), media_type="application/octet-stream")


def _add_swaps(app: FastAPI, parts: Parts) -> None:
    errors = problems(400, 401, 403, 404, 408, 409, 413, 422, 503, 507)

    @app.post("/replace_ml_model", tags=["experiments"], responses=errors)
    async def replace_ml_model(request: SwapRequest) -> SwapAnswer:
        """Serve the model of a tag, without a restart and without losing a request."""
        return await parts.swapper.replace(request.tag)

    @app.post("/rollback_ml_model", tags=["experiments"], responses=errors)
    async def rollback_ml_model() -> SwapAnswer:
        """Serve the previous model."""
        return await parts.swapper.rollback()


def _routing(router: Router | None) -> RoutingRef | None:
    if router is None:
        return None
    rule, problem = router.status
    return RoutingRef(rule=rule, problem=problem)


def _add_health(app: FastAPI, parts: Parts) -> None:
    @app.get("/healthz", tags=["operations"])
    async def healthz() -> dict[str, str]:
        """Report that the process is alive."""
        return {"status": "alive"}

    @app.get("/readyz", tags=["operations"], responses=problems(503))
    async def readyz() -> dict[str, str]:
        """Report whether this worker takes requests."""
        if parts.serving.draining:
            raise Unavailable("this worker is stopping")
        return {"status": "ready", "tag": parts.serving.model().tag}

    @app.get("/version", tags=["operations"])
    async def version() -> Version:
        """Report the serving model, the desired model, and the last swap of this replica."""
        current, previous = parts.serving.current, parts.serving.previous
        try:
            desired = await parts.desired.read()
        except ServiceError:
            desired = None
        return Version(
            model=current.info() if current else None,
            previous=ModelRef(tag=previous.tag, sha256=previous.sha256) if previous else None,
            wanted=ModelRef(tag=desired.tag, sha256=desired.sha256) if desired else None,
            workers=parts.workers.served(),
            swap=parts.workers.last_swap(),
            routing=_routing(parts.router),
        )
