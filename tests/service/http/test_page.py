"""The page in a real browser, against the real service and a real repository."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.make.browser import (
    DROP,
    FOLLOW,
    HIDE,
    HOSTILE,
    OVERFLOW,
    Visit,
    choose,
    chromium,
    expect,
    gallery,
    has_answer,
    headline,
    npy,
    replace,
    served,
    visiting,
)
from tests.make.bundles import make_bundle
from tests.make.repositories import Project
from tests.make.server import DEPLOY_HASH, DEPLOY_KEY, Server, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 360, "height": 740}
ALL_STEPS = ["Fetch", "Verify", "Load", "Warm-up", "Self-test", "Switch"]
ROWS = "#rows tr:not(.details) .tag b"


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def site(
    browser: "Browser", bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("page")
    repository = gallery(folder / "repository").folder
    with serving(bundle, folder / "service", repository=repository) as running:
        yield running


@pytest.fixture
def visit(browser: "Browser", site: Server) -> Iterator[Visit]:
    with visiting(browser, site.url, viewport=DESKTOP) as found:
        yield found


@pytest.fixture
def page(visit: Visit) -> "Page":
    return visit.page


def test_choosing_a_file_shows_its_picture_and_a_bar_for_every_class(page: "Page") -> None:
    choose(page, npy(), "field.npy")
    has_answer(page)
    expect(page.get_by_alt_text("field.npy in true colour")).to_be_visible()
    values = []
    for row in page.locator("#bars li").all():
        values.append(float(row.locator(".share").inner_text().strip("<> %\xa0")) / 100)
        length = row.locator(".fill").evaluate(
            "bar => bar.offsetWidth / bar.parentElement.offsetWidth"
        )
        assert length == pytest.approx(values[-1], abs=0.02)
    assert values == sorted(values, reverse=True)
    expect(page.locator("#answered")).to_contain_text("Answered by local")


def test_an_answer_is_confirmed_or_corrected(page: "Page", site: Server) -> None:
    expect(page.locator("#feedback")).to_be_hidden()
    choose(page, npy(seed=4))
    has_answer(page)
    predicted = page.locator("#headline").inner_text().split(",")[0]
    page.get_by_role("button", name="Yes").press("Enter")
    said = expect(page.locator("#feedback-said"))
    said.to_have_text(f"Thank you: it is {predicted}.")
    other = next(name for name in ("River", "Forest") if name != predicted)
    page.get_by_label("No, it is").select_option(other)
    page.get_by_role("button", name="Send").click()
    said.to_have_text(f"Thank you: it is {other}.")
    found = httpx.get(site.url + "/feedback?labelled=true").json()["answers"]
    assert [row["label"] for row in found] == [other]
    choose(page, npy(seed=5))
    said.to_have_text("")


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_an_image_can_be_dropped_or_pasted(page: "Page", kind: str) -> None:
    expect(page.locator("#samples button")).to_have_count(2)
    page.evaluate(DROP, {"kind": kind, "name": "dropped.npy", "bytes": list(npy())})
    has_answer(page)
    expect(page.locator("#file-name")).to_have_text("dropped.npy")


def test_a_click_on_a_sample_classifies_it(page: "Page") -> None:
    sample = page.locator("#samples button").first
    sample.click()
    headline(page).to_contain_text(f"{sample.inner_text()}, ")
    has_answer(page)


def test_the_keyboard_alone_is_enough(page: "Page") -> None:
    expect(page.locator("#samples button")).to_have_count(2)  # they are fetched after the page
    expect(page.get_by_label("Answered by")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator("#file")).to_be_focused()
    outline = "(input) => getComputedStyle(input.nextElementSibling).outlineStyle"
    assert page.locator("#file").evaluate(outline) == "solid"
    for box in ("Answered by", "and beside it by"):
        page.keyboard.press("Tab")
        expect(page.get_by_label(box)).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator("#samples button").first).to_be_focused()
    page.keyboard.press("Enter")
    has_answer(page)
    page.get_by_role("button", name="Details of landcover@v1.0.0").press("Enter")
    expect(page.get_by_role("button", name="Details of landcover@v1.0.0")).to_be_focused()
    expect(page.locator("tr.details")).to_contain_text("Test chips")
    page.get_by_role("button", name="Serve landcover@v1.0.0").press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    expect(page.get_by_label("Key with the role")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.get_by_role("button", name="Serve landcover@v1.0.0")).to_be_focused()


def test_an_error_is_the_sentence_of_the_service(page: "Page") -> None:
    choose(page, b"no image at all", "notes.txt")
    expect(page.get_by_role("alert").first).to_contain_text("is not a supported image")
    headline(page).to_have_text("No answer")
    expect(page.get_by_role("button", name="Resize it to fit")).to_have_count(0)


def test_an_image_of_another_size_can_be_resized(page: "Page") -> None:
    choose(page, npy(100, 80))
    expect(page.locator("#problem")).to_contain_text("80 x 100 pixels, wanted 64 x 64")
    page.get_by_role("button", name="Resize it to fit").click()
    has_answer(page)
    expect(page.locator("#problem")).to_be_hidden()
    expect(page.locator("#fitted")).to_have_text(
        "The image has 80 × 100 pixels. It was stretched to 64 × 64 pixels, without its "
        "proportions."
    )
    choose(page, npy())
    has_answer(page)
    expect(page.locator("#fitted")).to_have_text("")


@pytest.mark.parametrize(
    ("fit", "says", "became"),
    [
        ("", "An image of another size is refused, or resized if you ask for it.", ""),
        (
            "crop",
            "An image of another size is scaled until it fills this size, and what sticks out is "
            "cut off, as in training.",
            "It was scaled until it fills 64 × 64 pixels, and what sticks out is cut off.",
        ),
        (
            "pad",
            "An image of another size is scaled until all of it is inside this size, and the rest "
            "is left empty, as in training.",
            "It was scaled until all of it is inside 64 × 64 pixels, and the rest is left empty.",
        ),
    ],
)
def test_the_page_says_what_becomes_of_an_image_of_another_size(
    browser: "Browser", tmp_path: Path, fit: str, says: str, became: str
) -> None:
    made = make_bundle(tmp_path / "model", fit=fit)
    with (
        serving(made, tmp_path / "service", workers=1) as running,
        visiting(browser, running.url) as visit,
    ):
        takes = "4 bands (B02, B03, B04, B08), 64 × 64 pixels, uint16. "
        expect(visit.page.locator("#takes")).to_contain_text(takes + says)
        choose(visit.page, npy(1400, 700))
        if not fit:
            headline(visit.page).to_have_text("No answer")
            expect(visit.page.locator("#fitted")).to_have_text("")
            return
        has_answer(visit.page)
        expect(visit.page.locator("#fitted")).to_have_text(
            f"The image has 700 × 1400 pixels. {became}"
        )
        visit.page.screenshot(path=tmp_path / "page.png", full_page=True)


def test_the_table_is_sorted_by_a_click_and_by_enter(page: "Page") -> None:
    rows = page.locator(ROWS)
    expect(rows).to_have_text(
        ["landcover@v1.2.0", "landcover@v1.1.0", "experiment/9-118", "landcover@v1.0.0"]
    )
    page.get_by_role("button", name="Log loss").click()  # less is better: the best on top
    expect(page.locator("th[aria-sort=ascending]")).to_have_text("Log loss")
    expect(rows.first).to_have_text("landcover@v1.2.0")
    page.get_by_role("button", name="Log loss").press("Enter")
    expect(page.locator("th[aria-sort=descending]")).to_have_text("Log loss")
    expect(rows.first).to_have_text("experiment/9-118")


def test_the_table_is_filtered_by_tag_and_summary(page: "Page") -> None:
    page.get_by_label("Filter").fill("AUGM")
    expect(page.locator(ROWS)).to_have_text(["landcover@v1.1.0"])
    expect(page.locator("#count")).to_have_text("1 of 4")
    page.get_by_label("Filter").fill("landcover@")
    expect(page.locator(ROWS)).to_have_count(3)


def test_two_experiments_are_compared(page: "Page") -> None:
    page.get_by_label("Compare landcover@v1.2.0").check()
    expect(page.locator("#count")).to_contain_text("Choose one more")
    page.get_by_label("Compare landcover@v1.0.0").press("Space")
    compare = page.locator("#compare")
    accuracy = compare.get_by_role("row", name="Accuracy")
    expect(accuracy.get_by_role("cell")).to_have_text(["0.910", "0.950", "+0.040 better"])
    loss = compare.get_by_role("row", name="Log loss")
    expect(loss.get_by_role("cell").last).to_have_text("−0.112 better")
    expect(compare.get_by_text("train.epochs")).to_be_visible()
    expect(compare.get_by_text("train.seed")).to_have_count(0)
    compare.get_by_label("Show all parameters").check()
    expect(compare.get_by_text("train.seed")).to_be_visible()
    compare.get_by_role("button", name="Close").click()
    expect(compare).to_be_hidden()


def test_hostile_text_stays_text(page: "Page") -> None:
    expect(page.get_by_text(f"Hostile {HOSTILE}")).to_be_visible()
    page.get_by_label("Compare experiment/9-118").check()
    page.get_by_label("Compare landcover@v1.0.0").check()
    expect(page.locator("#compare").get_by_text(HOSTILE)).to_be_visible()
    ours = "#picture, #live-picture, #samples img"
    assert page.locator(f"main img:not({ours}), main script").count() == 0


def test_the_policy_of_the_page_forbids_inline_code(page: "Page", visit: Visit) -> None:
    page.evaluate("document.body.setAttribute('onclick', 'window.ran = true')")
    page.locator("body").dispatch_event("click")
    assert page.evaluate("window.ran") is None
    assert page.evaluate("window.violations") == ["script-src-attr inline"]
    page.evaluate("window.violations = []")
    visit.errors.clear()


def test_the_page_looks_at_the_service_only_while_it_is_seen(
    browser: "Browser", site: Server
) -> None:
    context = browser.new_context()
    try:
        visit = Visit(context.new_page(), site.url)
        page = visit.page
        page.clock.install()
        page.goto(site.url)
        served(page).to_be_visible()
        with page.expect_response("**/version"):
            page.clock.fast_forward(5_000)
        page.evaluate(HIDE, True)
        page.wait_for_load_state("networkidle")
        visit.requests.clear()
        page.clock.fast_forward(120_000)
        assert visit.requests == []
        with page.expect_response("**/version"):
            page.evaluate(HIDE, False)
    finally:
        context.close()


def test_no_state_of_the_page_is_wider_than_a_phone(browser: "Browser", site: Server) -> None:
    with visiting(browser, site.url, viewport=PHONE) as visit:
        page = visit.page
        expect(page.locator(ROWS)).to_have_count(4)
        assert page.evaluate(OVERFLOW) <= 0
        choose(page, npy(100, 80), "a-very-long-name-" * 8 + ".npy")
        expect(page.locator("#problem")).to_be_visible()
        assert page.evaluate(OVERFLOW) <= 0
        page.get_by_role("button", name="Resize it to fit").click()
        has_answer(page)
        page.get_by_label("Compare experiment/9-118").check()
        page.get_by_label("Compare landcover@v1.0.0").check()
        page.get_by_role("button", name="Details of experiment/9-118").click()
        assert page.evaluate(OVERFLOW) <= 0
        page.get_by_role("button", name="Serve experiment/9-118").click()
        assert page.evaluate(OVERFLOW) <= 0


def test_dark_mode_is_dark(browser: "Browser", site: Server) -> None:
    found = {}
    for scheme in ("light", "dark"):
        with visiting(browser, site.url, color_scheme=scheme) as visit:
            colour = "() => getComputedStyle(document.documentElement).backgroundColor"
            found[scheme] = visit.page.evaluate(colour)
    assert found == {"light": "rgb(244, 245, 243)", "dark": "rgb(17, 20, 18)"}


def test_a_wrong_key_is_refused_with_a_sentence(page: "Page") -> None:
    replace(page, "landcover@v1.1.0", "wrong")
    expect(page.locator("#swap-problem")).to_contain_text("The credentials are not known here")
    expect(page.get_by_label("Key with the role")).to_be_focused()


def test_replacing_walks_the_steps_and_rolling_back_undoes_it(page: "Page") -> None:
    page.evaluate(FOLLOW)
    before = page.locator("#serving b").nth(1).inner_text()
    replace(page, "landcover@v1.2.0")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("heading")).to_have_text("landcover@v1.2.0 serves")
    expect(page.locator("#steps .done")).to_have_count(len(ALL_STEPS))
    steps = page.evaluate("window.steps")
    assert steps[0] == "Fetch" and steps == [step for step in ALL_STEPS if step in steps]
    dialog.get_by_role("button", name="Close").click()
    served(page).to_contain_text("landcover@v1.2.0")
    expect(page.locator("tr.serves .tag b")).to_have_text("landcover@v1.2.0")
    expect(page.get_by_role("button", name="Serve landcover@v1.2.0")).to_be_disabled()

    page.get_by_role("button", name=f"Roll back to {before}").click()
    expect(dialog).to_contain_text(f"{before} (")
    dialog.get_by_role("button", name="Roll back").click()  # the key is still known
    expect(dialog.get_by_role("heading")).to_have_text(f"{before} serves")
    served(page).to_contain_text(before)
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [
        0,
        0,
        "",
    ]


def test_a_swap_that_fails_names_the_step_and_the_old_model_serves_on(page: "Page") -> None:
    before = page.locator("#serving b").nth(1).inner_text()
    replace(page, "experiment/9-118")
    expect(page.locator("#swap-problem")).to_contain_text("golden chip 0")
    expect(page.locator("#steps .failed")).to_contain_text("Self-test")
    expect(page.locator("#swap-problem")).to_contain_text(f"Still serving: {before}.")
    served(page).to_contain_text(before)


def test_a_page_whose_service_needs_a_key_asks_for_it(
    browser: "Browser", bundle: Path, tmp_path: Path
) -> None:
    repository = Project(tmp_path / "repository")
    repository.commit("Nothing is tagged")
    roles = f'{{"{DEPLOY_HASH}": ["deploy", "predict", "view"]}}'
    settings = {"repository": repository.folder, "open_roles": "[]", "api_keys": roles}
    with (
        serving(bundle, tmp_path / "service", workers=1, **settings) as running,
        visiting(browser, running.url) as visit,
    ):
        page = visit.page
        expect(page.get_by_text("The experiments need a key.")).to_be_visible()
        choose(page, npy())
        page.get_by_label("Key", exact=True).fill("wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#key-text")).to_contain_text("not known here")
        page.get_by_label("Key", exact=True).fill(DEPLOY_KEY)
        page.keyboard.press("Enter")
        has_answer(page)
        expect(page.locator("#samples button")).to_have_count(2)
        expect(page.get_by_text("git tag experiment/1-1")).to_be_visible()
        running.stop()
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        expect(page.locator("#serving-notice")).to_contain_text("The service does not answer")
