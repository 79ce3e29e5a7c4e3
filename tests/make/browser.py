"""A real Chromium that notes what must not happen, and a repository worth looking at."""

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml

from tests.make.bundles import make_bundle, make_chip
from tests.make.repositories import Project, md5
from tests.make.server import DEPLOY_KEY

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Dialog, FilePayload, Locator, Page

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # A camera that films a moving circle, and whose use nobody has to allow.
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
)
PATIENCE = 30_000  # ms; generous, the machine may be busy
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"
WATCH = """
    window.violations = [];
    document.addEventListener("securitypolicyviolation", (event) =>
        window.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
"""
OVERFLOW = "() => document.documentElement.scrollWidth - window.innerWidth"
FOLLOW = """() => {
    window.steps = [];
    new MutationObserver(() => {
        const now = document.querySelector("#steps [aria-current] span")?.previousSibling.data;
        if (now && now !== window.steps.at(-1)) window.steps.push(now);
    }).observe(document.getElementById("steps"), { childList: true });
}"""
DROP = """({ kind, name, bytes }) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], name));
    const options = { bubbles: true, cancelable: true };
    const event = kind === "drop"
        ? new DragEvent("drop", { ...options, dataTransfer: data })
        : new ClipboardEvent("paste", { ...options, clipboardData: data });
    document.getElementById("frame").dispatchEvent(event);
}"""
HIDE = """(hidden) => {
    Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""
PARAMS: dict[str, dict[str, Any]] = {
    "model": {"name": "landcover", "network": "resnet", "width": 12},
    "train": {"epochs": 40, "learning_rate": 0.02, "seed": 42},
}


@contextmanager
def chromium() -> "Iterator[Browser]":
    """Run Debian's Chromium; skips, and says so, where it or Playwright is not installed."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not installed (Debian: apt install chromium)")
    api.expect.set_options(timeout=PATIENCE)
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Visit:
    """One visitor with one page."""

    def __init__(self, page: "Page", url: str) -> None:
        self.page = page
        self.url = url
        self.requests: list[str] = []
        self.errors: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", self._refuse)
        page.on("console", self._note)
        page.add_init_script(WATCH)
        page.set_default_timeout(PATIENCE)

    def _note(self, message: "ConsoleMessage") -> None:
        # The browser itself notes every answer of 400 and more; the page says those in place.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            self.errors.append(message.text)

    def _refuse(self, dialog: "Dialog") -> None:
        self.errors.append(f"a script said: {dialog.message}")
        dialog.dismiss()

    def check(self) -> None:
        """Nothing went wrong, was refused by the policy, or was asked of another server."""
        assert self.errors == []
        assert self.page.evaluate("window.violations") == []
        assert [url for url in self.requests if not url.startswith((self.url, "blob:"))] == []


@contextmanager
def visiting(browser: "Browser", url: str, **options: Any) -> Iterator[Visit]:
    """Open the page as a new visitor; at the end nothing may have gone wrong."""
    context = browser.new_context(**options)
    try:
        visit = Visit(context.new_page(), url)
        visit.page.goto(url)
        yield visit
        visit.check()
    finally:
        context.close()


def expect(locator: "Locator") -> Any:
    from playwright.sync_api import expect as expectation

    return expectation(locator, "waited in vain")


def npy(height: int = 64, width: int = 64, seed: int = 0) -> bytes:
    content = io.BytesIO()
    np.save(content, make_chip(seed, size=max(height, width))[:, :height, :width])
    return content.getvalue()


def choose(page: "Page", content: bytes, name: str = "chip.npy") -> None:
    payload: FilePayload = {"name": name, "mimeType": "", "buffer": content}
    page.set_input_files("#file", payload)


def headline(page: "Page") -> Any:
    return expect(page.locator("#headline"))


def has_answer(page: "Page") -> None:
    expect(page.locator("#bars li")).to_have_count(10)
    first = page.locator("#bars li").first.inner_text().split("\n")[0]
    assert page.locator("#headline").inner_text().startswith(f"{first}, ")


def replace(page: "Page", tag: str, key: str = DEPLOY_KEY) -> None:
    page.get_by_role("button", name=f"Serve {tag}").click()
    page.get_by_label("Key with the role").fill(key)
    page.keyboard.press("Enter")


def served(page: "Page") -> Any:
    return expect(page.locator("#serving > div", has=page.get_by_text("Tag", exact=True)))


def gallery(folder: Path) -> Project:
    """A repository with four experiments; one has hostile texts, and a model that fails."""
    project = Project(folder)
    _experiment(project, "landcover@v1.0.0", "Start small", 1, (0.91, 0.287), {"epochs": 12})
    _experiment(
        project, "experiment/9-118", f"Hostile {HOSTILE}", 2, (0.84, 0.522), {"note": HOSTILE},
        golden=[(1.0, *[0.0] * 9)] * 2,
    )  # fmt: skip
    _experiment(project, "landcover@v1.1.0", "Augment", 3, (0.94, 0.196), {"epochs": 30})
    project.tag("landcover#production#1")
    _experiment(project, "landcover@v1.2.0", "Grow the chips", 4, (0.95, 0.175), {})
    return project


def _experiment(
    project: Project,
    tag: str,
    summary: str,
    seed: int,
    metrics: tuple[float, float],
    train: dict[str, Any],
    golden: Sequence[tuple[float, ...]] = (),
) -> None:
    """Commit a training with its model, a day after the one before, and tag it."""
    made = make_bundle(project.folder.parent / f"model-{seed}", seed)
    files = {path.name: path.read_bytes() for path in made.iterdir()}
    if golden:
        manifest = json.loads(files["model.json"])
        for entry, wrong in zip(manifest["golden"], golden, strict=True):
            entry["probabilities"] = wrong
        files["model.json"] = json.dumps(manifest).encode()
    project.lock(project.push(files))
    measured = {"accuracy": metrics[0], "log_loss": metrics[1], "test_chips": 100}
    project.write("reports/metrics.json", json.dumps(measured))
    params = PARAMS | {"train": PARAMS["train"] | train}
    project.write("params.yaml", yaml.safe_dump(params))
    project.write("data.dvc", f"outs:\n- md5: {md5(b'data')}.dir\n  path: data\n")
    project.minutes += 24 * 60
    project.commit(summary)
    project.tag(tag)
