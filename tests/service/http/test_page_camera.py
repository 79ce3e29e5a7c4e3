"""The browser's own camera on the page: its frames are answered one after the other."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.make.browser import chromium, expect, has_answer, visiting
from tests.make.bundles import make_bundle
from tests.make.server import Server, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser

COLOURS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    with chromium() as running:
        yield running


def predictions(server: Server) -> int:
    return sum(line.get("route") == "/predict" for line in server.lines())


@pytest.mark.parametrize("fit", ["crop", ""])
def test_frames_of_the_camera_are_answered_until_it_is_stopped(
    browser: "Browser", tmp_path: Path, fit: str
) -> None:
    bundle = make_bundle(tmp_path / "model", bands=COLOURS, dtype="uint8", fit=fit)
    with (
        serving(bundle, tmp_path / "service", workers=1, feedback="off") as server,
        visiting(browser, server.url, permissions=["camera"]) as visit,
    ):
        button = visit.page.locator("#camera")
        expect(button).to_have_text("Use the camera")
        button.click()
        has_answer(visit.page)
        while predictions(server) < 3:  # the page needs the time, too
            visit.page.wait_for_timeout(50)
        expect(visit.page.locator("#file-name")).to_have_text("camera.jpg")
        button.click()
        expect(button).to_have_text("Use the camera")


def test_a_model_of_other_bands_offers_no_camera(browser: "Browser", server: Server) -> None:
    with visiting(browser, server.url) as visit:
        expect(visit.page.locator("#takes")).to_contain_text("B08")
        expect(visit.page.locator("#camera")).to_be_hidden()
