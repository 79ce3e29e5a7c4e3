"""Bodies that are no uploads: limited in size and time before anything parses them."""

import json
from collections.abc import Iterator

import httpx
import pytest

from tests.make.server import DEPLOY_KEY, Server
from tests.make.wire import connect, read, refusal

KEY = {"authorization": f"Bearer {DEPLOY_KEY}"}
ROUTES = ("/replace_ml_model", "/rollback_ml_model")


@pytest.mark.parametrize("route", ROUTES)
def test_a_large_body_is_refused_before_it_has_arrived(server: Server, route: str) -> None:
    def endless() -> Iterator[bytes]:
        yield b'{"tag": "'
        for _ in range(1000):
            yield b"x" * 65536

    answer = httpx.post(server.url + route, content=endless(), headers=KEY, timeout=60)
    assert "65536 bytes" in refusal(answer, 413)


def test_a_body_that_stops_coming_ends_with_408(server: Server) -> None:
    lines = ("POST /replace_ml_model HTTP/1.1", "host: localhost", "content-length: 40")
    start = "\r\n".join((*lines, f"authorization: {KEY['authorization']}", "", "")).encode()
    with connect(server) as connection:
        connection.sendall(start + b'{"tag":')
        assert "longer than" in refusal(read(connection), 408)


def test_the_next_small_body_is_read(server: Server) -> None:
    body = json.dumps({"tag": "$(id)"}).encode()
    answer = httpx.post(server.url + ROUTES[0], content=body, headers=KEY, timeout=60)
    assert answer.status_code == 422


def test_answers_are_not_kept_and_the_page_is_asked_for_again(server: Server) -> None:
    for path, kept in (("/version", "no-store"), ("/", "no-cache"), ("/nowhere", "no-store")):
        assert httpx.get(server.url + path).headers["cache-control"] == kept
