"""The page: another model for this image, two answers side by side, and the traffic."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.make.browser import OVERFLOW, Visit, choose, chromium, expect, has_answer, npy, visiting
from tests.make.server import Server, serving
from tests.service.models.conftest import registry

if TYPE_CHECKING:
    from playwright.sync_api import Browser

__all__ = ["registry"]
V1, V2 = "landcover@v1.0.0", "landcover@v1.1.0"
RULES = f"""
name: trial
arms: {{default: 0.5, {V2}: 0.25, landcover@v9.0.0: 0.25}}
shadow: {V1}
learn: {{floor: 0.05, labels: 50}}
"""


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def site(
    bundle: Path, registry: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("traffic")
    (folder / "routing.yaml").write_text(RULES, encoding="utf-8")
    settings = {"repository": registry / "project", "routing": folder / "routing.yaml"}
    with serving(bundle, folder / "service", **settings) as running:
        yield running


@pytest.fixture
def visit(browser: "Browser", site: Server) -> Iterator[Visit]:
    with visiting(browser, site.url, viewport={"width": 1280, "height": 1000}) as found:
        yield found


def test_a_visitor_chooses_the_model_and_compares_two_answers(visit: Visit) -> None:
    page = visit.page
    page.get_by_label("Answered by").select_option(V1)
    page.get_by_label("and beside it by").select_option(V2)
    choose(page, npy(), "field.npy")
    has_answer(page)
    expect(page.locator("#answered")).to_contain_text(f"Answered by {V1}")
    expect(page.get_by_role("heading", name=V2)).to_be_visible()
    expect(page.locator("#second-bars li")).to_have_count(10)
    first, second = page.locator("#bars"), page.locator("#second-bars")
    left, right = first.bounding_box(), second.bounding_box()
    assert left and right and left["x"] + left["width"] <= right["x"], "side by side"
    asked = [url for url in visit.requests if "/predict?model=" in url]
    assert len(asked) == 2
    page.get_by_label("and beside it by").select_option("")
    choose(page, npy(seed=2), "other.npy")
    expect(page.locator("#file-name")).to_have_text("other.npy")
    expect(page.locator("#second")).to_be_hidden()


def test_the_page_shows_shares_rewards_and_the_verdict_on_the_shadow(
    visit: Visit, site: Server
) -> None:
    page = visit.page
    expect(page.locator("#traffic-rule")).to_have_text("trial, learns from labels")
    rows = page.locator("#arms tr")
    expect(rows).to_have_count(3)
    expect(rows.nth(1)).to_contain_text(V2)
    expect(rows.nth(2)).to_contain_text("is not in the registry")
    kind = {"content-type": "application/octet-stream"}
    for _ in range(40):
        answer = httpx.post(f"{site.url}/predict", content=npy(), headers=kind, timeout=60)
        assert answer.status_code == 200
        if sum(httpx.get(f"{site.url}/routing").json()["shadow"]["copies"].values()) > 3:
            break
    expect(page.locator("#shadow")).to_contain_text(f"Shadow {V1}: the same class in")
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate(OVERFLOW) <= 0
    name = page.locator("#arms th").last.bounding_box()
    assert name and name["width"] > 200, "a name is not broken into single letters"
