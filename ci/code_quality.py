"""Run a command that lints, and write what it found as GitLab's code quality report.

    python ci/code_quality.py make lint

The output passes through, and the exit code is the command's. The report,
artifacts/code-quality.json, lists the lines of mypy and flake8 (docs.gitlab.com, "code quality").
"""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

REPORT = Path("artifacts/code-quality.json")
FINDING = re.compile(
    r"(?:\./)?(?P<path>[^\s:]+\.pyi?):(?P<line>\d+):(?:\d+:)? "
    r"(?:error: (?P<typed>.+?)  \[(?P<type>[a-z-]+)\]|(?P<style>[A-Z]+\d+) (?P<text>.+))"
)


def findings(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The findings among lines of output, in the order in which they came."""
    found: list[dict[str, Any]] = []
    for match in filter(None, map(FINDING.fullmatch, lines)):
        check, text = match["type"] or match["style"], match["typed"] or match["text"]
        # Without the line: a finding that has moved is the same one.
        known = f"{match['path']} {check} {text} {len(found)}"
        found.append(
            {
                "check_name": check,
                "description": text,
                "fingerprint": hashlib.sha256(known.encode()).hexdigest(),
                "severity": "major" if match["type"] else "minor",
                "location": {"path": match["path"], "lines": {"begin": int(match["line"])}},
            }
        )
    return found


def main() -> int:
    """Run the command, and write the report."""
    if len(sys.argv) < 2:
        print("error: no command was given: python ci/code_quality.py make lint", file=sys.stderr)
        return 2
    lines = []
    with subprocess.Popen(
        sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip("\n"))
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(findings(lines), indent=1) + "\n", encoding="utf-8")
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
