"""What a person types, and what they read."""

import json
import re
import sys
from collections.abc import Callable

import pytest

from delivery.errors import TagError
from delivery.registry.__main__ import main
from delivery.registry.state import read_state
from delivery.tags import parse_assignment, parse_version
from tests.conftest import ROOT, run
from tests.delivery.conftest import Project

Type = Callable[..., str]


@pytest.fixture
def typed(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Type:
    """Type a command in the project's folder; returns stdout and then stderr."""
    monkeypatch.chdir(project.folder)

    def type_command(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["registry", *words])
        capsys.readouterr()
        main()
        said = capsys.readouterr()
        return said.out + said.err

    return type_command


def error(typed: Type, *words: str) -> str:
    """The one line that a command ends with when it is refused."""
    with pytest.raises(SystemExit) as ended:
        typed(*words)
    message = str(ended.value.code)
    assert message.startswith("error: ") and "\n" not in message
    return message


def test_models_is_a_table_of_versions_stages_and_metrics(project: Project, typed: Type) -> None:
    project.release("one", "staging", "production")
    project.release("two", "staging")
    project.release("three")
    typed("retire", "v1.2.0")
    header, _, *rows = typed("models").splitlines()
    assert re.split(r"\s{2,}", header.strip()) == [
        "version",
        "stages",
        "date",
        "accuracy",
        "macro_f1",
        "commit",
    ]
    cells = [re.split(r"\s{2,}", row.strip()) for row in rows]
    assert [row[:2] for row in cells] == [
        ["landcover@v1.2.0", "-"],
        ["landcover@v1.1.0", "staging"],
        ["landcover@v1.0.0", "production"],
    ]
    assert [row[3:5] for row in cells] == [["0.9", "0.88"]] * 3
    assert [row[6:] for row in cells] == [["retired"], [], []]
    assert cells[0][5] == project.git("rev-parse", "HEAD")[:12]


def test_models_as_json_is_the_same_and_more(project: Project, typed: Type) -> None:
    project.release("one", "staging")
    (found,) = json.loads(typed("models", "--json"))
    assert found == project.registry.versions()[0].entry()
    assert found["stages"] == ["staging"] and found["metrics"]["accuracy"] == 0.9


def test_an_empty_registry_is_reported_with_how_to_fill_it(project: Project, typed: Type) -> None:
    project.write_model("one")
    assert typed("models") == "landcover has no version yet: the pipeline of main registers one\n"
    assert json.loads(typed("models", "--json")) == []


def test_register_prints_the_tag_and_nothing_else(project: Project, typed: Type) -> None:
    project.train("one")
    assert typed("register") == "landcover@v1.0.0\n"
    commit = project.train("two")
    assert typed("register", commit, "--message", "Merge request !12") == "landcover@v1.1.0\n"
    assert "Merge request !12" in project.repository.message("landcover@v1.1.0")
    assert typed("register", "--ci-skip", commit) == "landcover@v1.1.0\n"


def test_a_pipeline_that_is_overtaken_registers_nothing_and_is_green(
    project: Project,
    typed: Type,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    older = project.train("one")
    project.release("two")
    assert "is outdated" in error(typed, "register", older), "a person wanted a version"
    monkeypatch.setenv("CI_PIPELINE_ID", "7")
    monkeypatch.setattr("sys.argv", ["registry", "register", older])
    main()
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("left out: commit ")
    assert "is outdated: landcover@v1.0.0 was registered from a later one" in printed.err
    assert list(project.origin_tags()) == ["landcover@v1.0.0"]
    for target in ("image", "deploy", "publish"):
        later = run("make", target, "OUTDATED=1", "STAGE=staging", "VERSION=", cwd=ROOT)
        assert later.stdout == "left out: a newer version is registered\n"


def test_a_version_is_promoted_rolled_back_and_retired(project: Project, typed: Type) -> None:
    project.release("one", "staging", "production")
    project.release("two", "staging")
    project.release("three")
    said = typed("promote", "v1.1.0", "production", "--reason", "Better")
    assert said == "landcover#production#4: production serves landcover@v1.1.0\n"
    said = typed("rollback", "production", "--reason", "Worse")
    assert said == "landcover#production#5: production serves landcover@v1.0.0\n"
    again = typed("rollback", "production")
    assert again.startswith(said) and "Further back: --to VERSION" in again
    typed("rollback", "staging", "--to", "1.0.0")
    assert "staging never served it" in error(typed, "promote", "v1.2.0", "production")
    typed("promote", "v1.2.0", "production", "--force", "--reason", "Fire")
    typed("rollback", "production", "--to", "1.0.0")
    said = typed("retire", "landcover@v1.1.0", "--reason", "Worse")
    assert said == "landcover@v1.1.0!: landcover@v1.1.0 is retired\n"
    state = read_state(project.repository, "landcover")
    assert {move.version.text for move in state.serving.values()} == {"v1.0.0"}


def test_lineage_is_read_by_people_and_programs(project: Project, typed: Type) -> None:
    project.release("one", "staging")
    found = json.loads(typed("lineage", "v1.0.0", "--json"))
    text = typed("lineage", "v1.0.0")
    assert list(found) == [line.split()[0] for line in text.splitlines() if line[0] != " "]
    assert found["commit"]["id"][:12] in text


def test_lineage_brings_the_experiments_from_origin(project: Project, typed: Type) -> None:
    project.release("one")
    project.registry.register(project.merge("two", 12, 345))
    project.git("tag", "--delete", "experiment/12-345")
    assert "experiment/12-345" in typed("lineage", "v1.1.0")


def test_reading_works_without_origin_and_warns(project: Project, typed: Type) -> None:
    project.release("one")
    project.origin.rename(project.origin.with_suffix(".away"))
    for words in (("models",), ("lineage", "v1.0.0")):
        said = typed(*words)
        assert "landcover@v1.0.0" in said
        assert "warning: origin has the registry, and cannot be read" in said
    assert "origin has the registry" in error(typed, "promote", "v1.0.0", "staging")


def test_help_explains_every_command_anywhere(project: Project) -> None:
    module = (sys.executable, "-m", "delivery.registry")
    text = run(*module, "--help", cwd=project.origin).stdout
    for name in ("models", "register", "promote", "rollback", "retire", "lineage"):
        assert re.search(rf"^ +{name} ", text, flags=re.MULTILINE)


def test_the_page_shows_tags_of_the_grammar_and_commands_that_exist() -> None:
    page = (ROOT / "docs" / "registry.md").read_text(encoding="utf-8")
    tags = set(re.findall(r"`(landcover[@#][^`]*)`", page))
    assert len(tags) >= 5
    for tag in tags:
        plain = tag.replace("!", "")
        try:
            parse_version(plain)
        except TagError:
            parse_assignment(plain)
    used = set(re.findall(r"python -m delivery.registry (\w+)", page))
    assert used <= {"models", "register", "promote", "rollback", "retire", "lineage"}
