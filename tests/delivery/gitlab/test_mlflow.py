"""The client of model experiments and model registry, against the fake of GitLab's API."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from delivery.errors import GitLabError
from delivery.gitlab.mlflow import LONGEST, NEWEST, Metric, MLflow
from tests.fakes.gitlab.server import NUMBER, FakeGitLab, serving

BEGUN = 1_700_000_000.0


@pytest.fixture
def api() -> Iterator[FakeGitLab]:
    with serving() as fake:
        yield fake


@pytest.fixture
def gitlab(api: FakeGitLab) -> MLflow:
    return client(api)


def client(api: FakeGitLab, **token: Any) -> MLflow:
    token = {"user": "bot", "level": 30} | token
    return MLflow(api.url, str(NUMBER), api.admit(**token), "BOT_TOKEN")


def pairs(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {row["key"]: row["value"] for row in rows}


def test_a_training_is_one_run_however_often_its_job_runs(api: FakeGitLab, gitlab: MLflow) -> None:
    first = gitlab.run("landcover", "experiment/1-101", BEGUN)
    gitlab.run("landcover", "experiment/1-102", BEGUN)
    again = gitlab.run("landcover", "experiment/1-101", BEGUN)
    assert again.id == first.id
    assert [row["name"] for row in api.experiments] == ["landcover"]
    names = [run["info"]["run_name"] for run in api.runs]
    assert names == ["experiment/1-101", "experiment/1-102"]
    assert api.runs[0]["info"]["start_time"] == 1_700_000_000_000


def test_an_experiment_that_another_job_has_just_created_is_used(
    api: FakeGitLab, gitlab: MLflow
) -> None:
    def create_it_first(request: Any) -> None:
        if request.path.endswith("experiments/create") and not api.experiments:
            api.experiments.append({"experiment_id": "1", "name": "landcover"})

    api.meanwhile = create_it_first
    gitlab.run("landcover", "experiment/1-101", BEGUN)
    assert api.runs[0]["info"]["experiment_id"] == "1"


def test_a_run_has_metrics_with_steps_parameters_and_the_job(
    api: FakeGitLab, gitlab: MLflow
) -> None:
    run = gitlab.run("landcover", "experiment/1-101", BEGUN)
    metrics = [Metric("accuracy", 0.9), Metric("train/loss", 1.5, 0), Metric("train/loss", 1.0, 1)]
    gitlab.log(run.id, metrics, {"train.epochs": "40"}, {"gitlab.CI_JOB_ID": "77", "data": "abc"})
    gitlab.end(run.id, "FINISHED")
    found = gitlab.run("landcover", "experiment/1-101", BEGUN)
    assert found.has_curve and found.has_tag("data") and not found.has_tag("other")
    (row,) = api.runs
    assert (row["job"], row["info"]["status"]) == ("77", "FINISHED")
    assert pairs(row["data"]["params"]) == {"train.epochs": "40"}
    logged = [(it["key"], it["value"], it.get("step")) for it in row["data"]["metrics"]]
    assert logged == [("accuracy", 0.9, None), ("train/loss", 1.5, 0), ("train/loss", 1.0, 1)]


def test_what_gitlabs_columns_do_not_take_is_cut_or_left_out(
    api: FakeGitLab, gitlab: MLflow
) -> None:
    run = gitlab.run("landcover", "experiment/1-101", BEGUN)
    metrics = [Metric("x" * 999, 1.0), Metric("loss", math.nan), Metric("loss", math.inf)]
    metrics += [Metric("train/loss", 1.0, step) for step in range(5_000)]
    gitlab.log(run.id, metrics, {"note": "y" * 999, "empty": "", "": "no name"}, {"t": "z" * 9999})
    data = api.runs[0]["data"]
    assert len(data["metrics"]) == 1_000
    assert data["metrics"][0]["key"] == "x" * LONGEST
    assert pairs(data["params"]) == {"note": "y" * LONGEST}
    assert len(data["tags"][0]["value"]) == 5_000


def test_a_search_asks_for_few_runs(api: FakeGitLab, gitlab: MLflow) -> None:
    gitlab.run("landcover", "experiment/1-101", BEGUN)
    (search,) = [it for it in api.requests if it.path.endswith("runs/search")]
    assert search.body["max_results"] == NEWEST


def test_a_version_is_created_once_beside_the_experiment_of_its_name(
    api: FakeGitLab, gitlab: MLflow, tmp_path: Path
) -> None:
    gitlab.run("landcover", "experiment/1-101", BEGUN)
    version, run = gitlab.version("landcover", "1.2.0", "# Card")
    again, _ = gitlab.version("landcover", "1.2.0", "# Another card")
    assert again == version
    (row,) = api.model_versions
    assert (row["aliases"], row["description"]) == (["1.2.0"], "# Card")
    assert [it["name"] for it in api.experiments] == ["landcover", "[model]landcover"]
    file = tmp_path / "model.onnx"
    file.write_bytes(b"\0graph")
    gitlab.upload(run, file)
    assert api.model_files == {(row["version"], "model.onnx"): b"\0graph"}


def test_a_card_beyond_gitlabs_limit_is_cut(api: FakeGitLab, gitlab: MLflow) -> None:
    gitlab.version("landcover", "1.0.0", "x" * 20_000)
    assert len(api.model_versions[0]["description"]) == 10_000


@pytest.mark.parametrize(
    ("token", "state", "said"),
    [
        ({"level": 10}, {}, "its role is lower than Developer"),
        ({"scopes": ("write_repository",)}, {}, "lacks the scope 'api'"),
        ({"job": True}, {}, "the token is unknown or has expired"),
        ({}, {"has_machine_learning": False}, "Settings > General > Visibility"),
    ],
)
def test_a_refusal_is_one_sentence_with_its_cure(
    api: FakeGitLab, token: dict[str, Any], state: dict[str, Any], said: str
) -> None:
    for name, value in state.items():
        setattr(api, name, value)
    with pytest.raises(GitLabError, match=said) as refused:
        client(api, **token).run("landcover", "experiment/1-101", BEGUN)
    assert str(refused.value).isprintable() and "glpat" not in str(refused.value)


@pytest.mark.parametrize("answer", [b"<html>Sign in</html>", b"[]", b'{"experiment": {"x": 1}}'])
def test_an_answer_that_is_not_gitlabs_is_named(
    api: FakeGitLab, gitlab: MLflow, answer: bytes
) -> None:
    api.broken[("GET", "get-by-name")] = (200, answer)
    with pytest.raises(GitLabError, match="is not GitLab's"):
        gitlab.run("landcover", "experiment/1-101", BEGUN)


def test_a_job_that_gitlab_does_not_know_is_an_error(api: FakeGitLab, gitlab: MLflow) -> None:
    api.job_ids = {"77"}
    run = gitlab.run("landcover", "experiment/1-101", BEGUN)
    with pytest.raises(GitLabError, match="500"):
        gitlab.log(run.id, [], {}, {"gitlab.CI_JOB_ID": "78"})


def test_a_version_that_is_no_semantic_one_is_refused(api: FakeGitLab, gitlab: MLflow) -> None:
    with pytest.raises(GitLabError, match="Version must be semantic version"):
        gitlab.version("landcover", "v1", "")
    gitlab.version("landcover", "1.0.0", "")
    assert len(api.model_versions) == 1
