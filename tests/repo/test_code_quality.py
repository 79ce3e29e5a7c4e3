"""What lint finds becomes GitLab's code quality report."""

import json
import sys
from pathlib import Path

import pytest

from ci import code_quality
from tests.conftest import ROOT, run

MYPY = 'src/a.py:3: error: Argument 1 to "f" has type "int"  [arg-type]'
FLAKE8 = "./src/b.py:7:1: F401 'os' imported but unused"
OTHER = ["error: not formatted: make format", "Found 1 error in 1 file", "src/a.py:4: note: x", ""]


def test_findings_of_types_and_style_are_listed_and_nothing_else() -> None:
    typed, styled = code_quality.findings([*OTHER, MYPY, FLAKE8])
    assert typed["location"] == {"path": "src/a.py", "lines": {"begin": 3}}
    assert (typed["check_name"], typed["severity"]) == ("arg-type", "major")
    assert styled["location"] == {"path": "src/b.py", "lines": {"begin": 7}}
    assert styled["description"] == "'os' imported but unused"


def test_a_finding_that_moved_keeps_its_fingerprint_and_two_alike_differ() -> None:
    (first,) = code_quality.findings([FLAKE8])
    (moved,) = code_quality.findings([FLAKE8.replace(":7:", ":90:")])
    assert first["fingerprint"] == moved["fingerprint"]
    alike = code_quality.findings([FLAKE8, FLAKE8])
    assert alike[0]["fingerprint"] != alike[1]["fingerprint"]


@pytest.mark.parametrize("code", [0, 3])
def test_output_and_exit_code_are_those_of_the_command(tmp_path: Path, code: int) -> None:
    script = f"print({FLAKE8!r}); raise SystemExit({code})"
    line = (sys.executable, str(ROOT / "ci" / "code_quality.py"), sys.executable, "-c", script)
    done = run(*line, cwd=tmp_path, check=False)
    assert done.returncode == code and done.stdout == f"{FLAKE8}\n"
    report = json.loads((tmp_path / code_quality.REPORT).read_text(encoding="utf-8"))
    assert [row["check_name"] for row in report] == ["F401"]
