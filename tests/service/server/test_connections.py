"""How long a connection stays: between two requests, and while the headers of one are awaited.

The limits are constants of service/server/worker.py, ten seconds and more; here the same service
runs with short ones, and no test asks how long something took.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.make.server import Server, address
from tests.make.wire import BODY, connect, head, read

# The worker is imported late, by the server, and by then in every process that will be forked.
PROGRAM = """
from service.__main__ import main
from service.server.supervisor import Supervisor

run = Supervisor.run

def run_with_short_limits(parent):
    import service.server.worker
    service.server.worker.HEADER_SECONDS, service.server.worker.KEEP_ALIVE = {headers}, {idle}
    run(parent)

Supervisor.run = run_with_short_limits
main()
"""
LONG = 600  # seconds; a test would fail before
GET = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
UPLOAD = head(f"content-length: {len(BODY)}")
HEALTH = GET[:-2] + b"content-length: 4\r\n\r\n"
EXPECTING = head("content-length: 4", "expect: 100-continue", path="/nowhere")
REFUSED = head("content-length: 4", path="/nowhere")
FIRST: dict[str, tuple[int, list[bytes]]] = {
    "without a body": (200, [GET]),
    "with a body at once": (200, [UPLOAD + BODY]),
    "with a body that comes later": (200, [UPLOAD, BODY[:9000], BODY[9000:]]),
    "with headers in two pieces": (200, [GET[:20], GET[20:]]),
    "with a body in the chunked coding": (
        200,
        [head("transfer-encoding: chunked"), b"%x\r\n%s\r\n" % (len(BODY), BODY), b"0\r\n\r\n"],
    ),
    "that is refused": (404, [REFUSED + b"body"]),
}
LATE = {
    "that is refused before its body comes": (404, [REFUSED, b"body"]),
    "that is refused before its body is asked for": (404, [EXPECTING, b"body"]),
    "that is answered before its body comes": (200, [HEALTH, b"body"]),
}
UPGRADE_HEADERS = (
    b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n\r\n"
)
SOCKET = b"connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
SOCKET += b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"


@contextmanager
def limited(bundle: Path, folder: Path, headers: float, idle: float) -> Iterator[Server]:
    """The real service with other seconds for headers, and for a connection without a request."""
    values = {
        "PORT": "0",
        "WORKERS": "1",
        "BUNDLE": str(bundle),
        "STATE": str(folder / "state"),
        "REPOSITORY": str(folder),
    }
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("SERVICE_")}
    log = folder / "service.log"
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(headers=headers, idle=idle)],
            cwd=ROOT,
            env=inherited | {f"SERVICE_{key}": value for key, value in values.items()},
            stdout=stream,
            stderr=subprocess.STDOUT,
            text=True,
        )
    server = Server(process, log)
    try:
        server.url = address(server)
        server.wait_for()
        yield server
    finally:
        server.stop()


def ask(connection: socket.socket, pieces: list[bytes]) -> int:
    for piece in pieces:
        connection.sendall(piece)
        time.sleep(0.02)  # to be a packet of its own
    return read(connection).status


def test_a_connection_outlives_the_time_that_headers_may_take(bundle: Path, tmp_path: Path) -> None:
    with limited(bundle, tmp_path, headers=2, idle=LONG) as server, ExitStack() as stack:
        connections = []
        for name, (status, pieces) in (FIRST | LATE).items():
            connection = stack.enter_context(connect(server))
            assert ask(connection, pieces) == status, name
            connections.append((name, connection))
        with connect(server) as silent:  # opened after them, it ends when their time is over
            assert silent.recv(1) == b""
        for name, connection in connections:
            assert ask(connection, [GET]) == 200, name


def test_the_headers_of_every_request_are_awaited_for_so_long(bundle: Path, tmp_path: Path) -> None:
    with limited(bundle, tmp_path, headers=1, idle=LONG) as server, ExitStack() as stack:
        silent, first, later = (stack.enter_context(connect(server)) for _ in range(3))
        assert ask(later, [GET]) == 200
        for connection in (first, later):
            connection.sendall(GET[:20])
        for connection in (silent, first, later):
            assert connection.recv(1) == b"", "its end"


@pytest.mark.parametrize(
    "requests",
    [
        pytest.param(FIRST, id="with its body"),
        pytest.param(
            LATE,
            id="before its body",
        ),
    ],
)
def test_an_idle_connection_is_closed_in_order_whenever_it_was_answered(
    bundle: Path, tmp_path: Path, requests: dict[str, tuple[int, list[bytes]]]
) -> None:
    with limited(bundle, tmp_path, headers=LONG, idle=1) as server, ExitStack() as stack:
        connections = {name: stack.enter_context(connect(server)) for name in requests}
        for name, (status, pieces) in requests.items():
            assert ask(connections[name], pieces) == status, name
        for connection in connections.values():
            connection.settimeout(5)
            assert connection.recv(1) == b"", "its end, and no reset"
        with connect(server) as connection:
            assert ask(connection, [GET]) == 200


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([UPLOAD[:-2] + UPGRADE_HEADERS + BODY], id="HTTP/2 with a body"),
        pytest.param(
            [UPLOAD[:-2] + UPGRADE_HEADERS, BODY], id="HTTP/2 with a body that comes later"
        ),
        pytest.param([GET[:-2] + SOCKET], id="WebSocket"),
    ],
)
@pytest.mark.parametrize("before", [[], [GET]], ids=["at first", "on a connection in use"])
def test_the_offer_of_another_protocol_is_ignored(
    server: Server, before: list[bytes], pieces: list[bytes]
) -> None:
    """`curl --http2` and Java's client offer HTTP/2 with every request."""
    with connect(server) as connection:
        for request in before:
            assert ask(connection, [request]) == 200
        assert ask(connection, pieces) == 200
        assert ask(connection, [GET]) == 200
