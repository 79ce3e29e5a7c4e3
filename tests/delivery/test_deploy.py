"""What the job of a stage decides before it touches the stage."""

import sys

import pytest

from delivery.deploy import main
from delivery.tags import parse_version
from tests.delivery.conftest import Project

VERSION = "landcover@v1.1.0"


@pytest.mark.parametrize("stage", ["staging", "production"])
@pytest.mark.parametrize("is_retired", [False, True])
def test_a_pipeline_leaves_out_what_a_person_has_taken_back(
    stage: str,
    is_retired: bool,
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The next merge has the same model: its pipeline is green, and changes nothing."""
    project.release("one", "staging", "production")
    project.release("two", "staging", "production")
    for name in ("production", "staging"):
        project.registry.rollback(name)
    if is_retired:
        project.registry.retire(parse_version(VERSION))
    tags = project.origin_tags()
    project.write("README.md", "Better words.")
    assert project.registry.register(project.commit("Words")).tag == VERSION
    monkeypatch.chdir(project.folder)
    monkeypatch.setattr(sys, "argv", ["deploy", stage, "--version", VERSION])
    with pytest.raises(SystemExit, match="error: "):  # a person wanted it
        main()
    monkeypatch.setenv("CI_PIPELINE_ID", "7")
    main()
    why = f"{VERSION} is retired" if is_retired else f"{stage} was rolled back from it"
    said = capsys.readouterr().err
    assert said.startswith("left out: ") and why in said
    assert project.origin_tags() == tags
