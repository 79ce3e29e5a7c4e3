"""What all stand-ins that speak HTTP have in common: a server in a thread on loopback."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Generic, TypeVar

State = TypeVar("State")


class Server(ThreadingHTTPServer, Generic[State]):
    """A server with the state of the stand-in, which tests look into and disturb."""

    request_queue_size = 64

    def __init__(self, handler: type["Handler[State]"], state: State) -> None:
        self.state = state
        super().__init__(("127.0.0.1", 0), handler)


class Handler(BaseHTTPRequestHandler, Generic[State]):
    """Answers requests; a stand-in adds do_GET and the others."""

    protocol_version = "HTTP/1.1"  # keeps connections open, as the originals do
    disable_nagle_algorithm = True
    server: Server[State]

    @property
    def state(self) -> State:
        """The state of the stand-in."""
        return self.server.state

    def content(self) -> bytes:
        """The body of the request, of a known length or in chunks."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline() not in (b"\r\n", b""):  # trailers
            pass
        return b"".join(parts)

    def reply(
        self,
        status: int,
        body: bytes = b"",
        kind: str = "application/json",
        headers: Mapping[str, object] | None = None,
    ) -> None:
        """Answer; a client that did not wait for it is no error."""
        try:
            self.send_response(status)
            length = {} if status == 204 else {"Content-Length": len(body)}
            for name, value in {"Content-Type": kind, **length, **(headers or {})}.items():
                self.send_header(name, str(value))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
        except ConnectionError:
            self.close_connection = True

    def log_message(self, *arguments: Any) -> None:
        """Write nothing on standard error."""


class Request(Handler[Callable[["Request"], None]]):
    """A request of any method to a stand-in that is one function."""

    body = b""

    def do_GET(self) -> None:
        self.body = self.content()
        self.state(self)

    do_HEAD = do_POST = do_PUT = do_GET


@contextmanager
def answering(answer: Callable[[Request], None]) -> Iterator[str]:
    """Run a stand-in that gives each request to a function, as `serving` does."""
    with serving(Request, answer) as url:
        yield url


@contextmanager
def serving(
    handler: type[Handler[State]], state: State, context: ssl.SSLContext | None = None
) -> Iterator[str]:
    """Run a stand-in in a thread until the block ends, with TLS if a context is given.

    Gives its address.
    """
    with Server(handler, state) as server:
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http{'s' if context else ''}://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def silent_server() -> Iterator[tuple[int, threading.Event]]:
    """A server on loopback that takes connections and never says a word."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        asked, taken = threading.Event(), []

        def accept() -> None:
            try:
                while True:
                    taken.append(server.accept()[0])
                    asked.set()
            except OSError:
                pass

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield server.getsockname()[1], asked
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in taken:
                connection.close()
