"""reports/tests.json: whoever reads it gets counts, whatever stands in it."""

import json

from contracts.model_tests import read_test_counts


def test_tests_of_a_model_are_counted_and_a_broken_document_has_none() -> None:
    test = {"name": "a", "kind": "noise", "severity": "fails", "state": "passed", "text": ""}
    tests = [test, test | {"state": "failed"}, test | {"state": "passed", "newer": 1}]
    document = {"model": "e" * 64, "at_a_time": 1, "tests": tests}
    assert read_test_counts(json.dumps(document).encode()) == {"passed": 2, "failed": 1}
    for broken in (b"{", b"[]", json.dumps(document | {"tests": []}).encode()):
        assert read_test_counts(broken) == {}
