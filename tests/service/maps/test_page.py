"""Maps on the page, in a real browser: drop a scene, see its map."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from rasterio.transform import from_origin

from service.auth.roles import new_key
from tests.make import bundles, maps
from tests.make.browser import OVERFLOW, Visit, chromium, expect, visiting
from tests.make.map_jobs import pixels_of
from tests.make.server import Server, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 360, "height": 740}
HEIGHT, WIDTH = 400, 600
DROP = """([name, bytes]) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], name));
    const options = { bubbles: true, cancelable: true, dataTransfer: data };
    document.getElementById("scene-frame").dispatchEvent(new DragEvent("drop", options));
}"""


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene with a corner without data, far from where the model was trained."""
    pixels = maps.ground(HEIGHT, WIDTH)
    pixels[:, 300:, :200] = 0
    path = tmp_path_factory.mktemp("field") / "field.tif"
    return maps.write_scene(path, pixels, transform=from_origin(300_000, 5_400_000, 10, 10))


@pytest.fixture
def visit(browser: "Browser", server: Server) -> Iterator[Visit]:
    with visiting(browser, server.url, viewport=DESKTOP) as found:
        yield found


@pytest.fixture
def page(visit: Visit) -> "Page":
    return visit.page


def choose(page: "Page", scene: Path) -> None:
    expect(page.locator("#map-card")).to_be_visible()
    page.set_input_files("#scene", scene)


def has_map(page: "Page") -> None:
    expect(page.locator("#map-result")).to_be_visible()
    expect(page.locator("#map img.classes")).to_be_visible()
    expect(page.locator("#map-progress")).to_be_hidden()


def values(server: Server) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Classes and confidence of the newest map."""
    newest = httpx.get(f"{server.url}/jobs?limit=1").json()[0]["jobID"]
    content = httpx.get(f"{server.url}/jobs/{newest}/map.tif").content
    labels, confidence = pixels_of(content)
    return labels, confidence


def inside(pixel: int, start: float, scale: float) -> tuple[int, int]:
    """A whole place on the screen that lies well inside a pixel of the map, and that pixel."""
    for place in range(math.ceil(start + pixel * scale), 10_000):
        at = (place - start) / scale
        if 0.3 < at % 1 < 0.7:
            return place, int(at)
    raise AssertionError("no such place")


def test_a_scene_becomes_a_map_with_legend_and_values(
    page: "Page", server: Server, field: Path
) -> None:
    choose(page, field)
    has_map(page)
    labels, confidence = values(server)
    rows = page.locator("#legend tr")
    expect(rows).to_have_count(len(maps.CLASSES))
    counts = np.bincount(labels.ravel(), minlength=256)[: len(maps.CLASSES)]
    largest = int(counts.argmax())
    expect(rows.first).to_contain_text(maps.CLASSES[largest])
    expect(rows.first).to_contain_text(f"{counts[largest] * 1e-4:.2f}".rstrip("0"))
    page.locator("#map").scroll_into_view_if_needed()
    box = page.locator("#map img.classes").bounding_box()
    assert box
    for near in ((450, 150), (250, 380), (100, 350)):
        x, column = inside(near[0], box["x"], box["width"] / WIDTH)
        y, row = inside(near[1], box["y"], box["height"] / HEIGHT)
        page.mouse.move(x, y)
        found = labels[row, column]
        said = (
            "no data"
            if found == 255
            else f"{maps.CLASSES[found]}, confidence {confidence[row, column]}\xa0%"
        )
        expect(page.locator("#under")).to_have_text(f"Under the cursor: {said}")


def test_warnings_of_the_item_are_shown(page: "Page", field: Path) -> None:
    choose(page, field)
    has_map(page)
    warnings = expect(page.locator("#map-warnings"))
    warnings.to_contain_text("outside the area that the model was trained on")
    warnings.to_contain_text("have a confidence below 50 %")


def test_the_opacity_of_the_map_is_a_slider(page: "Page", field: Path) -> None:
    choose(page, field)
    has_map(page)
    layer, slider = page.locator("#map img.classes"), page.get_by_label("Opacity of the map")
    expect(layer).to_have_css("opacity", "0.7")
    slider.focus()
    page.keyboard.press("Home")
    expect(layer).to_have_css("opacity", "0")
    page.keyboard.press("End")
    expect(layer).to_have_css("opacity", "1")


def test_the_keyboard_alone_moves_the_map(page: "Page", field: Path) -> None:
    choose(page, field)
    has_map(page)
    page.get_by_label("Opacity of the map").focus()
    page.keyboard.press("Shift+Tab")  # out of the map: its last control
    expect(page.locator("#map :focus")).to_be_visible()
    page.locator("#map").focus()
    page.keyboard.press("+")
    expect(page.locator("#under")).to_contain_text("Under the middle: ")
    pane = page.locator("#map .leaflet-map-pane")
    before = pane.get_attribute("style")
    page.keyboard.press("ArrowRight")
    expect(pane).not_to_have_attribute("style", before)


def test_a_scene_is_dropped_on_its_card_alone(page: "Page", field: Path) -> None:
    expect(page.locator("#map-card")).to_be_visible()
    page.evaluate(DROP, ["dropped.tif", list(field.read_bytes())])
    has_map(page)
    expect(page.locator("#scene-name")).to_have_text("dropped.tif")
    expect(page.locator("#file-name")).to_be_hidden()


def test_a_scene_that_is_refused_says_why_and_the_next_is_mapped(
    page: "Page", field: Path, tmp_path: Path
) -> None:
    unnamed = maps.write_scene(tmp_path / "unnamed.tif", maps.ground(90, 90), names=())
    choose(page, unnamed)
    problem = expect(page.locator("#map-problem"))
    problem.to_contain_text("have no names")
    problem.to_contain_text("Bands: B02,B03,B04,B08")
    expect(page.locator("#map-result")).to_be_hidden()
    expect(page.get_by_role("heading", name="Classes in an image")).to_be_visible()
    text = tmp_path / "text.tif"
    text.write_text("hello")
    choose(page, text)
    problem.to_contain_text("the body is no TIFF")
    choose(page, field)
    has_map(page)
    problem.to_be_hidden()


def test_what_a_file_does_not_say_is_said_on_the_page(page: "Page", tmp_path: Path) -> None:
    scene = tmp_path / "unnamed.tif"
    maps.write_scene(scene, maps.ground(90, 90)[::-1] + 1000, names=(), scale=None)
    choose(page, scene)
    bands = page.get_by_label("Bands, in the order of the file")
    expect(bands).to_be_visible()
    bands.fill("B08, B04, B03, B02")
    choose(page, scene)
    expect(page.locator("#map-problem")).to_contain_text("say Offset: -1000")
    page.get_by_label("Offset of its numbers").select_option("-1000")
    choose(page, scene)
    has_map(page)


def test_a_map_that_is_being_made_shows_progress_and_is_cancelled(
    page: "Page", server: Server, long_scene: Path
) -> None:
    choose(page, long_scene)
    expect(page.locator("#map-status")).to_contain_text("tiles")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#map-status")).to_have_text("Cancelled.")
    expect(page.locator("#map-progress")).to_be_hidden()
    newest = httpx.get(f"{server.url}/jobs?limit=1").json()[0]
    assert newest["status"] == "dismissed"


def test_the_map_is_downloaded(page: "Page", server: Server, field: Path) -> None:
    choose(page, field)
    has_map(page)
    with page.expect_download() as started:
        page.get_by_role("link", name="Download the map").click()
    content = Path(started.value.path()).read_bytes()
    assert np.array_equal(pixels_of(content)[0], values(server)[0])


def test_a_page_with_keys_asks_for_one_and_downloads_with_it(
    browser: "Browser", bundle: Path, field: Path, tmp_path: Path
) -> None:
    key, digest = new_key()
    keys = json.dumps({digest: ["predict", "view"]})
    with serving(bundle, tmp_path, workers=1, api_keys=keys, open_roles="[]") as server:
        with visiting(browser, server.url, viewport=DESKTOP) as visit:
            page = visit.page
            choose(page, field)
            page.get_by_label("Key", exact=True).fill(key)
            page.keyboard.press("Enter")
            has_map(page)
            with page.expect_download() as started:
                page.get_by_role("link", name="Download the map").click()
            assert Path(started.value.path()).stat().st_size > 1000


def test_a_phone_shows_all_of_it_in_one_column(
    browser: "Browser", server: Server, field: Path
) -> None:
    with visiting(browser, server.url, viewport=PHONE) as visit:
        choose(visit.page, field)
        has_map(visit.page)
        assert visit.page.evaluate(OVERFLOW) <= 0


def test_a_model_that_classifies_has_no_map_and_loads_none(
    browser: "Browser", tmp_path: Path
) -> None:
    classifier = bundles.make_bundle(tmp_path / "model")
    with serving(classifier, tmp_path, workers=1) as server:
        with visiting(browser, server.url, viewport=DESKTOP) as visit:
            expect(visit.page.locator("#samples button")).to_have_count(2)
            expect(visit.page.locator("#map-card")).to_be_hidden()
            assert [url for url in visit.requests if "leaflet" in url] == []
