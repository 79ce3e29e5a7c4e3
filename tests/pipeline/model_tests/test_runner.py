"""The runner: needs and priority, errors that are no failures, nothing that runs for ever."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contracts.model_tests import ModelTest
from pipeline.model_tests import kinds, work
from pipeline.model_tests.definition import Case, Definition, Latency, Noise
from pipeline.model_tests.runner import Runner
from tests.make.model_tests import Scripted

Run = Callable[..., dict[str, ModelTest]]


def case(**more: Any) -> Noise:
    return Noise(kind="noise", sigmas=[0.1], max_drop=0.1, **more)


@pytest.fixture
def said() -> list[str]:
    """What the runner has said, line by line."""
    return []


@pytest.fixture
def run(tmp_path: Path, said: list[str]) -> Run:
    """Run tests by a script; state and text of each."""

    def run_script(
        tests: dict[str, Case], script: dict[str, str], at_a_time: int = 2, seconds: float = 60
    ) -> dict[str, ModelTest]:
        found = Runner(tests, Scripted(tmp_path, script), at_a_time, seconds, said.append).run()
        assert [test.name for test in found] == list(tests)
        return {test.name: test for test in found}

    return run_script


def states(found: dict[str, ModelTest]) -> dict[str, str]:
    return {name: test.state for name, test in found.items()}


def ended(said: list[str]) -> list[str]:
    return [line.split()[-2].rstrip(":") for line in said]


def test_needs_come_first_then_priority_then_the_order_of_the_file(
    run: Run, said: list[str]
) -> None:
    tests = {
        "last": case(needs=["urgent"], priority=99),
        "first-of-file": case(),
        "second-of-file": case(),
        "urgent": case(priority=5),
    }
    run(tests, dict.fromkeys(tests, "hold"), at_a_time=1)
    assert ended(said) == ["urgent", "last", "first-of-file", "second-of-file"]


def test_what_needs_a_failed_test_is_skipped_with_the_reason_and_the_rest_runs(run: Run) -> None:
    tests = {
        "bad": case(),
        "after-bad": case(needs=["bad"]),
        "after-that": case(needs=["after-bad"]),
        "warned": case(severity="warns"),
        "after-warned": case(needs=["warned", "nothing"]),
        "nothing": case(),
    }
    script = dict.fromkeys(tests, "hold") | {"bad": "miss", "warned": "miss", "nothing": "none"}
    found = run(tests, script)
    assert states(found) == {
        "bad": "failed",
        "after-bad": "skipped",
        "after-that": "skipped",
        "warned": "warned",
        "after-warned": "passed",
        "nothing": "not applicable",
    }
    assert found["after-bad"].text == "needs bad, which is failed"
    assert [name for name, test in found.items() if not test.holds] == list(tests)[:3]


def test_an_error_is_tried_again_alone_and_a_failure_is_not(
    run: Run, tmp_path: Path, said: list[str]
) -> None:
    tests = {"crash": case(), "slow": case(), "other": case(), "bad": case(retries=3)}
    script = {"crash": "kill wait", "slow": "wait", "other": "wait", "bad": "miss hold"}
    found = run(tests, script)
    assert states(found) == {
        **{"crash": "passed", "slow": "passed", "other": "passed", "bad": "failed"}
    }
    assert (found["crash"].attempts, found["bad"].attempts) == (2, 1)
    assert any(line.startswith("again crash: its process ended by signal SIGKILL") for line in said)
    begun, end = Scripted(tmp_path, {}).span("crash")
    for name in ("slow", "other", "bad"):
        other_begun, other_end = Scripted(tmp_path, {}).span(name)
        assert other_end <= begun or end <= other_begun, "the second attempt has the machine alone"


def test_an_error_that_stays_is_no_pass(run: Run) -> None:
    tests = {"crash": case(), "bug": case(), "hang": case(retries=0, timeout=0.3)}
    found = run(tests, {"crash": "kill", "bug": "raise", "hang": "hang"})
    assert states(found) == {"crash": "error", "bug": "error", "hang": "error"}
    assert found["bug"].text == "its process ended with 1" and found["bug"].attempts == 2
    assert "memory may have run out" in found["crash"].text and found["crash"].attempts == 2
    assert found["hang"].text == "no result within 0.3 s: raise timeout"
    assert not found["crash"].holds and not found["hang"].holds


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (RuntimeError("no such kernel"), "RuntimeError: no such kernel"),
        (MemoryError(), "memory ran out: lower chips or at_a_time"),
    ],
)
def test_a_test_that_raises_is_an_error_in_its_own_words(
    error: Exception, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*of: object) -> None:
        raise error

    monkeypatch.setattr(work, "Subject", lambda scratch, most: None)
    monkeypatch.setattr(kinds, "run", broken)
    answer = work.Work(tmp_path, Definition(tests={"a": case()}))("a")
    assert (answer.state, answer.text) == ("error", text)


def test_latency_has_the_machine_alone(run: Run, tmp_path: Path) -> None:
    latency = Latency(kind="latency", max_cpu=1.0, priority=1)
    tests: dict[str, Case] = {"a": case(priority=2), "latency": latency, "b": case(), "c": case()}
    run(tests, dict.fromkeys(tests, "wait"), at_a_time=4)
    begun, end = Scripted(tmp_path, {}).span("latency")
    for name in ("a", "b", "c"):
        other_begun, other_end = Scripted(tmp_path, {}).span(name)
        assert other_end <= begun or end <= other_begun


def test_a_budget_that_is_used_up_skips_what_has_not_begun(run: Run) -> None:
    found = run({"a": case(), "b": case(severity="warns")}, {"a": "hold", "b": "hold"}, seconds=0)
    assert states(found) == {"a": "skipped", "b": "skipped"}
    assert "the budget is used up" in found["a"].text
    assert (found["a"].holds, found["b"].holds) == (False, True)
