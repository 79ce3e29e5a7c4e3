"""Command: build a site of the documentation, the experiments and the plots of the model.

    python -m delivery.pages                 public/

GitLab Pages serves it (job `pages`, with the variable PAGES): README.md and docs/*.md as pages,
the experiments, which are the tags of the repository, with the metrics of their commits, and the
plots of `dvc plots show`.
"""

import os
import posixpath
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from contracts import commands
from contracts import commit as facts
from contracts.tags import Experiment, Version, match_tag
from delivery.dvc import dvc
from delivery.errors import ToolError, command, reason
from delivery.git import Repository
from delivery.registry.registry import open_registry

SITE = Path("artifacts/site")
PUBLIC = Path("public")
MOST = 200  # experiments in the table, newest first
SHOWN = (
    "accuracy",
    "macro_f1",
    "mean_iou",
    "ap50",
    "f1",
    "calibration_error",
    "latency_p50_ms",
    "model_size_mib",
)
"""Metrics with a column, those that there are."""
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")


@command
def main() -> None:
    """Build the site."""
    commands.parser("delivery.pages", __doc__).parse_args()
    repository = Repository()
    source = os.environ.get("CI_PROJECT_URL", "")
    write_sources(repository, f"{source}/-/blob/{repository.commit('HEAD')}" if source else "")
    build()
    try:
        dvc("pull", "train")
    except ToolError as error:
        print(f"pages: without the curves of the training ({error})")
    dvc("plots", "show", "--out", str(PUBLIC / "plots"))
    print(f"pages: {PUBLIC / 'index.html'}")


def write_sources(repository: Repository, blob: str) -> None:
    """Write the Markdown files and the configuration into artifacts/site/."""
    shutil.rmtree(SITE, ignore_errors=True)
    shutil.copytree(repository.folder / "docs", SITE / "docs")
    for path in [repository.folder / "README.md", *(repository.folder / "docs").glob("*.md")]:
        name = path.relative_to(repository.folder).as_posix()
        text = relink(path.read_text(encoding="utf-8"), name, blob)
        page = "index.md" if name == "README.md" else path.name
        (SITE / "docs" / page).write_text(text, encoding="utf-8")
    table = experiments(repository)
    (SITE / "docs" / "experiments.md").write_text(table, encoding="utf-8")
    configuration: dict[str, Any] = {
        "site_name": open_registry(repository.folder).name,
        "docs_dir": "docs",
        "site_dir": str(PUBLIC.resolve()),
        "use_directory_urls": False,
        "theme": {"name": "material", "font": False},
        "plugins": ["search"],
        "markdown_extensions": ["tables", "toc", "pymdownx.superfences"],
    }
    (SITE / "mkdocs.yml").write_text(yaml.safe_dump(configuration), encoding="utf-8")


def relink(text: str, page: str, blob: str) -> str:
    """Point the links of a page to the site, or to the file in the repository at `blob`."""

    def target(found: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page), found[1]))
        anchor = found[2] or ""
        if path == "README.md":
            return f"index.md{anchor}"
        if posixpath.dirname(path) == "docs":
            return posixpath.basename(path) + anchor
        return f"{blob}/{path}{anchor}" if blob else found[0]

    return LINK.sub(target, text)


def experiments(repository: Repository) -> str:
    """The table of experiments and versions, newest first, Markdown."""
    rows: list[tuple[str, str, dict[str, float]]] = []
    for tag, commit in reversed(repository.tags("**").items()):
        if len(rows) == MOST:
            break
        if isinstance(match_tag(tag), Experiment | Version):
            rows.append((tag, commit, _metrics(repository, commit)))
    columns = [name for name in SHOWN if any(name in metrics for _, _, metrics in rows)]
    lines = ["# Experiments", "", "[Plots of the model on main](plots/index.html)", ""]
    if not rows:
        return "\n".join([*lines, "None yet: a merge request makes one.", ""])
    lines += [_row("tag", "commit", *columns), "|---" * (len(columns) + 2) + "|"]
    for tag, commit, metrics in rows:
        values = (f"{metrics[name]:.4g}" if name in metrics else "-" for name in columns)
        lines.append(_row(f"`{tag}`", f"`{commit[:8]}`", *values))
    return "\n".join([*lines, ""])


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _metrics(repository: Repository, commit: str) -> dict[str, float]:
    text = repository.show(commit, facts.METRICS)
    try:
        return facts.read_metrics((text or "").encode())
    except facts.Unreadable:
        return {}


def build() -> None:
    """Run MkDocs.

    Raises:
        ToolError: it is not installed, or failed.
    """
    line = ["mkdocs", "build", "--quiet", "--clean", "--config-file", str(SITE / "mkdocs.yml")]
    try:
        done = subprocess.run(line, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ToolError("mkdocs is not installed: make setup-e2e") from None
    if done.returncode != 0:
        raise ToolError(f"mkdocs: {reason(done.stderr or done.stdout)}")


if __name__ == "__main__":
    main()
