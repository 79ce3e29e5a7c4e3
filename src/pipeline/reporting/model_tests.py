"""The tests of a model in the gate and in the report; `pipeline.model_tests` runs them."""

from pathlib import Path

from contracts.model_tests import TESTS, ModelTest, ModelTests
from pipeline import markdown as md
from pipeline.errors import DataError
from pipeline.reporting.documents import parse, titled
from pipeline.tasks.task import Check

DEFINITION = Path("tests.yaml")
BARS = "▁▂▃▄▅▆▇█"
MARKS = {
    "passed": "✅",
    "warned": "⚠️ **warned**",
    "failed": "❌ **failed**",
    "error": "❌ **error**",
    "skipped": "❌ **skipped**",
    "not applicable": "not applicable",
}
SHOWN = 40  # points of a test


def model_test_checks(model: str = "") -> list[Check]:
    """A check a test of tests.yaml; none where the project has no such file.

    Args:
        model: SHA-256 of the bundle that is judged; empty: whatever was tested.
    """
    try:
        found = parse(ModelTests, TESTS)
    except DataError as error:
        return [Check("tests of the model", False, str(error))]
    if found is None:
        text = f"{TESTS} is missing: run `make test-model`"
        return [Check("tests of the model", False, text)] if DEFINITION.exists() else []
    if model and found.model != model:
        text = f"{TESTS} is of another model, {found.model[:12]}: run `make test-model`"
        return [Check("tests of the model", False, text)]
    return [Check(f"test {it.name}", it.holds, _text(it)) for it in found.tests]


def _text(test: ModelTest) -> str:
    return test.text if test.state == "passed" else f"{test.state}: {test.text}"


@titled("Tests of the model")
def model_test_section(model: str) -> str:
    """What the tests found of the bundle with the SHA-256 `model`; empty where there are none."""
    found = parse(ModelTests, TESTS)
    if found is None or found.model != model:
        return ""
    counts = ", ".join(f"{count} {state}" for state, count in found.counts().items())
    seconds = sum(test.cpu_seconds for test in found.tests)
    rows = [
        [md.code(it.name), it.kind, MARKS[it.state], md.code(bars(it)), md.code(it.text)]
        for it in found.tests
    ]
    table = md.table(["test", "kind", "verdict", "points", "measured"], rows, text=5)
    points = "\n".join(_points(test) for test in found.tests if test.points)
    line = f"{counts}; {seconds:.0f} s of CPU, {found.at_a_time} at a time."
    return "\n\n".join(("## Tests of the model", line, table, points))


def bars(test: ModelTest) -> str:
    """The points as bars: shares 0..1 by their height, other values beside the largest."""
    if not test.points:
        return "-"
    values = [point.value for point in test.points[:SHOWN]]
    top = max(1.0, *values)
    return "".join(BARS[round(max(0.0, value) / top * (len(BARS) - 1))] for value in values)


def _points(test: ModelTest) -> str:
    shown = ", ".join(
        f"{point.at}: {point.value:.4g}" + ("" if point.judged else f" ({point.chips} chips, few)")
        for point in test.points[:SHOWN]
    )
    more = f", and {len(test.points) - SHOWN} more" if len(test.points) > SHOWN else ""
    return f"- {md.code(test.name)}, {md.code(test.measure)}: {md.code(shown + more)}"
