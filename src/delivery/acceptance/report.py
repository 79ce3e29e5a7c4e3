"""The report of an acceptance: one row a check, printed as it comes and written at the end."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

FOLDER = Path("artifacts/acceptance")
SIGNS = {True: "✅", False: "❌", None: "➖"}
WORDS = {True: "passed", False: "FAILED", None: "skipped"}


class Check(NamedTuple):
    """A row of the report."""

    name: str
    passed: bool | None
    """None if it was skipped; the evidence then has the reason."""
    evidence: str


class Report:
    """The rows of one run."""

    def __init__(self) -> None:
        """Begin without rows."""
        self.checks: list[Check] = []

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(check.passed is not False for check in self.checks)

    def check(self, name: str, passed: object, evidence: object) -> None:
        """Add a row, and print it."""
        self._add(Check(name, bool(passed), str(evidence)))

    def skip(self, name: str, reason: str) -> None:
        """Add a row of what was not checked."""
        self._add(Check(name, None, reason))

    def _add(self, check: Check) -> None:
        self.checks.append(check)
        print(f"acceptance: {WORDS[check.passed]}  {check.name}: {check.evidence}", flush=True)

    def write(self, path: Path, where: str, about: Sequence[str], untested: str) -> None:
        """Write Markdown: the verdict, what it was played on, the rows, what they leave out."""
        tried = [check for check in self.checks if check.passed is not None]
        failed = sum(not check.passed for check in tried)
        skipped = len(self.checks) - len(tried)
        verdict = (
            f"{failed} of {len(tried)} checks failed" if failed else f"all {len(tried)} passed"
        )
        rows = [
            f"| {SIGNS[check.passed]} | {check.name} | {_cell(check.evidence)} |"
            for check in self.checks
        ]
        title = f"# Acceptance on {where}: {verdict}" + (f", {skipped} skipped" if skipped else "")
        lines = (title, "", *about, "", "| | check | seen |", "|---|---|---|", *rows, "", untested)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"acceptance: {path}")


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
