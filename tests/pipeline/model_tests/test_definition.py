"""tests.yaml: what cannot be run is refused with field, value and cure."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ParameterError
from pipeline.model_tests.definition import read_tests
from tests.conftest import ROOT
from tests.make.model_tests import write_tests

NOISE: dict[str, Any] = {"kind": "noise", "sigmas": [0.1], "max_drop": 0.1}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_shipped_file_can_be_read_and_has_every_kind() -> None:
    shipped = read_tests(ROOT / "tests.yaml").tests.values()
    kinds = {test.kind for test in shipped}
    assert kinds == {
        *("slice", "season", "brightness", "noise", "shift", "invariance", "latency", "memory")
    }


@pytest.mark.parametrize(
    ("tests", "said"),
    [
        ({}, "tests is empty: write at least one"),
        ({"a": {"max_drop": 1.0}}, "tests.a.kind is missing: use one of slice, season, brightness"),
        ({"a": NOISE | {"kind": "blur"}}, "tests.a.kind is 'blur': use one of slice, season"),
        ({"a": NOISE | {"sigmas": []}}, "tests.a.sigmas is empty: write at least one"),
        ({"a": NOISE | {"sigmas": [0]}}, "tests.a.sigmas.0 is 0, wanted more than 0"),
        (
            {"a": NOISE | {"sigma": 1}},
            "tests.a.sigma is not known: remove it, or use one of kind, sev",
        ),
        ({"a": NOISE | {"max_drop": "5 %"}}, "tests.a.max_drop is '5 %', wanted a number"),
        ({"a": NOISE | {"max_drop": 1.5}}, "tests.a.max_drop is 1.5, wanted at most 1"),
        ({"a": NOISE | {"severity": "fail"}}, "tests.a.severity is 'fail', wanted one of 'fails'"),
        (
            {"a": {"kind": "noise", "sigmas": [1.0]}},
            "tests.a has no threshold, so it cannot fail: set max_drop",
        ),
        (
            {"a": {"kind": "invariance", "under": ["flip"]}},
            "tests.a has no threshold, so it cannot fail: set max_changed",
        ),
        (
            {"a": {"kind": "invariance", "under": ["band-noise"], "max_changed": 0.1}},
            "tests.a sigma belongs to band-noise: write both, or neither",
        ),
        (
            {"a": {"kind": "slice", "by": "colour", "max_drop": 0.1}},
            "tests.a.by is 'colour', wanted one of 'class', 'group', 'place', 'brightness' or",
        ),
        (
            {"a": NOISE | {"needs": ["b"]}},
            "tests.a.needs: 'b' is no test: use some of a",
        ),
        (
            {"a": NOISE | {"needs": ["b"]}, "b": NOISE | {"needs": ["a"]}},
            "tests.a.needs: a cycle, a -> b -> a: none of them can be the first, take one of",
        ),
        ({"a b": NOISE}, "tests.a b"),
    ],
)
def test_each_fault_is_a_sentence(tests: dict[str, Any], said: str) -> None:
    write_tests(tests)
    with pytest.raises(ParameterError) as error:
        read_tests()
    assert f"tests.yaml: {said}" in str(error.value)


@pytest.mark.parametrize(("field", "value"), [("budget", 0), ("chips", 0), ("at_a_time", 0)])
def test_nothing_of_a_run_may_be_zero(field: str, value: int) -> None:
    write_tests({"a": NOISE}, **{field: value})
    with pytest.raises(ParameterError, match=f"tests.yaml: {field}.* wanted "):
        read_tests()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "tests.yaml is missing: run this in the root of the repository"),
        ("tests: [", "tests.yaml is not valid YAML"),
        ("", "tests.yaml: the file is None, wanted a mapping"),
    ],
)
def test_a_file_that_is_none_is_refused(content: str | None, said: str) -> None:
    if content is not None:
        Path("tests.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(ParameterError) as error:
        read_tests()
    assert str(error.value).startswith(said)


def test_in_a_stage_the_error_says_how_what_dvc_deleted_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DVC_STAGE", "model_tests")
    with pytest.raises(ParameterError, match="git checkout -- reports"):
        read_tests()
