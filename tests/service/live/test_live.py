"""Live frames: server-sent events, on the page, and one slow browser harms nobody."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from service.auth.roles import new_key
from service.errors import Overloaded
from service.live.room import BEHIND, MOST, Audience
from tests.make import kafka, server
from tests.make.browser import chromium, expect, visiting
from tests.make.bundles import make_chip
from tests.make.images import npy
from tests.make.kafka import Topics, headers, working

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def topics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topics]:
    with kafka.broker(tmp_path_factory.mktemp("broker")) as brokers:
        yield kafka.topics(brokers)


@pytest.fixture(scope="module")
def site(
    topics: Topics, bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[server.Server]:
    """The service with its page, and a worker of the stream beside it."""
    folder = tmp_path_factory.mktemp("live")
    own = {**topics.settings, "feedback": "off", "workers": 1}
    with (
        server.serving(bundle, folder / "service", **own) as running,
        working(topics, bundle, folder, stream_pictures=100),
    ):
        yield running


def test_each_watcher_has_a_short_queue_whose_oldest_event_goes_first() -> None:
    async def watch() -> tuple[list[bytes], int]:
        audience = Audience()
        slow = audience.join()
        for number in range(1000):
            audience.show(b"%d" % number)
        left = [slow.get_nowait() for _ in range(slow.qsize())]
        audience.leave(slow)
        assert not audience.watched.is_set()
        for _ in range(MOST):
            audience.join()
        with pytest.raises(Overloaded):
            audience.join()
        return left, slow.qsize()

    left, rest = asyncio.run(watch())
    assert left == [b"%d" % number for number in range(1000 - BEHIND, 1000)] and rest == 0


def events(url: str, count: int, topics: Topics) -> list[dict[str, Any]]:
    """Send frames while watching, until so many events have come."""
    found: list[dict[str, Any]] = []
    with httpx.stream("GET", f"{url}/live", timeout=60) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        for line in lines:
            if line.startswith("retry"):
                break
        number = 0
        for line in _while_sending(lines, topics, number):
            if line.startswith("data: "):
                found.append(json.loads(line.removeprefix("data: ")))
                if len(found) == count:
                    return found
    raise AssertionError("the events ended")


def _while_sending(lines: Iterator[str], topics: Topics, number: int) -> Iterator[str]:
    import threading

    stop = threading.Event()

    def send() -> None:
        sequence = number
        while not stop.wait(0.1):
            content = npy(make_chip(sequence % 5))
            topics.send([(content, headers("quay", sequence))])
            sequence += 1

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield from lines
    finally:
        stop.set()
        thread.join()


def test_answers_come_as_events_with_their_pictures(site: server.Server, topics: Topics) -> None:
    with httpx.stream("GET", f"{site.url}/live", timeout=60):  # one that reads nothing
        found = events(site.url, 3, topics)
    assert [event["source"] for event in found] == ["quay"] * 3
    assert found[0]["sequence"] < found[2]["sequence"]
    assert found[0]["answer"]["model"]["tag"] == "local"
    assert found[0]["picture"].startswith("data:image/png;base64,")
    assert {"lag", "rate", "captured_at", "answered_at"} <= found[0].keys()


def test_the_page_shows_the_newest_frame(
    browser: "Browser", site: server.Server, topics: Topics
) -> None:
    with visiting(browser, site.url, viewport={"width": 1280, "height": 900}) as visit:
        card = visit.page.locator("#live-card")
        expect(card).to_be_visible()
        for _ in _while_sending(iter(["once"]), topics, 100):
            expect(visit.page.locator("#live-source")).to_contain_text("quay, frame")
            expect(visit.page.locator("#live-answer")).to_contain_text("%")
            expect(visit.page.locator("#live-picture")).to_be_visible()
            expect(visit.page.locator("#live-model")).to_contain_text("local")


def test_a_service_without_a_stream_says_so_and_one_with_keys_wants_one(
    bundle: Path, tmp_path: Path
) -> None:
    key, digest = new_key()
    keys = json.dumps({digest: ["predict"]})
    own = {"workers": 1, "feedback": "off", "open_roles": "[]", "api_keys": keys}
    with server.serving(bundle, tmp_path, **own) as running:
        assert httpx.get(f"{running.url}/live").status_code == 401
        bearer = {"authorization": f"Bearer {key}"}
        assert httpx.get(f"{running.url}/live", headers=bearer).status_code == 403


def test_a_service_without_brokers_has_nothing_live(
    browser: "Browser", bundle: Path, tmp_path: Path
) -> None:
    with server.serving(bundle, tmp_path, workers=1, feedback="off") as running:
        assert httpx.get(f"{running.url}/live").status_code == 204
        with visiting(browser, running.url) as visit:
            expect(visit.page.locator("#headline")).to_be_visible()
            expect(visit.page.locator("#live-card")).to_be_hidden()
