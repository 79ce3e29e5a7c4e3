"""`POST /predict`: an upload in, an answer out.

`Predict` is a bare ASGI application. Reading a body through a framework's request object and forms
costs more than everything else in this file (docs/benchmarks.md); it is registered in the router
and in the OpenAPI document all the same.
"""

from urllib.parse import parse_qs

from starlette.types import Receive, Scope, Send

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
            resize = wants_resize(scope["query_string"])
            content = await self._uploads.read(scope, receive)
        except ServiceError as error:
            self._metrics.refuse(error)
            raise
        prediction_id = scope["state"][
            "prediction_id"
        ]  # not the caller's id: callers may repeat one
        body, tag = await self._predictor.predict(content, resize, prediction_id)
        length = (b"content-length", b"%d" % len(body))
        await send({"type": "http.response.start", "status": 200, "headers": [JSON, length]})
        await send({"type": "http.response.body", "body": body})
        return tag


def wants_resize(query: bytes) -> bool:
    """Whether `?fit=resize` was given.

    Raises:
        Unprocessable: `fit` has another value.
    """
    if not query:
        return False
    values = parse_qs(query.decode("latin-1"), keep_blank_values=True).get("fit", [])
    if values not in ([], ["resize"]):
        raise Unprocessable(
            "fit: the only value is `resize`; without it the image must have the right size"
        )
    return bool(values)
