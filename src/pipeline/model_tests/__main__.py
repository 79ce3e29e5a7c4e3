"""Stage: tests of the model as `tests.yaml` lists them -> reports/tests.json.

    python -m pipeline.model_tests             run them; the gate judges
    python -m pipeline.model_tests --strict    exit 1 where the gate would be closed
    python -m pipeline.model_tests --check     check tests.yaml, and run nothing

Tests run in processes of their own, as many at a time as cores and memory allow, by needs and
priority. It takes ONNX Runtime, not torch. docs/model-tests.md says what each kind does.

Reads:
    tests.yaml          the tests
    model/              the bundle
    artifacts/chips/    the test split
    params.yaml         the section evaluate

Writes:
    reports/tests.json  what each test found
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from contracts import commands
from contracts.model_tests import TESTS, ModelTests
from pipeline.errors import GateError, command
from pipeline.files import write_json
from pipeline.model_tests.definition import Definition, Season, Slice, read_tests
from pipeline.model_tests.machine import at_a_time
from pipeline.model_tests.runner import Runner
from pipeline.model_tests.slices import NotApplicable, masks
from pipeline.model_tests.subject import Subject
from pipeline.model_tests.work import Work


@command
def main(arguments: Sequence[str] = ()) -> None:
    """Run the tests."""
    parser = commands.parser("pipeline.model_tests", __doc__)
    parser.add_argument("--strict", action="store_true", help="exit 1 where the gate would close")
    parser.add_argument("--check", action="store_true", help="check tests.yaml, run nothing")
    options = parser.parse_args(arguments)
    definition = read_tests()
    if options.check:
        print(f"model_tests: {len(definition.tests)} tests, nothing to object")
        return
    with TemporaryDirectory() as folder:
        found = _run(definition, Path(folder))
    write_json(TESTS, found.model_dump(mode="json", exclude_defaults=True))
    counts = ", ".join(f"{count} {state}" for state, count in found.counts().items())
    seconds = sum(test.cpu_seconds for test in found.tests)
    print(f"model_tests: {counts}; {seconds:.1f} s of CPU in {TESTS}")
    lost = [test for test in found.tests if not test.holds]
    if options.strict and lost:
        listed = "; ".join(f"{test.name} {test.state}: {test.text}" for test in lost)
        raise GateError(
            f"{len(lost)} of {len(found.tests)} tests of the model do not hold: {listed}"
        )


def _run(definition: Definition, scratch: Path) -> ModelTests:
    subject = Subject(scratch, definition.chips)
    _refuse_empty_slices(definition, subject)
    tests = definition.tests
    beside = at_a_time(definition.at_a_time, len(tests), subject.split.chips.nbytes)
    print(
        f"model_tests: {len(tests)} tests of {subject.manifest.name}, {beside} at a time",
        flush=True,
    )
    runner = Runner(
        tests=tests,
        work=Work(scratch, definition),
        at_a_time=beside,
        seconds=60 * definition.budget,
        say=lambda line: print(f"model_tests: {line}", flush=True),
    )
    results = tuple(runner.run())
    return ModelTests(model=subject.manifest.sha256, at_a_time=beside, tests=results)


def _refuse_empty_slices(definition: Definition, subject: Subject) -> None:
    """Look at the slices before anything runs: a name without a chip is a mistake."""
    for name, test in definition.tests.items():
        if isinstance(test, Slice | Season) and test.only:
            try:
                masks(name, test, subject.split, subject.dataset)
            except NotApplicable:
                continue


if __name__ == "__main__":
    main(sys.argv[1:])
