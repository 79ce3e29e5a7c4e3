"""Bodies that are no uploads: limited in size and time before anything parses them."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from service.app import create_app
from service.container import Container
from service.http import body
from service.settings import read_settings
from tests.make.server import DEPLOY_HASH, DEPLOY_KEY, Server
from tests.make.wire import refusal

KEY = {"authorization": f"Bearer {DEPLOY_KEY}"}
ROUTES = ("/replace_ml_model", "/rollback_ml_model")


def test_a_large_body_is_refused(server: Server) -> None:
    def large() -> Iterator[bytes]:
        yield b'{"tag": "'
        for _ in range(100):
            yield b"x" * 65536

    for route in ROUTES:
        answer = httpx.post(server.url + route, content=large(), headers=KEY, timeout=60)
        assert "65536 bytes" in refusal(answer, 413)


def test_a_body_that_stops_coming_ends_with_408(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "SMALL", body.SMALL._replace(seconds=0.1))
    monkeypatch.setenv("SERVICE_API_KEYS", json.dumps({DEPLOY_HASH: ["deploy"]}))
    container = Container()
    container.settings.override(read_settings(state=tmp_path))
    transport = httpx.ASGITransport(create_app(container))

    async def part() -> AsyncIterator[bytes]:
        yield b'{"tag":'
        await asyncio.Event().wait()

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.post(ROUTES[0], content=part(), headers=KEY)

    assert "longer than" in refusal(asyncio.run(ask()), 408)


def test_the_next_small_body_is_read(server: Server) -> None:
    content = json.dumps({"tag": "$(id)"}).encode()
    answer = httpx.post(server.url + ROUTES[0], content=content, headers=KEY, timeout=60)
    assert answer.status_code == 422


def test_answers_are_not_kept_and_the_page_is_asked_for_again(server: Server) -> None:
    for path, kept in (("/version", "no-store"), ("/", "no-cache"), ("/unknown", "no-store")):
        assert httpx.get(server.url + path).headers["cache-control"] == kept
