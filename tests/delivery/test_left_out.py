"""What a pipeline leaves out stands in its log, in the words of the documentation."""

import pytest

from delivery import left_out
from delivery.gitlab import desired
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("source", "parts"), [("merge_request_event", left_out.REQUEST), ("push", left_out.MAIN)]
)
def test_each_variable_that_is_not_set_is_named_with_its_consequence(
    source: str,
    parts: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["left_out"])
    monkeypatch.setenv("CI_PIPELINE_SOURCE", source)
    for name in parts:
        monkeypatch.setenv(name, "set")
    left_out.main()
    assert capsys.readouterr().out == ""
    for name in parts:
        monkeypatch.setenv(name, "")  # as a variable without a value
    left_out.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(parts)
    for line, (name, consequence) in zip(lines, parts.items(), strict=True):
        assert line.startswith(f"left out: {name} is not set: {consequence}")


def test_the_documentation_has_the_same_consequences() -> None:
    page = (ROOT / "docs" / "gitlab-setup.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    consequences = [*left_out.REQUEST.items(), *left_out.MAIN.items()]
    settable = {row.key for row in desired.VARIABLES}
    undocumented = [
        name
        for name, text in consequences
        if name in settable
        and not any(row.startswith(f"| `{name}` |") and text in row for row in rows)
    ]
    assert undocumented == []
    assert {name for name, _ in consequences} - settable == {"CI_REGISTRY_IMAGE"}
    by_gitlab = f"no `CI_REGISTRY_IMAGE`, {left_out.MAIN['CI_REGISTRY_IMAGE']}"
    assert by_gitlab in " ".join(page.split())
