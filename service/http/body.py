"""Reads the bodies of requests: all in memory, and limited in size, time and number."""

import asyncio
from typing import Any, NamedTuple

from starlette.types import Message, Receive, Scope

from contracts.images import Buffer
from service.errors import CUT_IT, SlowUpload, TooLarge, UnsupportedMedia
from service.http.multipart import file_field
from service.inference.memory import ImageMemory


class Disconnected(Exception):
    """The client has left."""


class BodyLimits(NamedTuple):
    """Limits of one body."""

    size: int
    """Bytes."""
    seconds: float
    """Until it has arrived."""
    name: str
    """Name in messages."""
    cure: str
    """Cure for a body that is too large."""


SMALL = BodyLimits(64 << 10, 10.0, "body", "/docs says what to send")
"""Limits of a body other than an upload; FastAPI itself has none."""


async def read_body(
    receive: Receive, state: dict[str, Any], limits: BodyLimits, memory: ImageMemory | None = None
) -> bytes:
    """Read a body; its bytes count as held in `memory` until it is complete.

    `state["bytes_in"]` gets the number of bytes read, also for a refused body.

    Raises:
        TooLarge, SlowUpload, Overloaded: it is over a limit.
        Disconnected: the client left before it had sent everything.
    """
    whole = bytearray()  # a list of one-byte pieces would be fifty times as large
    arrived = 0
    try:
        async with asyncio.timeout(limits.seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Disconnected
                piece: bytes = message.get("body", b"")
                more = message.get("more_body", False)
                arrived += len(piece)
                if arrived > limits.size:
                    raise TooLarge(
                        f"the {limits.name} has more than {limits.size} bytes: {limits.cure}", more
                    )
                if not more and not whole:
                    return piece
                if memory is not None:
                    memory.hold(len(piece))
                whole += piece
                if not more:
                    return bytes(whole)
    except TimeoutError:
        raise SlowUpload(
            f"the {limits.name} took longer than {limits.seconds:g} s: send it again"
        ) from None
    finally:
        state["bytes_in"] = arrived
        if memory is not None:
            memory.release(len(whole))


async def read_small(receive: Receive, state: dict[str, Any]) -> Receive:
    """Read a small body, and return a `receive` that passes it to FastAPI.

    Raises:
        TooLarge, SlowUpload, Disconnected: as `read_body`.
    """
    body = await read_body(receive, state, SMALL)
    pending = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def replay() -> Message:
        return next(pending, None) or await receive()

    return replay


class Uploads:
    """Reads the images that requests carry."""

    def __init__(self, size: int, seconds: float, memory: ImageMemory) -> None:
        """Take at most so many bytes in so many seconds; all uploads together share `memory`."""
        self._limits = BodyLimits(size, seconds, "upload", CUT_IT)
        self._memory = memory

    async def read(self, scope: Scope, receive: Receive) -> Buffer:
        """Read the image of a request: the bare body, or the field `file` of a form.

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
        body = await self.read_bytes(scope, receive)
        return file_field(content_type, body) if form else body

    async def read_bytes(self, scope: Scope, receive: Receive) -> bytes:
        """Read the body of a request as it is; raises as above."""
        headers = dict(scope["headers"])
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise UnsupportedMedia(
                "content-encoding: send the image as it is, not compressed again"
            )
        length = headers.get(b"content-length")
        limits = self._limits
        if length is not None and int(length) > limits.size:
            raise TooLarge(
                f"the upload has more than {limits.size} bytes: {limits.cure}", unread=True
            )
        return await read_body(receive, scope["state"], limits, self._memory)
