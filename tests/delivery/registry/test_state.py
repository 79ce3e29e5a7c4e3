"""What tags and commits say, told from what they do not; GTO reads the same."""

import json
from typing import Any

import pytest
from gto import api

from contracts.tags import STAGES, Version
from delivery.registry.state import (
    data_version,
    model_digest,
    read_metrics,
    read_params,
    read_state,
    trained_on,
)
from tests.delivery.conftest import DATA, Project

HUGE = "1" + "0" * 400


def number(minor: int) -> Version:
    return Version("landcover", (1, minor, 0))


def tag(project: Project, name: str, commit: str = "HEAD", message: str | None = "x") -> None:
    """Tag a commit a minute later; without a message the tag has no time of its own."""
    project.minutes += 1
    words = ("--annotate", f"--message={message}") if message is not None else ()
    project.git("tag", *words, name, f"{commit}^{{commit}}")


def test_a_record_has_the_facts_of_tag_and_commit(project: Project) -> None:
    project.release("one", "staging", "production")
    digest = project.write_model("two", accuracy=0.97)
    project.commit()
    version = project.registry.register()
    project.registry.assign(version, "staging")
    newest, oldest = project.registry.versions()
    assert (newest.version, oldest.version) == (number(1), number(0))
    assert newest.commit == project.git("rev-parse", "HEAD")
    assert newest.stages == ("staging",) and oldest.stages == ("production",)
    assert newest.metrics == {"accuracy": 0.97, "macro_f1": 0.88}
    assert newest.digest == digest
    assert not newest.deprecated
    entry = json.loads(json.dumps(newest.entry()))
    assert entry["version"] == "landcover@v1.1.0" and entry["date"] == newest.date.isoformat()


def test_a_retired_version_stays_in_the_list(project: Project) -> None:
    project.release("one")
    tag(project, "landcover@v1.0.0!")
    assert [record.deprecated for record in project.registry.versions()] == [True]


def test_the_history_of_a_stage_is_newest_first_with_time_and_message(project: Project) -> None:
    project.release("one", "staging")
    project.release("two", "staging")
    project.registry.rollback("staging", reason="Too dark")
    history = project.registry.history("staging")
    assert [move.tag for move in history] == [f"landcover#staging#{it}" for it in (3, 2, 1)]
    assert [move.version for move in history] == [number(0), number(1), number(0)]
    assert "Reason: Too dark" in history[0].message
    assert history[0].when >= history[1].when


def test_counters_order_events_of_one_second(project: Project) -> None:
    for model in ("one", "two", "three"):
        project.release(model)
    for counter, minor in enumerate((2, 0, 1), 9):
        project.git(
            "tag", "-a", "-m", "x", f"landcover#staging#{counter}", f"landcover@v1.{minor}.0^{{}}"
        )
    assert project.registry.serving("staging") == number(1)
    assert [move.version.number[1] for move in project.registry.history("staging")] == [1, 0, 2]


def test_a_tag_without_a_counter_counts_by_its_time(project: Project) -> None:
    for model in ("one", "two", "three"):
        project.release(model)
    tag(project, "landcover#staging#1", "landcover@v1.0.0")
    tag(project, "landcover#staging", "landcover@v1.1.0")
    assert project.registry.serving("staging") == number(1)
    tag(project, "landcover#staging#2", "landcover@v1.2.0")
    assert project.registry.serving("staging") == number(2)


def test_a_tag_without_a_message_counts_by_its_counter(project: Project) -> None:
    project.release("one")
    project.release("two", "staging")
    tag(project, "landcover#staging#2", "landcover@v1.0.0", message=None)
    assert project.registry.serving("staging") == number(0)
    assert [move.message for move in project.registry.history("staging")][0] == ""


def test_withdrawing_an_assignment_restores_the_version_before(project: Project) -> None:
    project.release("one", "staging")
    project.release("two", "staging")
    tag(project, "landcover#staging!#3", "landcover@v1.1.0")
    assert project.registry.serving("staging") == number(0)
    tag(project, "landcover#staging!#4", "landcover@v1.0.0")
    assert project.registry.serving("staging") is None
    tag(project, "landcover#staging!#5", "landcover@v1.0.0")  # nothing left to end
    tag(project, "landcover#staging#6", "landcover@v1.0.0")
    assert project.registry.serving("staging") == number(0)


def test_gto_and_the_registry_report_the_same_state(project: Project) -> None:
    project.release("one")
    project.release("two")
    project.release("three")
    moves = (("staging", 0), ("staging", 1), ("production", 0), ("staging", 2), ("staging", 0))
    for counter, (stage, minor) in enumerate(moves, 1):
        tag(project, f"landcover#{stage}#{counter}", f"landcover@v1.{minor}.0")
    _same(project)
    tag(project, "landcover#staging!#6", "landcover@v1.0.0")
    _same(project)
    tag(project, "landcover@v1.1.0!", "landcover@v1.1.0")
    _same(project)


def test_tags_outside_the_grammar_of_the_registry_are_ignored(project: Project) -> None:
    project.release("one", "staging")
    for name in (
        "landcover@$(id)",
        "landcover@v1.2",
        "landcover@v1!.3.0",
        "landcover@v2.0.0-rc.1",
        "landcover@v1.0.0!!",
        "landcover@latest",
        "landcover@deprecated",
        "landcover#sta!ging#3",
        "landcover#staging#x",
        "landcover#dev#4",
        "landcover#staging!#x",
        "landcoverage@v9.0.0",
        "other#staging#9",
        "landcover@v1.1.0\u2028landcover@v1.2.0",
    ):
        tag(project, name)
    state = read_state(project.repository, "landcover")
    assert list(state.versions) == [number(0)] and not state.retired
    assert [move.tag for move in state.moves["staging"]] == ["landcover#staging#1"]
    assert [record.stages for record in project.registry.versions()] == [("staging",)]


def test_an_assignment_of_a_commit_without_a_version_serves_nothing(project: Project) -> None:
    tag(project, "landcover#staging#1")
    assert project.registry.serving("staging") is None


def test_an_assignment_tag_on_a_version_tag_counts_for_its_commit(project: Project) -> None:
    project.release("one")
    project.git("tag", "--annotate", "--message=x", "landcover#staging#1", "landcover@v1.0.0")
    assert project.registry.serving("staging") == number(0)
    project.git("push", "--quiet", "origin", "landcover#staging#1")
    assert project.registry.assign(number(0), "production") == "landcover#production#2"


def test_tags_on_blobs_are_ignored(project: Project) -> None:
    project.train("one")
    blob = project.git("rev-parse", "HEAD:dvc.lock")
    project.git("tag", "landcover@v1.0.0", blob)
    project.git("tag", "--annotate", "--message=x", "landcover@v1.1.0", blob)
    project.git("tag", "--annotate", "--message=x", "landcover@v1.2.0", "landcover@v1.1.0")
    assert project.registry.versions() == []


def test_the_higher_of_two_versions_on_one_commit_serves(project: Project) -> None:
    project.release("one", "staging")
    tag(project, "landcover@v1.7.0", "landcover@v1.0.0")
    assert project.registry.serving("staging") == number(7)


def test_model_data_metrics_and_parameters_are_read_from_a_commit(project: Project) -> None:
    digest = project.write_model("one")
    commit, repository = project.commit(), project.repository
    assert model_digest(repository, commit) == digest
    assert data_version(repository, commit) == trained_on(repository, commit) == DATA
    assert read_metrics(repository, commit) == {"accuracy": 0.9, "macro_f1": 0.88}
    assert read_params(repository, commit)["train.epochs"] == 40


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"a: [",
        b"\xff\xfe",
        b"stages: 1\nouts: 1",
        b"stages: {a: 1}\nouts: [1]",
        b"stages: {a: {outs: [{path: model, md5: '$(id)'}], deps: [{path: data, md5: 5}]}}",
        b"outs: [{md5: ../../x}]",
        b"[" * 2000,
        b"x" * (2**20 + 1),
    ],
    ids=lambda text: ascii(text[:40]),
)
def test_broken_files_of_a_commit_give_no_facts(project: Project, text: bytes) -> None:
    for path in ("dvc.lock", "data.dvc", "reports/metrics.json", "params.yaml"):
        project.write(path, text)
    commit, repository = project.commit(), project.repository
    assert model_digest(repository, commit) is None
    assert data_version(repository, commit) is None
    assert trained_on(repository, commit) is None
    assert read_metrics(repository, commit) == {}
    if not text.startswith(b"stages: {"):
        assert read_params(repository, commit) == {}


def test_only_finite_numbers_are_metrics(project: Project) -> None:
    numbers = '"good": 1, "nan": NaN, "inf": Infinity, "yes": true, "text": "1", "deep": {"a": 1}'
    project.write("reports/metrics.json", f'{{{numbers}, "huge": {HUGE}}}')
    assert read_metrics(project.repository, project.commit()) == {"good": 1}


def test_nested_lists_of_parameters_are_abbreviated(project: Project) -> None:
    bomb = "train: {a: &a [x, x], deep: [*a, *a], list: [1, x], date: 2020-01-01}\n"
    project.write("params.yaml", bomb)
    assert read_params(project.repository, project.commit()) == {
        "train.a": ["x", "x"],
        "train.deep": ["(list of 2)", "(list of 2)"],
        "train.list": [1, "x"],
        "train.date": "2020-01-01",
    }


def _same(project: Project) -> None:
    """What GTO shows is what the registry shows."""
    shown: list[dict[str, Any]] = api.show(str(project.folder), "landcover", deprecated=True)
    records = project.registry.versions()
    assert [it["version"] for it in shown] == [record.version.text for record in records]
    for theirs, mine in zip(shown, records, strict=True):
        assert theirs["commit_hexsha"] == mine.commit
        assert theirs["is_active"] is not mine.deprecated
        stages = {it["stage"] for it in theirs["stages"]}
        assert stages == set(mine.stages)
    events = api.history(str(project.folder), "landcover")
    for stage in STAGES:
        refs = [it["ref"] for it in events if it["event"] == "assignment" and it["stage"] == stage]
        assert refs == [move.tag for move in project.registry.history(stage)]
