"""The suite's own rules: which tests are of the system, and which skips CI lets pass."""

import subprocess

import pytest

from tests import skips, system
from tests.conftest import run


def report(reason: str) -> pytest.TestReport:
    """What pytest makes of a test that skips itself."""
    return pytest.TestReport("test", ("", 0, ""), {}, "skipped", ("", 0, reason), "call")


@pytest.mark.parametrize(
    ("reason", "ci", "outcome"),
    [
        ("Skipped: promtool is not installed: make setup-e2e", "true", "failed"),
        ("Skipped: promtool is not installed: make setup-e2e", "", "skipped"),
        ("Skipped: no EuroSAT archive here: set EUROSAT=path", "true", "skipped"),
    ],
)
def test_a_skip_fails_in_ci_unless_it_is_on_the_list(
    reason: str, ci: str, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", ci)
    found = report(reason)
    skips.judge(found)
    assert found.outcome == outcome
    assert (outcome == "failed") == ("make setup-e2e" in str(found.longrepr) and ci == "true")


def starts_a_program() -> None:
    subprocess.run(["true"], check=True)


def starts_one_in_a_function_inside() -> None:
    def inside() -> None:
        run("true")

    inside()


class Starter:
    """Starts one in a method."""

    def start(self) -> None:
        starts_a_program()


def uses_the_class() -> Starter:
    return Starter()


def computes() -> int:
    return sum(range(3))


def test_a_test_that_starts_a_program_by_whatever_way_is_one_of_the_system() -> None:
    ways = (starts_a_program, starts_one_in_a_function_inside, uses_the_class, run)
    assert [way for way in ways if not system.starts_a_program(way)] == []
    assert not system.starts_a_program(computes)
