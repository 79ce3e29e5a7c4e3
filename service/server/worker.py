"""One worker: uvicorn's HTTP protocol on connections that the supervisor dispatches.

It overrides inner points of uvicorn: pyproject.toml pins the minor version, and
tests/service/server/test_connections.py is what an upgrade has to pass.
"""

import asyncio
import json
import logging
import operator
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from httptools import HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.app import create_app
from service.container import Container
from service.http.problem import MEDIA_TYPE, problem
from service.server.descriptors import most_connections
from service.server.peers import Peers
from service.server.shared import Inboxes, WorkerTable
from service.settings import Settings
from service.telemetry.metrics import use_slot

MAX_HEADERS = 64 << 10  # bytes of a request's line and headers; the parser itself has no limit
HEADER_SECONDS = 10.0  # that a request's headers may take
KEEP_ALIVE = 75  # seconds that an idle connection stays; above the 60 of usual balancers
FINISH = 25  # seconds that requests in flight have when the worker stops
MAX_DESCRIPTORS = 64  # connections taken from the channel at once

# Headers that offer another protocol.
UPGRADE_HEADERS = (b"connection", b"upgrade", b"http2-settings")

BUSY = "this worker holds as many connections as it may: try again, or start more replicas"
FULL_BODY = json.dumps(problem(503, BUSY, "about:blank")).encode()
FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: %s\r\ncontent-length: %d\r\n"
    b"retry-after: 1\r\nconnection: close\r\n\r\n%s"
) % (MEDIA_TYPE.encode(), len(FULL_BODY), FULL_BODY)
HEADERS_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\n"
    b"connection: close\r\n\r\n"
)


class CorkedTransport:
    """A transport that keeps the head of a response back until its body comes: one packet, not two.

    uvicorn writes them apart; on loopback that is a tenth of a request (docs/benchmarks.md).
    """

    __slots__ = ("_head", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        """Stand before a transport for the time of one response."""
        self._transport = transport
        self._head: bytes | None = b""

    def write(self, data: bytes) -> None:
        """Keep the head, send everything else."""
        if self._head is None or data.startswith(b"HTTP/1.1 100 "):
            self._transport.write(data)
        elif self._head:
            self._transport.write(self._head + data)
            self._head = None
        else:
            self._head = data

    def flush(self) -> None:
        """Send a head that has no body."""
        if self._head:
            self._transport.write(self._head)
        self._head = None

    def close(self) -> None:
        """Close after everything is sent."""
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether the connection is going."""
        return self._transport.is_closing()


class UpgradeIgnoringParser(HttpRequestParser):
    """httptools' parser, which would skip the body of a request that offers another protocol.

    A server may ignore the offer (RFC 9110, 7.8). `curl --http2` and Java's client make it always.
    """

    def __init__(self, connection: "Connection") -> None:
        """Parse for `connection`."""
        super().__init__(connection)
        self._connection = connection

    def feed_data(self, data: Any) -> None:
        """Parse data; a request that offers another protocol is parsed again without the offer."""
        try:
            super().feed_data(data)
        except HttpParserUpgrade as stopped:
            rest = data[stopped.args[0] :]
            self._connection.reparse_without_upgrade(rest)


class Connection(HttpToolsProtocol):
    """uvicorn's protocol with limits on headers, and a count of connections that have ended."""

    table: WorkerTable
    slot: int
    draining: Callable[[], bool]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Begin before the first header."""
        super().__init__(*args, **kwargs)
        self._in_headers = True
        self._header_bytes = 0
        self._fed = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._offers_upgrade = False
        self.parser = UpgradeIgnoringParser(self)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect the first request soon."""
        super().connection_made(transport)
        self._start_deadline()

    def data_received(self, data: bytes) -> None:
        """Parse what has come; headers have to end in bounded size and time."""
        self._fed = len(data)
        super().data_received(data)
        if not self._in_headers or self.transport.is_closing():
            return
        self._header_bytes += len(data)
        if self._header_bytes <= 0:  # all of it belonged to the request that has just ended
            return
        if self._header_bytes > MAX_HEADERS:
            self.transport.write(HEADERS_TOO_LARGE)
            self.transport.close()
        elif self._deadline is None:
            self._start_deadline()

    def on_headers_complete(self) -> None:
        """Begin the body."""
        self._offers_upgrade = (
            self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        )
        if self._offers_upgrade:
            return
        self._in_headers = False
        self._cancel_deadline()
        self._unset_keepalive_if_required()
        super().on_headers_complete()
        if self.draining():  # the client is to go elsewhere before this connection ends
            self.cycle.keep_alive = False
        corked = CorkedTransport(self.transport)
        self.cycle.transport = corked  # type: ignore[assignment]
        self.cycle.on_response = partial(self._complete, corked)

    def reparse_without_upgrade(self, rest: bytes) -> None:
        """Read a request whose headers offered another protocol, without the offer."""
        lines = [b"%s %s HTTP/1.1" % (self.parser.get_method(), self.url)]
        lines += [b"%s: %s" % item for item in self.headers if item[0] not in UPGRADE_HEADERS]
        self._offers_upgrade = False
        self.parser = UpgradeIgnoringParser(self)
        self.parser.feed_data(b"\r\n".join([*lines, b"", b""]) + rest)

    def _complete(self, corked: CorkedTransport) -> None:
        """Flush this response, then go on with the next request."""
        corked.flush()  # the next request may be here already, with its own transport
        if self.cycle.response_complete and not self._in_headers:
            self._start_deadline()  # the unread rest of a refused body
        self.on_response_complete()

    def on_message_complete(self) -> None:
        """Expect the headers of the next request."""
        if self._offers_upgrade:
            return
        self._in_headers = True
        self._header_bytes = -self._fed  # data_received adds what belonged to this request
        self._cancel_deadline()
        super().on_message_complete()
        if self.cycle.response_complete:  # a refused body has ended: nothing else waits for a time
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def connection_lost(self, exc: Exception | None) -> None:
        """Count the connection as ended, for the supervisor."""
        self._cancel_deadline()
        self.table.ended[self.slot] += 1
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Refuse malformed HTTP with a problem document, as every other refusal."""
        detail = "the request is not valid HTTP/1.1: check its headers and its length"
        body = json.dumps(problem(400, detail, "about:blank")).encode()
        head = "HTTP/1.1 400 Bad Request\r\ncontent-type: %s\r\ncontent-length: %d\r\n"
        head += "connection: close\r\n\r\n"
        self.transport.write((head % (MEDIA_TYPE, len(body))).encode() + body)
        self.transport.close()

    def _start_deadline(self) -> None:
        """Close the connection soon, unless what is expected comes."""
        self._cancel_deadline()
        self._deadline = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class Worker(uvicorn.Server):
    """Takes connections from a channel instead of a listening socket."""

    def __init__(
        self,
        config: uvicorn.Config,
        container: Container,
        channel: socket.socket,
        peers: Peers,
    ) -> None:
        """Take connections from `channel`, until its other end is closed."""
        super().__init__(config)
        self._container = container
        self._channel = channel
        self._peers = peers
        self._limit = most_connections(container.settings().connections)
        self._adopting: set[asyncio.Task[Any]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then take connections."""
        await self.lifespan.startup()
        self._channel.setblocking(False)
        asyncio.get_running_loop().add_reader(self._channel, self._receive)
        self._peers.start()
        self.servers = []
        self.started = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal makes it not ready; the end of the channel makes it stop."""
        self._container.serving().draining = True

    def _receive(self) -> None:
        try:
            message, descriptors, _, _ = socket.recv_fds(
                self._channel, MAX_DESCRIPTORS, MAX_DESCRIPTORS
            )
        except BlockingIOError:
            return
        except OSError:
            message, descriptors = b"", []
        for descriptor in descriptors:
            # Or a child that fetches a model would keep the client of a killed worker waiting.
            os.set_inheritable(descriptor, False)
            task = asyncio.ensure_future(self._adopt(socket.socket(fileno=descriptor)))
            self._adopting.add(task)
            task.add_done_callback(self._adopting.discard)
        if not message:
            asyncio.get_running_loop().remove_reader(self._channel)
            self._container.serving().draining = True
            self._peers.stop()
            self.should_exit = True

    async def _adopt(self, connection: socket.socket) -> None:
        try:
            await self._open(connection)
        except OSError:  # the client has left already
            Connection.table.ended[Connection.slot] += 1
            connection.close()

    async def _open(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        if len(self.server_state.connections) >= self._limit:
            with suppress(OSError):
                connection.send(FULL)
            raise ConnectionAbortedError
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> asyncio.Protocol:
        return Connection(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )


def run_worker(
    settings: Settings, channel: socket.socket, table: WorkerTable, slot: int, inboxes: Inboxes
) -> None:
    """Serve the connections of a channel until it is closed."""
    use_slot(slot)
    container = Container()
    container.settings.override(settings)
    serving = container.serving()
    serving.when_ready = partial(operator.setitem, table.ready, slot, 1)
    Connection.table, Connection.slot = table, slot
    Connection.draining = staticmethod(lambda: serving.draining)
    predictor = container.predictor()
    peers = Peers(table, slot, inboxes, predictor.predict_for_peer)
    if len(inboxes) > 1:
        predictor.peers = peers
    container.queue().mark = partial(operator.setitem, table.busy, slot)
    config = uvicorn.Config(
        create_app(container),
        http=Connection,
        loop="uvloop",
        ws="none",  # no WebSockets: uvicorn would take the connection away
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=FINISH,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # until uvicorn has its own handler
    logging.getLogger("service").debug("worker starts", extra={"slot": slot})
    Worker(config, container, channel, peers).run()
