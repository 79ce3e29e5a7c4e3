"""Requests byte by byte, what a refusal must look like, and what the server's processes hold."""

import http.client
import json
import socket
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import numpy as np

from tests.conftest import ROOT
from tests.make.bundles import CLASSES, expected, make_chip
from tests.make.images import npy
from tests.make.server import Server

BARE = "application/octet-stream"
WITHIN = 60.0  # seconds; generous, the machine may be busy
SECRETS = (str(ROOT), "/tmp", "Traceback", "site-packages", 'File "')
CHIP = make_chip(11)
BODY = npy(CHIP)


class Reply(NamedTuple):
    """An answer as it came."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def connect(server: Server) -> socket.socket:
    place = urlsplit(server.url)
    return socket.create_connection((place.hostname, place.port), timeout=WITHIN)


def read(connection: socket.socket) -> Reply:
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    headers = {key.lower(): value for key, value in answer.getheaders()}
    reply = Reply(answer.status, headers, answer.read())
    answer.close()
    return reply


def exchange(server: Server, *pieces: bytes) -> Reply:
    """Send, then read the first answer."""
    with connect(server) as connection:
        for piece in pieces:
            connection.sendall(piece)
        return read(connection)


def head(*lines: str, path: str = "/predict", kind: str = BARE) -> bytes:
    """The head of an upload; `lines` are more headers."""
    fields = (f"POST {path} HTTP/1.1", "host: localhost", f"content-type: {kind}", *lines)
    return "\r\n".join((*fields, "", "")).encode("latin-1")


def upload(server: Server, content: bytes, path: str = "/predict") -> httpx.Response:
    return httpx.post(
        server.url + path, content=content, headers={"content-type": BARE}, timeout=WITHIN
    )


def refusal(reply: Reply | httpx.Response, *statuses: int) -> str:
    """Hold an answer to be one clear refusal with a problem body; its sentence."""
    if isinstance(reply, httpx.Response):
        reply = Reply(reply.status_code, reply.headers, reply.content)
    text = reply.body.decode("utf-8")
    assert reply.status in (statuses or range(400, 500)), f"{reply.status}: {text[:500]}"
    assert reply.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = json.loads(text)
    assert body["status"] == reply.status
    assert body["type"] == "about:blank"
    assert len(body["detail"].split()) > 2, "no sentence"
    assert body["title"]
    leaked = [secret for secret in SECRETS if secret in text]
    assert not leaked, f"{leaked} in {text[:500]}"
    return str(body["detail"])


def next_is_right(server: Server, bundle: Path) -> None:
    """Whatever was before, a valid request is answered with what the model says."""
    answer = upload(server, BODY)
    assert answer.status_code == 200, answer.text
    found, wanted = answer.json(), _right_answer(bundle, (bundle / "model.json").read_bytes())
    assert np.allclose(list(found["probabilities"].values()), wanted, atol=2e-6)
    assert found["class"] == CLASSES[int(wanted.argmax())]


@cache
def _right_answer(bundle: Path, _: bytes) -> Any:
    return expected(bundle, CHIP)


def processes(server: Server) -> list[int]:
    """The parent and its workers."""
    return [server.process.pid, *server.workers()]


def memory(server: Server) -> float:
    """MiB that the processes of the server hold together, shared pages counted once."""
    total = 0
    for pid in processes(server):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


def descriptors(server: Server) -> int:
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in processes(server))


def threads(server: Server) -> int:
    return sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in processes(server))


def form(boundary: str, *parts: tuple[str, bytes], end: str = "--\r\n") -> bytes:
    """A multipart body; a part is its header lines and its content."""
    lines = [
        f"--{boundary}\r\n{headers}\r\n\r\n".encode("latin-1") + content + b"\r\n"
        for headers, content in parts
    ]
    return b"".join(lines) + f"--{boundary}{end}".encode("latin-1")


FILE = 'content-disposition: form-data; name="file"; filename="chip.npy"'


def chunked(pieces: Iterable[bytes]) -> Iterable[bytes]:
    """Pieces in the chunked coding, with its end."""
    for piece in pieces:
        yield f"{len(piece):x}\r\n".encode() + piece + b"\r\n"
    yield b"0\r\n\r\n"
