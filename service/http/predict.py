"""`POST /predict`: an upload in, an answer out.

`Predict` is a bare ASGI application. Reading a body through a framework's request object and forms
costs more than everything else in this file (docs/benchmarks.md); it is registered in the router
and in the OpenAPI document all the same.
"""

from typing import cast
from urllib.parse import parse_qs

from starlette.types import Receive, Scope, Send

from contracts.images import FITS, Fit
from service.errors import ServiceError, Unprocessable
from service.http.body import Uploads
from service.prediction import Predictor
from service.telemetry.metrics import Metrics

JSON = (b"content-type", b"application/json")


class Predict:
    """The prediction use case over HTTP."""

    def __init__(self, uploads: Uploads, predictor: Predictor, metrics: Metrics) -> None:
        """Take the parts; see container.py."""
        self._uploads = uploads
        self._predictor = predictor
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> str:
        """Answer one request (ASGI); returns the tag of the model that answered."""
        try:
            fit = read_fit(scope["query_string"])
            content = await self._uploads.read(scope, receive)
        except ServiceError as error:
            self._metrics.refuse(error)
            raise
        # Not the caller's id: callers may repeat one.
        prediction_id = scope["state"]["prediction_id"]
        body, tag = await self._predictor.predict(content, fit, prediction_id)
        length = (b"content-length", b"%d" % len(body))
        await send({"type": "http.response.start", "status": 200, "headers": [JSON, length]})
        await send({"type": "http.response.body", "body": body})
        return tag


def read_fit(query: bytes) -> Fit:
    """How `?fit=` asks for an image of another size to be resampled; empty without it.

    Raises:
        Unprocessable: `fit` has an unknown value.
    """
    if not query:
        return ""
    match parse_qs(query.decode("latin-1"), keep_blank_values=True).get("fit", []):
        case []:
            return ""
        case ["resize"]:  # its first name
            return "stretch"
        case ["crop" | "pad" | "stretch" as fit]:
            return cast(Fit, fit)
    raise Unprocessable(
        f"fit: use one of {', '.join(FITS)}; without it the image must have the right size"
    )
