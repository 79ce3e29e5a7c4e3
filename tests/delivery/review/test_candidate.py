"""Which tag has the model that a merge request proposes."""

import json
from pathlib import Path

import pytest

from delivery.errors import DeliveryError, RegistryError, TrainingFailed
from delivery.experiment.experiment import COMMITTED, RECORD
from delivery.review.candidate import find_candidate, published
from tests.delivery.conftest import Project


@pytest.fixture(autouse=True)
def checkout(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job runs in the checkout."""
    monkeypatch.chdir(project.folder)


def trained(state: str = "done", **committed: object) -> None:
    """Leave what the jobs `train` and `commit` leave."""
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    RECORD.write_text(json.dumps({"state": state}))
    if committed:
        COMMITTED.write_text(json.dumps(committed))


def push(project: Project, tag: str, commit: str = "HEAD") -> None:
    """Make a tag at origin, and leave none here."""
    project.git("push", "--quiet", "origin", f"{commit}:refs/tags/{tag}")


def test_the_tag_of_this_pipeline_is_the_candidate(project: Project) -> None:
    project.train("first")
    push(project, "experiment/12-7")
    project.write_model("second")
    project.commit("Train second", push=False)
    push(project, "experiment/12-8")
    trained(tag="experiment/12-8")
    found = find_candidate(project.registry, "12")
    assert found.tag == "experiment/12-8"
    assert found.bundle == project.folder / "model"


def test_a_folder_with_another_model_is_not_used(project: Project) -> None:
    project.train("first")
    push(project, "experiment/12-7")
    trained(tag="experiment/12-7")
    project.write("model/model.onnx", "altered")
    assert find_candidate(project.registry, "12").bundle is None


def test_without_training_the_newest_experiment_with_the_model_is_the_candidate(
    project: Project,
) -> None:
    first = project.train("first")
    push(project, "experiment/12-9", first)
    push(project, "experiment/12-10", first)  # newer, though it sorts before 9
    push(project, "experiment/121-11", first)  # of another merge request
    project.train("second")
    push(project, "experiment/12-12")
    project.write_model("first")
    trained(note="nothing to commit: dvc.lock is current")
    assert find_candidate(project.registry, "12").tag == "experiment/12-10"


def test_without_an_experiment_the_version_with_the_model_is_the_candidate(
    project: Project,
) -> None:
    version = project.register("first")
    project.register("second")
    project.write_model("first")
    assert find_candidate(project.registry, "12").tag == version


def test_a_model_without_a_tag_is_not_a_candidate(project: Project) -> None:
    project.train("first")
    with pytest.raises(RegistryError, match="no tag has the model that dvc.lock names"):
        find_candidate(project.registry, "12")


def test_an_unpushed_tag_is_refused_with_the_reason(project: Project) -> None:
    project.train("first")
    project.git("tag", "experiment/12-7")
    trained(tag="experiment/12-7", note="BOT_TOKEN may not push")
    with pytest.raises(
        RegistryError, match="not a tag of merge request 12 .*BOT_TOKEN may not push"
    ):
        find_candidate(project.registry, "12")


@pytest.mark.parametrize("tag", ["experiment/13-7", "landcover@v1.0.0", "$(touch pwned)", "-x"])
def test_a_tag_of_another_kind_is_not_a_candidate(project: Project, tag: str) -> None:
    project.train("first")
    push(project, "experiment/13-7")
    trained(tag=tag)
    with pytest.raises(RegistryError, match="not a tag of merge request 12"):
        find_candidate(project.registry, "12")


@pytest.mark.parametrize("state", ["running", "failed"])
def test_a_failed_training_has_no_candidate(project: Project, state: str) -> None:
    project.train("first")
    push(project, "experiment/12-7")
    trained(state=state)
    with pytest.raises(TrainingFailed, match="failed or was cancelled"):
        find_candidate(project.registry, "12")


@pytest.mark.parametrize("path", [RECORD, COMMITTED])
@pytest.mark.parametrize("content", ["", "[]", '{"tag": 1, "state": 1}', "\0"])
def test_a_broken_record_is_an_error_with_a_sentence(
    project: Project, content: str, path: Path
) -> None:
    project.train("first")
    trained(note="nothing")
    path.write_text(content)
    with pytest.raises(TrainingFailed, match="is broken: run the job train again"):
        find_candidate(project.registry, "12")


def test_a_broken_lock_is_an_error_with_a_sentence(project: Project) -> None:
    project.write("dvc.lock", "stages: [")
    with pytest.raises(DeliveryError, match="dvc.lock is missing or broken"):
        find_candidate(project.registry, "12")


def test_tags_outside_the_grammar_are_ignored(project: Project) -> None:
    commit = project.train("first")
    for tag in ("experiment/12-$(id)", "experiment/12-7", "experiment/12-7-8", "experiment/12-"):
        push(project, tag, commit)
    assert published(project.repository, "12") == {"experiment/12-7": commit}


def test_a_tag_that_origin_has_moved_is_moved_here(project: Project) -> None:
    first = project.train("first")
    project.git("tag", "experiment/12-7", first)
    second = project.train("second")
    push(project, "experiment/12-7", second)
    assert published(project.repository, "12") == {"experiment/12-7": second}
