"""What tests of the model become in the gate and in the report; inert whatever stands in it."""

import json
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from pipeline.reporting.model_tests import model_test_checks, model_test_section

SHA = "e" * 64


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def outcome(**changes: Any) -> dict[str, Any]:
    points = [{"at": "x 0.5", "value": 0.5}, {"at": "x 1.1", "value": 1.0, "judged": False}]
    return {
        **{"name": "light", "kind": "brightness", "severity": "fails", "state": "passed"},
        **{"text": "accuracy 0.9", "measure": "accuracy", "points": points, "cpu_seconds": 1.5},
    } | changes


def write(*tests: dict[str, Any], model: str = SHA) -> None:
    Path("reports").mkdir(exist_ok=True)
    document = {"model": model, "at_a_time": 2, "tests": tests}
    Path("reports/tests.json").write_text(json.dumps(document), "utf-8")


@pytest.mark.parametrize(
    ("severity", "state", "holds"),
    [
        ("fails", "passed", True),
        ("fails", "not applicable", True),
        ("fails", "failed", False),
        ("fails", "error", False),
        ("fails", "skipped", False),
        ("warns", "warned", True),
        ("warns", "error", True),
        ("warns", "skipped", True),
    ],
)
def test_what_was_not_tested_is_no_pass(severity: str, state: str, holds: bool) -> None:
    write(outcome(severity=severity, state=state))
    (check,) = model_test_checks(SHA)
    assert (check.name, check.passed) == ("test light", holds)
    assert check.text == ("accuracy 0.9" if state == "passed" else f"{state}: accuracy 0.9")


def test_a_project_without_tests_is_asked_nothing_and_one_that_lost_its_results_is() -> None:
    assert model_test_checks(SHA) == [] and model_test_section(SHA) == ""
    Path("tests.yaml").write_text("tests: {}", "utf-8")
    (check,) = model_test_checks(SHA)
    assert not check.passed and "reports/tests.json is missing: run `make test-model`" in check.text


def test_results_of_another_model_say_nothing_of_this_one() -> None:
    write(outcome(), model="d" * 64)
    (check,) = model_test_checks(SHA)
    assert not check.passed and "is of another model, dddddddddddd" in check.text
    assert model_test_section(SHA) == ""
    assert [check.passed for check in model_test_checks()] == [True], "where no model is at hand"


@pytest.mark.parametrize("content", ["{", "[]", '{"model": "e", "at_a_time": 1, "tests": []}'])
def test_a_broken_document_closes_the_gate_and_is_named(content: str) -> None:
    Path("reports").mkdir()
    Path("reports/tests.json").write_text(content, "utf-8")
    (check,) = model_test_checks(SHA)
    assert not check.passed and check.text.startswith("reports/tests.json: ")
    assert "reports/tests.json: " in model_test_section(SHA)


def test_the_section_counts_the_verdicts_and_draws_the_points() -> None:
    times = [{"at": "p95", "value": 8.0}, {"at": "raw", "value": 2.0}]
    write(
        outcome(),
        outcome(name="cost", kind="latency", state="failed", measure="ms", points=times),
        outcome(name="season", kind="season", state="not applicable", points=[]),
    )
    text = model_test_section(SHA)
    assert "1 passed, 1 failed, 1 not applicable; 4 s of CPU, 2 at a time." in text
    assert "| `light` " in text and "`▅█`" in text and "`█▃`" in text
    assert "- `light`, `accuracy`: `x 0.5: 0.5, x 1.1: 1 (0 chips, few)`" in text
    assert "❌ **failed**" in text


def test_texts_stay_texts() -> None:
    write(outcome(name="<b>|x", text="![a](http://b) @all", points=[]))
    shown = MarkdownIt("gfm-like", {"linkify": False}).render(model_test_section(SHA))
    assert "<b>" not in shown and "<img" not in shown and "<a " not in shown
