"""The site: links lead to its pages or to files of the repository, experiments are its tags."""

import json
import re
import shutil
from pathlib import Path

import pytest

from delivery import pages
from delivery.errors import ToolError
from tests.conftest import ROOT
from tests.delivery.conftest import Project

BLOB = "https://gitlab.example.com/team/landcover/-/blob/0123"


@pytest.mark.parametrize(
    ("page", "link", "target"),
    [
        ("README.md", "docs/service.md", "service.md"),
        ("README.md", "docs/service.md#images", "service.md#images"),
        ("README.md", "docs/page.png", "page.png"),
        ("README.md", ".dvc/config", f"{BLOB}/.dvc/config"),
        ("docs/service.md", "registry.md#tags", "registry.md#tags"),
        ("docs/service.md", "../README.md", "index.md"),
        ("docs/service.md", "../ci/install", f"{BLOB}/ci/install"),
        ("docs/service.md", "#roles", "#roles"),
        ("docs/service.md", "https://example.com/a.md", "https://example.com/a.md"),
    ],
)
def test_a_link_leads_to_the_site_or_to_the_repository(page: str, link: str, target: str) -> None:
    assert pages.relink(f"see [it]({link}).", page, BLOB) == f"see [it]({target})."


def test_the_table_has_experiments_and_versions_newest_first(project: Project) -> None:
    project.merge("first", 3, 12, accuracy=0.5)
    version = project.register("second", accuracy=0.75)
    project.write("reports/metrics.json", "[")
    project.git("tag", "experiment/4-13", project.commit("Break the metrics"))
    project.git("tag", "landcover#staging#1")
    rows = [row.split(" | ") for row in pages.experiments(project.repository).splitlines()]
    table = [(row[0].strip("| `"), row[2].strip(" |")) for row in rows if "`" in row[0]]
    assert table == [(version, "0.75"), ("experiment/4-13", "-"), ("experiment/3-12", "0.5")]


def test_a_repository_without_experiments_says_how_one_is_made(project: Project) -> None:
    assert "None yet: a merge request makes one" in pages.experiments(project.repository)


def test_without_mkdocs_the_error_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="mkdocs is not installed: make setup-e2e"):
        pages.build()


def test_every_page_is_built_and_links_within_the_site_exist(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("mkdocs") is None:
        pytest.skip("mkdocs is not installed: make setup-e2e")
    for name in ("README.md", "params.yaml"):
        shutil.copy(ROOT / name, project.folder)
    shutil.copytree(ROOT / "docs", project.folder / "docs")
    project.write("reports/metrics.json", json.dumps({"accuracy": 0.5}))
    project.git("tag", "landcover@v1.0.0", project.commit("Begin"))
    monkeypatch.chdir(project.folder)
    pages.write_sources(project.repository, BLOB)
    pages.build()
    built = {path.name: path.read_text("utf-8") for path in pages.PUBLIC.glob("*.html")}
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} < {Path(it).stem for it in built}
    assert "landcover@v1.0.0" in built["experiments.html"]
    links = {link for text in built.values() for link in re.findall(r'href="([\w-]+\.html)', text)}
    assert links - built.keys() == set()
