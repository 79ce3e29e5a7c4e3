"""The Open Inference Protocol (V2) of KServe and Triton, and `POST /models/{name}/predict`."""

import random
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import FastAPI, Header, Query, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from contracts.bundle import Input
from service.errors import TooLarge, Unavailable, Unprocessable
from service.http.body import Uploads
from service.http.gateway import FastRoute
from service.http.predict import NAMED, Predict
from service.http.routes import add_prediction
from service.inference.model import Model, Serving
from service.models.catalogue import Catalogue
from service.models.tensors import (
    HEADER,
    NAMES,
    Array,
    InferAnswer,
    InferRequest,
    InputTensor,
    ModelMetadata,
    TensorInfo,
    encode,
    parse_request,
    read_tensor,
)
from service.prediction import Inferred, Predictor
from service.schemas import Wire, problems

CHIPS, CLASS = "chips", "class"
AT_ONCE = 64  # chips of a request
JSON, OCTETS = "application/json", "application/octet-stream"
NUMBER = re.compile(r"v?([0-9]+\.[0-9]+\.[0-9]+)")
ERRORS = (401, 403, 404, 422, 503, 507)
MODEL = "/v2/models/{name}"
PATHS = (MODEL, f"{MODEL}/versions/{{version}}")
Wait = Annotated[
    float,
    Query(
        ge=0, le=86_400, description="Seconds that the model may take to arrive, where not here."
    ),
]
TENSOR: dict[str, Any] = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string", "maxLength": 128, "examples": [CHIPS]},
        "shape": {
            "type": "array",
            "items": {"type": "integer", "minimum": 1, "maximum": 2**31},
            "minItems": 1,
            "maxItems": 8,
        },
        "datatype": {"type": "string", "maxLength": 16, "examples": ["UINT16"]},
        "data": {"type": "array", "items": {}, "description": "Numbers, flat or nested."},
        "parameters": {"type": "object"},
    },
}
OUTPUT: dict[str, Any] = {
    "type": "object",
    "required": ["name"],
    "properties": {key: TENSOR["properties"][key] for key in ("name", "parameters")},
}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": "string", "maxLength": 128},
                        "inputs": {"type": "array", "items": TENSOR, "maxItems": 16},
                        "outputs": {"type": "array", "items": OUTPUT, "maxItems": 16},
                        "parameters": {"type": "object"},
                    },
                }
            },
            OCTETS: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


class ServerMetadata(Wire):
    """What this server is."""

    name: str = "conveyor"
    version: str = "1"
    extensions: list[str] = ["binary_tensor_data"]


class Live(Wire):
    """The process is alive."""

    live: bool = True


class Ready(Wire):
    """The server takes requests."""

    ready: bool = True


class ModelReady(Ready):
    """A model takes requests."""

    name: str


@dataclass(frozen=True)
class Protocol:
    """Answers the requests of the protocol."""

    catalogue: Catalogue
    predictor: Predictor
    uploads: Uploads
    serving: Serving
    max_pixels: int

    async def ready(self, reference: str) -> ModelReady:
        """Report whether a model is here; begin to fetch it where it is not.

        Raises:
            BeingFetched: it is not here; and as `Catalogue.resolve`.
        """
        if not self.catalogue.is_here(await self.catalogue.find(reference)):
            await self.catalogue.resolve(reference)
        return ModelReady(name=reference)

    async def describe(self, reference: str, wait: float) -> ModelMetadata:
        """Describe a model, which is fetched for that. Raises as `Catalogue.resolve`."""
        model = await self.catalogue.resolve(reference, wait)
        name, version = identity(model)
        manifest = model.manifest
        return ModelMetadata(
            name=name,
            versions=[version],
            platform="onnxruntime_onnx",
            inputs=[_chips(manifest.input)],
            outputs=_outputs(model),
            parameters={"tag": model.tag, "sha256": model.sha256, "task": manifest.task},
        )

    async def infer(self, request: Request, reference: str, wait: float) -> Response:
        """Answer for up to `AT_ONCE` chips, each a prediction as one of `/predict`."""
        body = await self.uploads.read_bytes(request.scope, request.receive)
        asked, pieces = parse_request(body, dict(request.scope["headers"]).get(HEADER))
        tensor = _only_input(asked)
        model = await self.catalogue.resolve(reference, wait)
        chips = self._read(tensor, pieces.get(tensor.name), model)
        ids = [request.state.prediction_id]
        ids += [f"{random.getrandbits(64):016x}" for _ in chips[1:]]
        found = [
            await self.predictor.infer(chip, id, model) for chip, id in zip(chips, ids, strict=True)
        ]
        arrays = _arrays(model, found)
        wanted = [part.name for part in asked.outputs] or list(arrays)
        if unknown := [name for name in wanted if name not in arrays]:
            raise Unprocessable(f"outputs: {unknown[0]!a} is none of {', '.join(arrays)}")
        request.state.tag = model.tag
        name, version = identity(model)
        label = {"tag": model.tag, "sha256": model.sha256, "request_ids": ",".join(ids)}
        answer = {"model_name": name, "model_version": version, "id": asked.id, "parameters": label}
        content, length = encode(answer, {name: arrays[name] for name in wanted}, asked)
        headers = {HEADER.decode(): str(length)} if length else {}
        return Response(content, media_type=OCTETS if length else JSON, headers=headers)

    def _read(self, tensor: InputTensor, piece: memoryview | None, model: Model) -> Array:
        """Read chips (B, bands, height, width)."""
        wanted, count = _chips(model.manifest.input), tensor.shape[0]
        fits = len(tensor.shape) == 4 and all(
            edge in (-1, found) for edge, found in zip(wanted.shape, tensor.shape, strict=True)
        )
        if tensor.name != CHIPS or not fits:
            raise Unprocessable(
                f"inputs: {tensor.name!a} is {tensor.shape}, {model.tag} takes {CHIPS}: "
                f"{wanted.shape} of {wanted.datatype}"
            )
        if count > AT_ONCE or int(np.prod(tensor.shape)) > self.max_pixels:
            raise TooLarge(
                f"{CHIPS}: {count} chips; a request may have {AT_ONCE}, and {self.max_pixels} "
                "values: send several requests"
            )
        if tensor.datatype != wanted.datatype:
            raise Unprocessable(
                f"{CHIPS}: datatype {tensor.datatype!a}, {model.tag} takes {wanted.datatype}: "
                "convert the values, not by stretching them"
            )
        return read_tensor(tensor, piece)


def _only_input(asked: InferRequest) -> InputTensor:
    if len(asked.inputs) != 1:
        raise Unprocessable(f"inputs: send one tensor, {CHIPS}, not {len(asked.inputs)}")
    return asked.inputs[0]


def _chips(wanted: Input) -> TensorInfo:
    """What a model takes: chips of one size, or images of any."""
    edges = [-1, -1] if wanted.multiple else [wanted.height, wanted.width]
    shape = [-1, len(wanted.bands), *edges]
    return TensorInfo(name=CHIPS, datatype=NAMES[wanted.dtype], shape=shape)


def _outputs(model: Model) -> list[TensorInfo]:
    """What a model gives, as its graph says; and the class, where a chip has one."""
    found = [
        TensorInfo(name=name, datatype=NAMES[dtype], shape=[-1, *shape])
        for name, dtype, (_, *shape) in model.engine.outputs()
        if name in _names(model)
    ]
    return found + [TensorInfo(name=CLASS, datatype="BYTES", shape=[-1])] * model.task.confirmable


def _names(model: Model) -> list[str]:
    """The outputs of the graph that an answer has."""
    return [name for name in model.task.outputs if name != "statistics"]


def _arrays(model: Model, found: list[Inferred]) -> dict[str, Array | list[str]]:
    """The outputs for B chips, (B, ...) each; the class is a text."""
    arrays: dict[str, Array | list[str]] = {
        name: np.concatenate([getattr(it.output, name) for it in found]) for name in _names(model)
    }
    if model.task.confirmable:
        arrays[CLASS] = [model.manifest.classes[it.outcome.best] for it in found]
    return arrays


def identity(model: Model) -> tuple[str, str]:
    """Name and version of a model; a bundle without a version has its tag instead."""
    name, _, version = model.tag.partition("@")
    return (name, version) if version else (model.manifest.name, model.tag)


def reference_of(name: str, version: str | None) -> str:
    """What a path means: a version may be a number, with `v` or without, or a stage."""
    if version is None:
        return name
    number = NUMBER.fullmatch(version)
    return f"{name}@v{number[1]}" if number else f"{name}#{version}"


def by_path(predict: Predict) -> FastRoute:
    """`POST /models/{name}/predict` as an ASGI application."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> str:
        return await predict(scope, receive, send, scope["path"].split("/")[2])

    return answer


def add_routes(app: FastAPI, predict: Predict, protocol: Protocol) -> None:
    """Register the routes."""
    _add_predict(app, predict)
    _add_server(app, protocol)
    for number, path in enumerate(PATHS):
        _add_model(app, protocol, path, "_version" * number)


def _add_predict(app: FastAPI, predict: Predict) -> None:
    def predict_by_name(
        name: str,
        fit: Literal["crop", "pad", "stretch", "resize"] | None = None,
        wait: Wait = 0.0,
    ) -> None:
        """As `/predict`, by the model with this name: `landcover@v1.2.0`, `landcover%23staging`."""

    add_prediction(app, NAMED, predict_by_name, by_path(predict))


def _add_server(app: FastAPI, protocol: Protocol) -> None:
    @app.get("/v2", tags=["protocol"])
    async def server() -> ServerMetadata:
        """Describe the server: the Open Inference Protocol, version 2."""
        return ServerMetadata()

    @app.get("/v2/health/live", tags=["protocol"])
    async def live() -> Live:
        """Report that the process is alive."""
        return Live()

    @app.get("/v2/health/ready", tags=["protocol"], responses=problems(503))
    async def ready() -> Ready:
        """Report whether this worker takes requests."""
        if protocol.serving.draining:
            raise Unavailable("this worker is stopping")
        protocol.serving.model()
        return Ready()


def _add_model(app: FastAPI, protocol: Protocol, path: str, suffix: str) -> None:
    """Register the routes of a model, with or without a version in the path."""

    @app.get(path, tags=["protocol"], responses=problems(*ERRORS), name=f"describe{suffix}")
    async def describe(name: str, version: str | None = None, wait: Wait = 0.0) -> ModelMetadata:
        """Describe a model: a name, `landcover@v1.2.0`, or a version or stage of it."""
        return await protocol.describe(reference_of(name, version), wait)

    @app.get(f"{path}/ready", tags=["protocol"], responses=problems(*ERRORS), name=f"is{suffix}")
    async def model_ready(name: str, version: str | None = None) -> ModelReady:
        """Report whether a model is here; where not, it is fetched from now on."""
        return await protocol.ready(reference_of(name, version))

    @app.post(
        f"{path}/infer",
        tags=["protocol"],
        name=f"infer{suffix}",
        response_model=InferAnswer,
        responses={
            200: {"content": {OCTETS: {}}, "description": "JSON, or JSON with tensors behind it"},
            **problems(*ERRORS, 400, 408, 413, 415),
        },
        openapi_extra=BODY,
    )
    async def infer(
        request: Request,
        name: str,
        version: str | None = None,
        wait: Wait = 0.0,
        inference_header_content_length: Annotated[
            int | None, Header(ge=0, description="Bytes of JSON before binary tensors.")
        ] = None,
    ) -> Response:
        """Answer for up to 64 chips, numbers as JSON or as bytes behind it."""
        return await protocol.infer(request, reference_of(name, version), wait)
