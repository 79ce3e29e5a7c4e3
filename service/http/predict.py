"""`POST /predict`: an upload in, an answer out.

`Predict` is a bare ASGI application. Reading a body through a framework's request object and forms
costs more than everything else in this file (docs/benchmarks.md); it is registered in the router
and in the OpenAPI document all the same.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qs

from starlette.types import Receive, Scope, Send

from service.errors import (
    InvalidOutput,
    Overloaded,
    ServiceError,
    SlowUpload,
    TooLarge,
    Unprocessable,
    UnsupportedMedia,
)
from service.feedback.recorder import Recorder
from service.http.multipart import file_field
from service.inference.decode import Array, Buffer, decode
from service.inference.model import Model, Serving
from service.inference.queue import Turns
from service.telemetry.metrics import Metrics
from service.telemetry.observations import Observations
from service.telemetry.tracing import Tracing

# Bytes, or values of an image: more is decoded in a thread, so that the others need not wait.
LARGE = 1 << 20
JSON = (b"content-type", b"application/json")

log = logging.getLogger("service.http.predict")

T = TypeVar("T")


class Disconnected(Exception):
    """The client has gone; there is nobody to answer."""


class Limits(NamedTuple):
    """What one upload, and all together, may take."""

    max_upload: int
    """Bytes of one upload."""
    max_pixels: int
    """Width x height x bands of one image."""
    upload_timeout: float
    """Seconds that one upload may take."""
    upload_memory: int
    """Bytes of unfinished uploads in this process."""


class Uploads:
    """Reads the bodies of requests, all in memory and all within the limits."""

    def __init__(self, limits: Limits) -> None:
        """Hold nothing yet."""
        self.limits = limits
        self.held = 0  # bytes
        self._one_at_a_time = asyncio.Semaphore(1)

    async def read(self, scope: Scope, receive: Receive) -> Buffer:
        """Read the image of a request: the bare body, or the field `file` of a form.

        `bytes_in` of its state is what came of the body, also when it is refused.

        Raises:
            ServiceError: the body is too large, too slow, or of a type that is not taken.
            Disconnected: the client left before it had sent everything.
        """
        headers = dict(scope["headers"])
        content_type = headers.get(b"content-type", b"")
        kind = content_type.partition(b";")[0].strip().lower()
        form = kind == b"multipart/form-data"
        if not form and not kind.startswith(b"image/") and kind != b"application/octet-stream":
            raise UnsupportedMedia(
                "content-type: send the image as multipart/form-data in the field `file`, or bare "
                "as image/tiff, image/png, image/jpeg or application/octet-stream"
            )
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise UnsupportedMedia(
                "content-encoding: send the image as it is, not compressed again"
            )
        length = headers.get(b"content-length")
        if length is not None and int(length) > self.limits.max_upload:
            raise self._too_large(unread=True)
        try:
            async with asyncio.timeout(self.limits.upload_timeout):
                body = await self._body(receive, scope["state"])
        except TimeoutError:
            seconds = self.limits.upload_timeout
            raise SlowUpload(f"the upload took longer than {seconds:g} s: send it again") from None
        return file_field(content_type, body) if form else body

    async def apart(self, content: Buffer, work: Callable[[], T]) -> T:
        """Do the work on a large image in a thread, one at a time; until then it counts as held.

        Raises:
            Overloaded: too many wait.
        """
        self._hold(len(content))
        try:
            async with self._one_at_a_time:
                return await asyncio.to_thread(work)
        finally:
            self.held -= len(content)

    async def _body(self, receive: Receive, state: dict[str, Any]) -> bytes:
        message = await receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            body: bytes = message.get("body", b"")
            state["bytes_in"] = len(body)
            if len(body) > self.limits.max_upload:
                raise self._too_large(unread=False)
            return body
        whole = bytearray()  # a list of pieces of one byte would be fifty times as large
        came = 0
        try:
            while True:
                if message["type"] == "http.disconnect":
                    raise Disconnected
                piece, more = message.get("body", b""), message.get("more_body", False)
                came += len(piece)
                if len(whole) + len(piece) > self.limits.max_upload:
                    raise self._too_large(unread=more)
                self._hold(len(piece))
                whole += piece
                if not more:
                    return bytes(whole)
                message = await receive()
        finally:
            self.held -= len(whole)
            state["bytes_in"] = came

    def _hold(self, size: int) -> None:
        if self.held + size > self.limits.upload_memory:
            raise Overloaded("too many uploads at once: try again in a second")
        self.held += size

    def _too_large(self, unread: bool) -> TooLarge:
        return TooLarge(
            f"the upload has more than {self.limits.max_upload} bytes: cut the image into chips",
            unread,
        )


class Predict:
    """Classifies one chip."""

    def __init__(
        self,
        serving: Serving,
        uploads: Uploads,
        turns: Turns,
        metrics: Metrics,
        tracing: Tracing,
        observations: Observations,
        recorder: Recorder,
    ) -> None:
        """Take the parts; see container.py."""
        self._serving = serving
        self._uploads = uploads
        self._turns = turns
        self._metrics = metrics
        self._tracing = tracing
        self._observations = observations
        self._recorder = recorder
        self._reported: Model | None = None  # whose invalid output is in the log already

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        try:
            resize = wants_resize(scope["query_string"])
            content = await self._uploads.read(scope, receive)
            body = await self._classified(content, resize, scope["state"])
        except ServiceError as error:
            self._metrics.refuse(error)
            raise
        length = (b"content-length", b"%d" % len(body))
        await send({"type": "http.response.start", "status": 200, "headers": [JSON, length]})
        await send({"type": "http.response.body", "body": body})

    async def _classified(self, content: Buffer, resize: bool, state: dict[str, Any]) -> bytes:
        limit = self._uploads.limits.max_pixels
        if len(content) < LARGE:
            job = partial(self._at_once, content, min(limit, LARGE), resize, state, perf_counter())
            try:
                return await self._turns.run(job)
            except TooLarge:  # a small file can declare a large image
                if limit <= LARGE:
                    raise
        model = self._serving.model()
        decoding = partial(self._decode, content, limit, model, resize)
        chip = await self._uploads.apart(content, decoding)
        return await self._turns.run(partial(self._classify, chip, model, state, perf_counter()))

    def _at_once(
        self, content: Buffer, limit: int, resize: bool, state: dict[str, Any], arrived: float
    ) -> bytes:
        model = self._serving.model()
        chip = self._decode(content, limit, model, resize)
        return self._classify(chip, model, state, arrived)

    def _decode(self, content: Buffer, limit: int, model: Model, resize: bool) -> Array:
        with self._tracing.span("decode", bytes=len(content)):
            return decode(content, model.manifest.input, limit, resize)

    def _classify(self, chip: Array, model: Model, state: dict[str, Any], arrived: float) -> bytes:
        started = perf_counter()
        with self._tracing.span("inference", tag=model.tag):
            answer = model.classify(chip)
        ended = perf_counter()
        name = state["prediction_id"]  # never the caller's, who may send many under one
        try:
            best, body = model.render(answer.probabilities[0], name)
        except InvalidOutput as error:
            if self._reported is not model:  # once, not with each request
                self._reported = model
                extra = {"tag": model.tag, "detail": error.detail}
                log.error("the model returned no prediction", extra=extra)
            raise
        state["tag"] = model.tag
        self._observations.add(model, best, answer, ended - started, started - arrived)
        probability = float(answer.probabilities[0, best])
        self._recorder.record(name, model, best, probability, chip)
        return body


def wants_resize(query: bytes) -> bool:
    """Whether `?fit=resize` was given.

    Raises:
        Unprocessable: `fit` has another value.
    """
    if not query:
        return False
    values = parse_qs(query.decode("latin-1"), keep_blank_values=True).get("fit", [])
    if values not in ([], ["resize"]):
        raise Unprocessable("fit: the only value is `resize`; without it the size has to be right")
    return bool(values)
