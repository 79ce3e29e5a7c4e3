"""reports/tests.json: what the tests of a model found, and what the gate makes of it.

The room `pipeline.model_tests` writes it; the gate, the report, the registries and jobs read it. It
travels in Git, as the documents of `contracts.reports` do.
"""

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, ValidationError

from contracts.reports import Part, Text

TESTS = Path("reports/tests.json")
MOST_TESTS = 200
Short = Annotated[float, AfterValidator(lambda value: round(value, 6))]
"""A figure without the digits that only a diff would show."""

ModelTestState = Literal["passed", "warned", "failed", "error", "skipped", "not applicable"]
"""Warned: failed, of the severity `warns`. Skipped: a test that it needs has failed, or the budget
is used up. Not applicable: this task or these data have nothing of the kind."""


class ModelTestPoint(Part):
    """What a test of the model measured at one strength or on one slice."""

    at: Text
    value: Short
    low: Short | None = None
    """95 % interval of what the threshold is compared with; None without one."""
    high: Short | None = None
    chips: int = 0
    judged: bool = True
    """False of a slice with too few chips."""


class ModelTest(Part):
    """One test of tests.yaml."""

    name: Text
    kind: Text
    severity: Literal["fails", "warns"]
    state: ModelTestState
    text: Text
    """What was measured and wanted, or why nothing was."""
    measure: Text = ""
    """Of the points: accuracy, mean IoU, AP50, share changed, ms of CPU, MiB."""
    points: tuple[ModelTestPoint, ...] = ()
    attempts: int = 0
    cpu_seconds: float = 0
    peak_mib: float = 0
    """Memory of the process that ran it."""

    @property
    def holds(self) -> bool:
        """Whether the gate lets the model pass: what was not tested is no pass."""
        return self.severity == "warns" or self.state in ("passed", "not applicable")


class ModelTests(Part):
    """All of tests.json."""

    model: Text
    """SHA-256 of the bundle."""
    at_a_time: int
    """Tests that ran beside each other, at most."""
    tests: tuple[ModelTest, ...] = Field(min_length=1, max_length=MOST_TESTS)

    def counts(self) -> dict[str, int]:
        """How many tests ended how."""
        states = [test.state for test in self.tests]
        return {state: states.count(state) for state in get_args(ModelTestState) if state in states}


def read_test_counts(content: bytes) -> dict[str, int]:
    """How the tests of a model ended, from the bytes of tests.json; nothing where it is broken."""
    try:
        return ModelTests.model_validate_json(content).counts()
    except ValidationError:
        return {}
