"""The model card of a version: the report against the version's first parent, and its origin.

GitLab shows it beside the version and in the release. It has no pictures: those are not in Git.
"""

import re
import subprocess
import sys
from pathlib import Path

from contracts.tags import Version
from delivery.registry.lineage import lineage, render
from delivery.registry.registry import Registry

CARD = Path("artifacts/model-card.md")
REPORT = Path("reports/report.md")
LONGEST = 9_500  # characters; GitLab takes 10,000
FENCE = "`" * 12  # longer than any in a commit's subject
PICTURE = re.compile(r"^!\[[^\n]*\n?", re.MULTILINE)


def compose(registry: Registry, version: Version) -> str:
    """The card of a version, Markdown; kept for the next command of the same job."""
    mark = f"<!-- {version.tag} -->\n"
    if CARD.exists() and (kept := CARD.read_text(encoding="utf-8")).startswith(mark):
        return kept
    text = mark + _body(registry, version)
    CARD.parent.mkdir(exist_ok=True)
    CARD.write_text(text, encoding="utf-8")
    return text


def _body(registry: Registry, version: Version) -> str:
    facts = render(lineage(registry, version)).replace(FENCE, "`")
    origin = f"## Origin\n\n{FENCE}text\n{facts}\n{FENCE}\n"
    report = _report(f"{registry.state().versions[version].commit}^1")
    room = LONGEST - len(origin)
    if len(report) > room:
        report = report[:room].rpartition("\n\n")[0] + "\n\n(the rest is in the merge request)"
    return f"{report}\n\n{origin}"


def _report(against: str) -> str:
    """The report, or a sentence when it cannot be written: the origin has the metrics, too."""
    line = [sys.executable, "-m", "pipeline.report", "--against", against]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return "The report could not be written: " + (done.stderr.strip().splitlines() or ["?"])[-1]
    return PICTURE.sub("", REPORT.read_text(encoding="utf-8")).strip()
