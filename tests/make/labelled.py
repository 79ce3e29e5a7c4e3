"""Services on loopback: one gives labelled images back as the real one does, and worse."""

import io
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import numpy.typing as npt

from tests.fakes import http

KEY = "key-with-role-label"
PAGE = 2  # answers, so that a few make several pages
DROPS = 200  # bytes of an answer that drips, before it gives up


def npy(pixels: npt.NDArray[Any]) -> bytes:
    """An array as a file."""
    buffer = io.BytesIO()
    np.save(buffer, pixels, allow_pickle=True)
    return buffer.getvalue()


class Service:
    """Holds answers and images; what goes wrong is set on it."""

    def __init__(self) -> None:
        self.url = ""
        self.answers: list[dict[str, Any]] = []
        self.images: dict[str, bytes] = {}
        self.key = KEY
        self.asked: list[str] = []
        self.keys: list[str | None] = []
        self.failures: list[int] = []  # status of the next answers
        self.page: bytes | None = None  # instead of any page
        self.location = ""
        self.circle = False
        self.cut = False
        self.broken: set[str] = set()  # images that always fail

    def add(
        self,
        request_id: str,
        label: str | None,
        image: npt.NDArray[Any] | bytes | None = None,
        at: str = "2026-05-01T12:00:00Z",
        objects: list[dict[str, Any]] | None = None,
    ) -> None:
        """Hold an answer, and its image."""
        self.answers.append(
            {
                "request_id": request_id,
                "label": label,
                "predicted": "class-0",
                "probability": 0.5,
                "tag": "landcover@v1.0.0",
                "sha256": "0" * 64,
                "predicted_at": "2026-05-01T11:00:00Z",
                "answered_at": at if label is not None or objects is not None else None,
                "image": image is not None,
            }
            | ({} if objects is None else {"objects": objects})
        )
        if image is not None:
            self.images[request_id] = image if isinstance(image, bytes) else npy(image)


class Handler(http.Handler[Service]):
    """Answers as the contract has it."""

    def do_GET(self) -> None:
        """Serve a page or an image."""
        parts = urlsplit(self.path)
        service = self.state
        service.asked.append(self.path)
        service.keys.append(self.headers.get("Authorization"))
        if service.failures:
            self._send(b"{}", service.failures.pop(0))
        elif self.headers.get("Authorization") != f"Bearer {service.key}":
            self._send(b"{}", 401)
        elif parts.path == "/feedback":
            self._page({name: values[0] for name, values in parse_qs(parts.query).items()})
        else:
            self._image(unquote(parts.path.removeprefix("/feedback/").removesuffix(".npy")))

    def _page(self, query: dict[str, str]) -> None:
        service = self.state
        if service.page is not None:
            self._send(service.page)
            return
        assert query["labelled"] == "true" and 1 <= int(query["limit"]) <= 1000
        start = int(query.get("after", "0"))
        labelled = [answer for answer in service.answers if answer["answered_at"] is not None]
        end = start + PAGE
        following = str(end) if end < len(labelled) else None
        if service.circle:
            following = "0"
        document = {"answers": labelled[start:end], "next": following}
        self._send(json.dumps(document).encode())

    def _image(self, request_id: str) -> None:
        if request_id in self.state.broken:
            self._send(b"{}", 500)
        elif request_id in self.state.images:
            self._send(self.state.images[request_id])
        else:
            self._send(b"{}", 404)

    def _send(self, content: bytes, status: int = 200) -> None:
        location = {"Location": self.state.location} if self.state.location else {}
        length = len(content) + (10 if self.state.cut else 0)
        self.reply(status, content, headers={"Content-Length": length, **location})
        self.close_connection |= self.state.cut


@contextmanager
def serving() -> Iterator[Service]:
    """Run a service until the block ends."""
    service = Service()
    with http.serving(Handler, service) as service.url:
        yield service


@contextmanager
def dripping(beginning: bytes) -> Iterator[str]:
    """Answer with `beginning` and then a byte now and then; gives the address."""
    hung_up = threading.Event()

    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65_536)
            try:
                connection.sendall(beginning)
                for _ in range(DROPS):
                    if hung_up.wait(0.02):
                        return
                    connection.sendall(b"x")
            except OSError:  # the client hung up
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            hung_up.set()
            thread.join()
