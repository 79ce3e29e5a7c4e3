"""From a tag to everything that Git knows of it."""

import json
from typing import Any

import pytest

from delivery.registry.lineage import MISSING, lineage, render
from delivery.tags import parse_version
from tests.delivery.conftest import DATA, PARAMS, Project

APPROVED = "Approved-by: Grace <grace@example.org>\nReviewed-by: Alan <alan@example.org>\n"


def follow(project: Project, text: str) -> dict[str, Any]:
    found = lineage(project.registry, parse_version(text, "landcover"))
    assert json.loads(json.dumps(found)) == found
    return found


def test_a_merged_version_is_followed_from_tag_to_approval(project: Project) -> None:
    project.release("one", "staging", "production")
    test = {"name": "a", "kind": "noise", "severity": "fails", "state": "passed", "text": "well"}
    tests = {"model": "e" * 64, "at_a_time": 1, "tests": [test, test]}
    project.write("reports/tests.json", json.dumps(tests))
    params = {**PARAMS, "train": {"epochs": 12, "momentum": 0.9}}
    commit = project.merge("two", 12, 345, APPROVED, accuracy=0.97, params=params)
    version = project.registry.register(commit, "Merge request !12")
    project.registry.assign(version, "staging", "Looks good")
    found = follow(project, "v1.1.0")
    assert found["version"] == found["registered"]["tag"] == "landcover@v1.1.0"
    assert found["retired"] is None
    assert found["commit"]["id"] == found["brought_by"]["id"] == commit
    assert found["commit"]["subject"] == "Merge branch 'change-12' into 'main'"
    assert found["model"] == project.registry.versions()[0].digest
    assert found["data"] == {"version": DATA, "trained_on": DATA}
    assert found["metrics"] == {"accuracy": 0.97, "macro_f1": 0.88}
    assert found["tests"] == {"passed": 2} and "\ntests          2 passed\n" in render(found)
    assert found["parameters"]["compared_with"] == "landcover@v1.0.0"
    assert found["parameters"]["changed"] == {
        "train.epochs": {"from": 40, "to": 12},
        "train.momentum": {"from": None, "to": 0.9},
        "train.seed": {"from": 42, "to": None},
    }
    assert found["experiment"] == {
        "tag": "experiment/12-345",
        "commit": project.git("rev-parse", f"{commit}^2"),
        "merge_request": "12",
        "pipeline": "345",
    }
    assert found["merge_request"] == "group/project!12"
    assert found["approvals"] == [
        "Approved-by: Grace <grace@example.org>",
        "Reviewed-by: Alan <alan@example.org>",
    ]
    (stage,) = found["stages"]
    assert stage["tag"] == "landcover#staging#3" and stage["serving"]
    assert "Reason: Looks good" in stage["message"]


def test_stages_are_listed_over_time(project: Project) -> None:
    project.release("one", "staging", "production")
    project.release("two", "staging", "production")
    project.registry.rollback("production", reason="Too dark")
    found = follow(project, "v1.0.0")
    told = [(it["tag"], it["until"] is not None, it["serving"]) for it in found["stages"]]
    assert told == [
        ("landcover#staging#1", True, False),
        ("landcover#production#2", True, False),
        ("landcover#production#5", False, True),
    ]
    production = [it for it in follow(project, "v1.1.0")["stages"] if it["stage"] == "production"]
    assert production[0]["until"] == found["stages"][-1]["when"]


def test_a_withdrawn_assignment_does_not_end_the_one_before(project: Project) -> None:
    project.release("one", "staging")
    project.release("two", "staging")
    project.registry.withdraw("landcover#staging#2", "The smoke test failed")
    (before,) = follow(project, "v1.0.0")["stages"]
    assert before["serving"] and before["until"] is None
    (failed,) = follow(project, "v1.1.0")["stages"]
    assert failed["withdrawn"] and not failed["serving"] and failed["until"] is None
    assert "withdrawn (landcover#staging#2)" in render(follow(project, "v1.1.0"))


def test_the_lineage_of_a_retired_version_has_time_and_reason(project: Project) -> None:
    project.release("one")
    project.registry.retire(parse_version("landcover@v1.0.0"), "Clouds were rivers")
    found = follow(project, "v1.0.0")
    assert found["retired"]["tag"] == "landcover@v1.0.0!"
    assert "Reason: Clouds were rivers" in found["retired"]["message"]
    assert "Reason: Clouds were rivers" in render(found)


def test_a_version_on_a_later_commit_leads_to_the_merge_of_its_model(
    project: Project,
) -> None:
    project.release("one")
    merged = project.merge("two", 12, 345, APPROVED)
    project.write("README.md", "Better words.")
    project.registry.register(project.commit("Words"))
    found = follow(project, "v1.1.0")
    assert found["commit"]["subject"] == "Words"
    assert found["brought_by"]["id"] == merged
    assert found["merge_request"] == "group/project!12" and len(found["approvals"]) == 2
    assert found["experiment"]["tag"] == "experiment/12-345"


def test_a_restored_model_leads_to_the_merge_that_restored_it(project: Project) -> None:
    project.release("one")
    project.release("two")
    back = project.merge("one", 14, 400)
    project.registry.register(back)
    assert follow(project, "v1.2.0")["brought_by"]["id"] == back


def test_a_squashed_merge_request_leads_to_its_experiment_by_number(project: Project) -> None:
    project.release("one")
    project.git("switch", "--quiet", "--create", "change")
    for pipeline in (9, 10):
        project.train("two", accuracy=0.9 + pipeline / 1000)
        project.git("tag", f"experiment/12-{pipeline}")
    project.train("other")
    project.git("tag", "experiment/12-11")
    project.git("switch", "--quiet", "main")
    commit = project.train("two", "Squashed\n\nSee merge request project!12\n")
    project.registry.register(commit)
    found = follow(project, "v1.1.0")
    assert found["experiment"]["tag"] == "experiment/12-10"
    assert found["merge_request"] == "project!12"


def test_a_fast_forward_leads_to_the_merge_request_by_its_experiment(project: Project) -> None:
    project.release("one")
    project.train("two")
    project.git("tag", "experiment/12-345")
    project.registry.register()
    found = follow(project, "v1.1.0")
    assert found["merge_request"] == "!12"
    assert found["approvals"] == []


def test_experiments_of_other_merge_requests_are_not_this_ones(project: Project) -> None:
    project.release("one")
    project.git("tag", "experiment/11-300")  # an ancestor, merged long ago
    project.git("switch", "--quiet", "--create", "other")
    project.train("two")
    project.git("tag", "experiment/13-999")
    project.git("switch", "--quiet", "main")
    project.registry.register(project.merge("two", 12, 345))
    assert follow(project, "v1.1.0")["experiment"]["tag"] == "experiment/12-345"


def test_missing_facts_are_shown_as_not_recorded(project: Project) -> None:
    project.git("tag", "landcover@v1.0.0")
    found = follow(project, "v1.0.0")
    absent = ("model", "experiment", "merge_request", "retired")
    assert [found[name] for name in absent] == [None] * 4
    assert found["approvals"] == found["stages"] == [] and found["metrics"] == {}
    assert found["data"] == {"version": None, "trained_on": None}
    assert found["parameters"] == {"digest": None, "compared_with": None, "changed": {}}
    text = render(found)
    for name in (*absent[:3], "approvals", "metrics", "data", "parameters"):
        assert f"{name:<15}{MISSING}" in text.splitlines()
    assert f"{'retired':<15}no" in text and f"{'stages':<15}none yet" in text


def test_a_version_of_the_data_that_was_not_trained_on_is_shown(project: Project) -> None:
    project.write_model("one")
    other = "0" * 32 + ".dir"
    project.write("data.dvc", f"outs:\n- md5: {other}\n  path: data\n")
    project.commit()
    project.registry.register()
    found = follow(project, "v1.0.0")
    assert found["data"] == {"version": other, "trained_on": DATA}
    assert f"{other} in data.dvc, but dvc.lock: trained on {DATA}" in render(found)


def test_parameters_have_a_digest_that_follows_their_values_not_their_order(
    project: Project,
) -> None:
    project.release("one")
    digest = follow(project, "v1.0.0")["parameters"]["digest"]
    turned = {name: dict(reversed(list(PARAMS[name].items()))) for name in reversed(list(PARAMS))}
    project.train("two", params=turned)
    project.registry.register()
    parameters = follow(project, "v1.1.0")["parameters"]
    assert parameters["digest"] == digest and digest.startswith("sha256:")
    assert parameters["changed"] == {}


def test_the_text_has_the_names_of_the_json_in_their_order(project: Project) -> None:
    project.release("one", "staging", "production")
    found = follow(project, "v1.0.0")
    labels = [line.split()[0] for line in render(found).splitlines() if line[0] != " "]
    assert labels == list(found)


@pytest.mark.parametrize(
    "message",
    [
        "See merge request $(touch pwned)!12",
        "See merge request group/project!12; touch pwned",
        "Text. See merge request group/project!12",
        "See merge request group/project!1" + "2" * 30,
        "See merge request group/project!\N{SUPERSCRIPT TWO}",
    ],
)
def test_a_message_that_is_not_gitlabs_names_no_merge_request(
    project: Project, message: str
) -> None:
    project.train("one", f"Change\n\n{message}\n")
    project.registry.register()
    assert follow(project, "v1.0.0")["merge_request"] is None
    assert not list(project.folder.rglob("pwned"))


def test_hostile_messages_cannot_control_the_terminal(project: Project) -> None:
    project.train("one", "Title \x1b[2J\n\nApproved-by: \x1b]0;owned\x07 $(touch pwned)\n")
    project.git("tag", "--annotate", "--message=x\n\nReason: \x1b[31m", "landcover@v1.0.0")
    found = follow(project, "v1.0.0")
    assert found["approvals"] == ["Approved-by: ]0;owned $(touch pwned)"]
    assert "\x1b" not in render(found)
    assert not list(project.folder.rglob("pwned"))


def test_a_commit_from_a_strange_year_is_followed_all_the_same(project: Project) -> None:
    project.train("one")
    who = f"A <a@b> {2**50} +0000"
    tree = project.git("rev-parse", "HEAD^{tree}")
    body = f"tree {tree}\nauthor {who}\ncommitter {who}\n\nFrom afar\n"
    commit = project.git("hash-object", "-t", "commit", "-w", "--stdin", stdin=body)
    project.git("tag", "landcover@v1.0.0", commit)
    assert "landcover@v1.0.0" in render(follow(project, "v1.0.0"))


def test_counts_are_written_out_and_shares_are_rounded() -> None:
    shown = render({"metrics": {"test_pixels": 196_608, "accuracy": 0.953_216, "test_blocks": 3.0}})
    assert [line.split()[-1] for line in shown.splitlines()] == ["196608", "0.9532", "3"]
