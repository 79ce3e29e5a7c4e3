"""Trainings and versions on GitLab's pages: one of each, and never a failed job."""

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from delivery import model_card, release_notes, tracking
from delivery.experiment.experiment import Experiment
from delivery.gitlab.best_effort import best_effort
from tests.delivery.conftest import DATA, Project
from tests.fakes.gitlab.server import NUMBER, FakeGitLab, serving

TAG = "landcover@v1.0.0"
DONE = Experiment(state="done", trained=True, seconds=60, epochs=2)
COMMANDS: dict[str, Callable[[], None]] = {
    "run": lambda: tracking.record(DONE),
    "version": tracking.main,
    "release": release_notes.main,
}


@pytest.fixture
def api() -> Iterator[FakeGitLab]:
    with serving() as fake:
        fake.protected_tags.append(
            {"name": "landcover@*", "create_access_levels": [{"access_level": 40}]}
        )
        yield fake


@pytest.fixture(autouse=True)
def job(api: FakeGitLab, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job of GitLab, in a checkout with a registered version and a finished training."""
    project.register("first")
    project.write(".gitignore", "/model\n/artifacts\n/reports/training\n")
    monkeypatch.chdir(project.folder)
    monkeypatch.setattr(model_card, "_report", lambda against: f"# Report against {against[-2:]}")
    for name, value in {
        "CI": "true",
        "CI_SERVER_URL": api.url,
        "CI_PROJECT_URL": api.web_url,
        "CI_PROJECT_ID": str(NUMBER),
        "CI_PIPELINE_ID": "101",
        "CI_JOB_ID": "77",
        "CI_COMMIT_SHA": project.git("rev-parse", "HEAD"),
        "CI_MERGE_REQUEST_IID": "7",
        "BOT_TOKEN": api.admit(user="bot", level=30),
        "CI_JOB_TOKEN": api.admit(user="ana", level=40, job=True),
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], str]:
    """Run a command as a job does; what it printed."""

    def run(name: str) -> str:
        monkeypatch.setattr(sys, "argv", ["command", TAG])
        COMMANDS[name]()
        return capsys.readouterr().out

    return run


Command = Callable[[str], str]


def pairs(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {row["key"]: row["value"] for row in rows}


def curve(project: Project, name: str, rows: str) -> None:
    project.write(f"reports/training/plots/metrics/{name}.tsv", f"step\tx\n{rows}")


def test_a_training_is_a_run_with_its_numbers_curves_and_job(
    api: FakeGitLab, project: Project, command: Command
) -> None:
    curve(project, "train/loss", "0\t1.5\n1\t1.0\n")
    curve(project, "validation/loss", "0\tnan\nx\ty\n\n1\t1.25\n")
    assert "tracking: run experiment/7-101 of landcover" in command("run")
    (run,) = api.runs
    assert api.experiments[0]["name"] == "landcover"
    assert (run["info"]["run_name"], run["info"]["status"]) == ("experiment/7-101", "FINISHED")
    assert run["job"] == "77"
    assert pairs(run["data"]["params"]) == {
        "model.name": "landcover",
        "model.width": "12",
        "train.epochs": "40",
        "train.seed": "42",
    }
    tags = pairs(run["data"]["tags"])
    assert (tags["experiment"], tags["merge_request"]) == ("experiment/7-101", "!7")
    assert (tags["commit"], tags["data"]) == (project.git("rev-parse", "HEAD"), DATA)
    logged = {(it["key"], it.get("step")): it["value"] for it in run["data"]["metrics"]}
    assert logged == {
        ("accuracy", None): 0.9,
        ("macro_f1", None): 0.88,
        ("train/loss", 0): 1.5,
        ("train/loss", 1): 1.0,
        ("validation/loss", 1): 1.25,
    }


def test_a_retried_job_updates_its_run(
    api: FakeGitLab, project: Project, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    curve(project, "train/loss", "0\t1.5\n")
    tracking.record(Experiment(state="failed"))
    assert [run["info"]["status"] for run in api.runs] == ["FAILED"]
    for job in ("78", "79"):
        monkeypatch.setenv("CI_JOB_ID", job)
        command("run")
    (run,) = api.runs
    assert (run["info"]["status"], run["job"]) == ("FINISHED", "79")
    steps = [it for it in run["data"]["metrics"] if it["key"] == "train/loss"]
    assert len(steps) == 1, "the curve was added again"


def test_a_failed_training_has_no_numbers_of_the_model_before(
    api: FakeGitLab, project: Project
) -> None:
    tracking.record(Experiment(state="failed"))
    (run,) = api.runs
    assert (run["info"]["status"], run["data"]["metrics"]) == ("FAILED", [])


def test_nothing_trained_is_no_run(api: FakeGitLab, capsys: pytest.CaptureFixture[str]) -> None:
    tracking.record(Experiment(state="done", trained=False))
    assert "no run: nothing was trained" in capsys.readouterr().out
    assert api.requests == []


def test_a_long_training_is_thinned(api: FakeGitLab, project: Project, command: Command) -> None:
    curve(project, "train/loss", "".join(f"{step}\t1.0\n" for step in range(10_000)))
    command("run")
    steps = [it["step"] for it in api.runs[0]["data"]["metrics"] if "step" in it]
    assert 50 <= len(steps) <= 100 and steps[0] == 0


def test_a_retraining_is_a_run_too(
    api: FakeGitLab, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI_MERGE_REQUEST_IID")
    assert "run retrain/101 of landcover" in command("run")


def test_a_release_is_a_version_with_bundle_card_and_numbers(
    api: FakeGitLab, project: Project, command: Command
) -> None:
    said = command("version")
    (version,) = api.model_versions
    assert version["aliases"] == ["1.0.0"] and version["source"] in said
    assert "# Report against ^1" in version["description"]
    assert f"version        {TAG}" in version["description"]
    names = {name: content for (_, name), content in api.model_files.items()}
    assert names["model.onnx"] == b"first"
    assert json.loads(names["model.json"])["name"] == "landcover"
    assert json.loads(names["model.stac.json"])["id"] == "landcover-v1.0.0"
    (run,) = api.runs
    assert run["info"]["run_id"] == version["run_id"] and run["job"] == "77"
    assert pairs(run["data"]["metrics"]) == {"accuracy": 0.9, "macro_f1": 0.88}
    assert pairs(run["data"]["tags"])["tag"] == TAG


def test_a_second_pipeline_of_the_same_version_adds_nothing(
    api: FakeGitLab, command: Command
) -> None:
    command("version")
    sent = len(api.changes())
    assert "is in GitLab's model registry already" in command("version")
    assert len(api.changes()) == sent
    command("release")
    assert "has a release already" in command("release")
    assert (len(api.model_versions), len(api.releases)) == (1, 1)


def test_a_half_written_version_is_completed(
    api: FakeGitLab, project: Project, command: Command
) -> None:
    api.broken[("PUT", "model.onnx")] = (500, b"{}")
    assert "left out: uploading model.onnx" in command("version")
    api.broken.clear()
    command("version")
    names = {name for _, name in api.model_files}
    assert names == {"model.json", "model.onnx", "model.stac.json"}
    assert len(api.model_versions) == 1


def test_another_bundle_than_the_versions_is_not_written(
    api: FakeGitLab, project: Project, command: Command
) -> None:
    project.write("model/model.onnx", "another")
    assert f"model/ is not the bundle of {TAG}: dvc pull model" in command("version")
    assert api.model_versions == []


def test_a_release_has_notes_and_links(api: FakeGitLab, project: Project, command: Command) -> None:
    image = f"registry.example.com/service@sha256:{'0' * 64}"
    project.write("artifacts/image/image.json", json.dumps({"reference": image}))
    command("version")
    assert f"{TAG} is under Deploy > Releases" in command("release")
    (release,) = api.releases
    assert release["tag_name"] == TAG
    assert "# Report against ^1" in release["description"] and image in release["description"]
    links = {link["name"]: link["url"] for link in release["assets"]["links"]}
    assert links == {
        "Model version": api.model_versions[0]["source"],
        "Image": f"{api.web_url}/container_registry",
    }


def test_what_is_missing_or_refused_is_a_sentence_and_no_failure(
    api: FakeGitLab, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    table: list[tuple[dict[str, Any] | str, str]] = [
        ("", "not set"),
        ({"level": 10}, "Developer|let a maintainer merge"),
        ({"level": 0}, "not found|this project has none"),
        ("unknown", "unknown or has expired|does not know the token"),
        ("a b", "a token has no spaces"),
    ]
    wrong = []
    for name in COMMANDS:
        token = "CI_JOB_TOKEN" if name == "release" else "BOT_TOKEN"
        for given, said in table:
            text = given if isinstance(given, str) else api.admit(job=name == "release", **given)
            monkeypatch.setenv(token, text)
            printed = command(name)
            if not re.fullmatch(rf"\w+: left out: .*({said}).*\n", printed):
                wrong.append(f"{name}, {given}: {printed}")
    assert wrong == []
    assert not (api.runs or api.model_versions or api.releases)


def test_a_developer_may_not_release_a_protected_tag(
    api: FakeGitLab, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI_JOB_TOKEN", api.admit(level=30, job=True))
    assert "let a maintainer merge" in command("release")


def test_a_gitlab_that_is_away_or_without_the_feature_fails_nothing(
    api: FakeGitLab, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.has_machine_learning = False
    for name in ("run", "version"):
        assert "left out: " in (said := command(name)) and "this project has none" in said
    monkeypatch.setenv("CI_SERVER_URL", "http://127.0.0.1:9")
    for name in COMMANDS:
        assert "GitLab cannot be reached" in command(name)


def test_a_gitlab_that_does_not_answer_is_left_after_a_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def wait() -> str:
        time.sleep(3600)
        return "done"

    best_effort("tracking", wait, seconds=0.05)
    assert "left out: GitLab has not answered in 0.05 seconds" in capsys.readouterr().out


def test_a_defect_of_ours_fails_no_training(capsys: pytest.CaptureFixture[str]) -> None:
    empty: dict[str, str] = {}
    best_effort("tracking", lambda: empty["missing"])
    assert capsys.readouterr().out == "tracking: left out: KeyError: 'missing'\n"


def test_a_card_without_a_report_says_so(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.chdir(project.folder)
    registry = project.registry
    card = model_card.compose(registry, registry.find(TAG))
    assert "The report could not be written: error: " in card
    assert "accuracy 0.9" in card


def test_a_card_fits_into_gitlabs_field_and_has_no_pictures(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_card, "_report", lambda against: "one paragraph\n\n" * 2_000)
    registry = project.registry
    card = model_card.compose(registry, registry.find(TAG))
    assert len(card) <= 10_000 and "the rest is in the merge request" in card
    assert card.rstrip().endswith("`")
    assert model_card.PICTURE.sub("", "a\n![b](c.png)\n") == "a\n"
