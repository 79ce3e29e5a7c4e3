"""What a program printed, as one sentence."""

import pytest

from delivery.errors import LONGEST, reason

OUTPUTS = {
    "ERROR: no credentials\n\nHaving any troubles? Hit us up at https://dvc.org/support": (
        "no credentials"
    ),
    'Error from server (Forbidden): pods is forbidden\nSee "kubectl get --help"\n': (
        "Error from server (Forbidden): pods is forbidden"
    ),
    "The connection to the server localhost:8080 was refused\n": (
        "The connection to the server localhost:8080 was refused"
    ),
    "STEP 1\nError: no space left on device\nerror: exit status 125\nERROR: exit status 125": (
        "no space left on device; exit status 125"
    ),
    "  \n\n": "failed without a message",
    "fatal: \x1b[31mred\x1b[0m": " [31mred [0m",
}


def test_the_reason_is_the_errors_that_a_program_printed() -> None:
    assert {output: reason(output) for output in OUTPUTS} == OUTPUTS


@pytest.mark.parametrize("output", ["x" * 10_000, "error: " + "y" * 10_000])
def test_a_reason_is_short(output: str) -> None:
    assert len(reason(output)) == LONGEST
