"""Skips that are allowed in CI, and why; every other one fails there.

A test that is skipped asks nothing, and a green run does not show it. The machine of CI has what
`make setup-e2e` installs, so almost every test can run there.
"""

import os
import re

import pytest

ALLOWED = (
    (r"no EuroSAT archive here", "the archive of 90 MB is not downloaded in CI"),
    (r"the kernel of Linux ends children", "other systems have no such call"),
    (r"needs a machine without a GPU", "the other half of the test runs on the other machines"),
    (r"CML is not installed", "not every registry has it; its stand-in answers the same tests"),
    (r"root may read everything", "CI of a container runs as root; people run it as themselves"),
    (r"root can give a folder away", "the tests of root run where CI is root"),
    (r"only root may mount|needs root", "the tests of root run where CI is root"),
    (r"the story ended at", "the step that failed is red itself"),
)
"""Pattern of the reason that a test gives, and why CI lets it pass."""


def judge(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip that stands on no list into a failure, in CI."""
    if os.environ.get("CI") != "true" or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not any(re.search(pattern, reason) for pattern, _ in ALLOWED):
        report.outcome = "failed"
        report.longrepr = (
            f"{reason}\nCI has to run every test: install what is missing with make setup-e2e, "
            f"or let tests/skips.py allow this skip, with the reason"
        )
