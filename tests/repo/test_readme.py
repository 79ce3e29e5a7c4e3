"""The docs are true: their commands and parameters exist, their links lead somewhere."""

import re
from pathlib import Path

from tests.conftest import ROOT, run

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z0-9-]+):", MAKEFILE, flags=re.MULTILINE))


def test_every_make_target_that_a_page_names_exists() -> None:
    unknown = []
    for page in PAGES:
        named = set(re.findall(r"`make ([a-z][a-z0-9-]+)", text(page)))
        for block in re.findall(r"(?ms)^```console\n(.*?)^```", text(page)):
            named |= set(re.findall(r"(?m)^make ([a-z][a-z0-9-]+)", block))
        unknown += [f"{page.name}: {name}" for name in sorted(named - TARGETS)]
    assert unknown == []


def test_every_link_to_a_file_leads_somewhere() -> None:
    dead = []
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text(page)):
            if not re.match(r"[a-z]+:", link) and not (page.parent / link).exists():
                dead.append(f"{page.name}: {link}")
    assert dead == []


def test_every_module_that_a_page_names_exists() -> None:
    unknown = []
    packages = "pipeline|delivery|benchmarks|monitoring|service"
    for page in PAGES:
        for name in re.findall(rf"python -m ((?:{packages})[.\w]*)", text(page)):
            below = "src" if name.startswith(("pipeline", "delivery")) else ""
            path = ROOT / below / Path(*name.split("."))
            if not path.with_suffix(".py").exists() and not path.is_dir():
                unknown.append(f"{page.name}: {name}")
    assert unknown == []


def test_every_parameter_that_a_page_sets_exists() -> None:
    params = (ROOT / "params.yaml").read_text(encoding="utf-8")
    unknown = []
    for page in PAGES:
        for key in re.findall(r"(?:--set-param|-S) (\w+\.\w+)=", text(page)):
            if not re.search(rf"(?m)^  {key.split('.')[1]}:", params):
                unknown.append(f"{page.name}: {key}")
    assert unknown == []


def test_each_errand_ends_in_at_most_four_files_that_exist() -> None:
    page = text(ROOT / "docs" / "architecture.md")
    section = page.split("## Where do I look when")[1].split("\n## ")[0]
    rows = re.findall(r"(?m)^\| [^|`]+ \| (`.+) \|$", section)
    assert len(rows) >= 6
    for row in rows:
        files = re.findall(r"`([^`]+)`", row)
        assert len(files) <= 4
        assert [name for name in files if not (ROOT / name).is_file()] == []


def test_help_lists_every_target() -> None:
    output = run("make", "help", cwd=ROOT).stdout
    for target in TARGETS - {"help"}:
        assert re.search(rf"^  make {target} +\S", output, flags=re.MULTILINE), target


def test_ci_runs_what_the_readme_says() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "make setup setup-e2e lint test" in script
    assert "make test" in text(ROOT / "README.md")


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")
