"""Hands requests of a busy worker to an idle one of the same service.

Connections are dealt to workers beforehand, so that one may have two requests while another has
none. Then the worker sends the second image as a datagram, and gets the answer as one. Waiting
falls by a quarter with two workers and by two thirds with sixteen (docs/benchmarks.md).

An image that nobody answers in time, because the other worker died or refuses it, is answered here:
a prediction changes nothing, so that it may be made twice.
"""

import asyncio
import secrets
import struct
from collections.abc import Awaitable, Callable

from contracts.images import FITS, Buffer, Fit
from service.errors import ServiceError
from service.prediction import Predicted
from service.server.shared import ROOM, Inboxes, WorkerTable

MOST = 128 << 10  # bytes of an image that is handed over; a datagram is copied twice
SECONDS = 2.0  # that another worker may take

ASKED, ANSWERED, REFUSED = b"?", b"!", b"-"
_REQUEST = struct.Struct("=cQHBB")  # kind, number, slot of the asker, index of the fit, bytes of id
_RESPONSE = struct.Struct("=cQiddH")  # kind, number, class, confidence, seconds, length of the tag
_FITS: tuple[Fit, ...] = ("", *FITS)

Answer = Callable[[Buffer, Fit, str], Awaitable[Predicted]]


class Peers:
    """The other workers, as one of them sees them. Belongs to one event loop."""

    def __init__(self, table: WorkerTable, slot: int, inboxes: Inboxes, answer: Answer) -> None:
        """Answer what others hand over with `answer`, which raises a ServiceError to refuse."""
        self._table = table
        self._slot = slot
        self._inboxes = inboxes
        self._answer = answer
        self._number = secrets.randbits(62)  # no answer to a worker that died fits
        self._waiting: dict[int, asyncio.Future[Predicted | None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Forget what came for the worker before this one, and read from now on."""
        inbox = self._inboxes.reader(self._slot)
        try:
            while inbox.recv(1):
                pass
        except BlockingIOError:
            pass
        asyncio.get_running_loop().add_reader(inbox, self._receive)

    def stop(self) -> None:
        """Take nothing more: this worker ends."""
        self._table.busy[self._slot] = 1

    async def ask(self, content: Buffer, fit: Fit, prediction_id: str) -> Predicted | None:
        """Let an idle worker answer; None if there is none, or it does not."""
        if len(content) > MOST or (slot := self._find_idle()) is None:
            return None
        self._table.busy[slot] = 1  # until it has answered: nobody else hands it one too
        self._number += 1
        number = self._number
        id = prediction_id.encode()
        head = _REQUEST.pack(ASKED, number, self._slot, _FITS.index(fit), len(id))
        if not self._inboxes.send(slot, (head, id, content)):
            return None
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Predicted | None] = loop.create_future()
        self._waiting[number] = future
        late = loop.call_later(SECONDS, self._give_up, number)
        try:
            return await future
        finally:
            late.cancel()
            self._waiting.pop(number, None)

    def _find_idle(self) -> int | None:
        ready, busy, own = self._table.ready, self._table.busy, self._slot
        count = len(self._inboxes)
        for slot in range(own + 1, own + count):  # the next one first: not all ask the same
            if ready[slot % count] and not busy[slot % count]:
                return slot % count
        return None

    def _give_up(self, number: int) -> None:
        self._resolve(number, None)

    def _resolve(self, number: int, answer: Predicted | None) -> None:
        future = self._waiting.get(number)
        if future is not None and not future.done():
            future.set_result(answer)

    def _receive(self) -> None:
        try:
            message = self._inboxes.reader(self._slot).recv(ROOM)
        except OSError:
            return
        if message[:1] == ASKED:
            task = asyncio.ensure_future(self._serve(message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        kind, number, best, confidence, seconds, length = _RESPONSE.unpack_from(message)
        if kind == REFUSED:
            self._resolve(number, None)
            return
        start = _RESPONSE.size + length
        tag = message[_RESPONSE.size : start].decode()
        self._resolve(number, Predicted(message[start:], tag, best, confidence, seconds))

    async def _serve(self, message: bytes) -> None:
        _, number, asker, fit, length = _REQUEST.unpack_from(message)
        start = _REQUEST.size + length
        id, content = message[_REQUEST.size : start].decode(), memoryview(message)[start:]
        try:
            answer = await self._answer(content, _FITS[fit], id)
            tag = answer.tag.encode()
            fields = (answer.best, answer.confidence, answer.seconds, len(tag))
            parts = (_RESPONSE.pack(ANSWERED, number, *fields), tag, answer.body)
            sent = self._inboxes.send(asker, parts)
        except ServiceError:  # the asker says why: it decides by itself, and counts it once
            sent = False
        if not sent:
            self._inboxes.send(asker, (_RESPONSE.pack(REFUSED, number, -1, 0.0, 0.0, 0),))
