"""Which jobs a pipeline consists of: what is not set up is left out, and the rest is green."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conftest import built_once, run
from tests.make import ci
from tests.make.ci import Job

TAG = "landcover#production#4"  # old code, perhaps: a stage's tag stays where it is
SET_UP: Mapping[str, str | None] = {
    "RELEASE_TOKEN": "token",
    "CI_REGISTRY_IMAGE": "registry.example.com/team/landcover",
    "STAGING_URL": "https://staging.example.com",
    "PRODUCTION_URL": "https://example.com",
    "PUSHGATEWAY_URL": "https://push.example.com",
}
TEAMS = [
    *("params.yaml", "data.dvc", "dvc.yaml", "dvc.lock", ".dvc/config", "reports/metrics.json"),
    *("README.md", "monitoring.md", "tests/project/test_ours.py"),
]
"""Files that a team changes, and that are no code of the template."""
CHECKS = {"lint", "test", "secrets"}
JOB_IMAGES = {"job-image", "job-image-cuda"}
RELEASE = {"verify", "register", "publish", "build-image", "staging", "production", "figures"}
RELEASE |= JOB_IMAGES


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pipeline's files, in a repository."""
    if not ci.RUNNER.exists():
        pytest.skip("gitlab-ci-local is not installed: make setup-e2e")
    return built_once(tmp_path_factory, "rules", ci.checkout)


def of_ref(
    folder: Path, source: str, ref: str, variables: Mapping[str, str | None]
) -> dict[str, Job]:
    """Jobs of a pipeline of a branch or tag; `admitted` among them when there is a pipeline."""
    facts = {
        "CI_PIPELINE_SOURCE": source,
        "CI_COMMIT_TAG": ref if "#" in ref else "",
        "CI_COMMIT_BRANCH": "" if "#" in ref else ref,
        "CI_DEFAULT_BRANCH": "main",
    }
    return ci.jobs(folder, {**facts, **variables})


def of_request(folder: Path, *changed: str) -> set[str]:
    """Jobs of a pipeline of a merge request that changes these files."""
    facts = {
        "CI_PIPELINE_SOURCE": "merge_request_event",
        "CI_MERGE_REQUEST_SOURCE_PROJECT_ID": "7",
        "CI_PROJECT_ID": "7",
        "CI_COMMIT_BRANCH": "",
        "CI_DEFAULT_BRANCH": "main",
    }
    for name in changed:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("changed", encoding="utf-8")
    run("git", "add", "--all", cwd=folder)
    return set(ci.jobs(folder, facts))


def test_code_of_a_fork_waits_for_a_member_and_reaches_no_branch_or_cluster(files: Path) -> None:
    facts = {
        "CI_PIPELINE_SOURCE": "merge_request_event",
        "CI_MERGE_REQUEST_SOURCE_PROJECT_ID": "8",
        "CI_PROJECT_ID": "7",
        "CI_COMMIT_BRANCH": "",
        "BOT_TOKEN": "token",
        "REVIEW_URL": "https://mr-{iid}.example.com",
    }
    found = ci.jobs(files, facts)
    assert found["train"] == Job("manual", may_fail=False), "without it, nothing can be merged"
    assert {"lint", "test", "report", "gate"} <= set(found)
    own = ci.jobs(files, facts | {"CI_MERGE_REQUEST_SOURCE_PROJECT_ID": "7"})
    assert set(own) - set(found) == {"commit", "review", "review-stop"}
    assert own["train"].when == "on_success"


@pytest.mark.parametrize(
    ("source", "ref", "task", "jobs"),
    [
        ("push", TAG, "", {"production"}),
        ("push", "landcover#production", "", {"production"}),
        ("push", "landcover#staging", "", {"staging"}),
        ("web", TAG, "", {"production"}),
        ("trigger", TAG, "", None),
        ("schedule", TAG, "retrain", None),
        ("api", TAG, "", None),
        ("trigger", "main", "", {"retrain"}),
        ("schedule", "main", "retrain", {"retrain"}),
        ("schedule", "main", "audit", {"audit"}),
        ("schedule", TAG, "audit", None),
        ("schedule", "main", "retention", {"retention"}),
    ],
)
def test_a_stage_follows_a_tag_that_somebody_pushed_and_no_trigger_or_schedule(
    files: Path, source: str, ref: str, task: str, jobs: set[str] | None
) -> None:
    found = set(of_ref(files, source, ref, {"TASK": task}))
    assert ("admitted" in found) == (jobs is not None)
    if jobs is not None:
        assert found == jobs | {"admitted", "pipeline-failed"}
    else:  # old code does not retrain even in a pipeline that is let in
        assert found.isdisjoint({"retrain", "audit"})


@pytest.mark.parametrize(
    ("source", "ref", "jobs"),
    [
        ("api", "job/train-17-3fa2", {"attempt", "admitted"}),
        ("push", "job/train-17-3fa2", set()),  # its result
        ("api", "other", set()),
        ("api", TAG, {"pipeline-failed"}),
    ],
)
def test_a_job_is_an_attempt_on_a_branch_of_its_own(
    files: Path, source: str, ref: str, jobs: set[str]
) -> None:
    found = of_ref(files, source, ref, {"JOBS_ATTEMPT": "e30="})
    assert {name for name in found if name not in ("production", "staging")} == jobs


@pytest.mark.parametrize(
    ("missing", "left"),
    [
        ({}, RELEASE),
        ({"PUSHGATEWAY_URL": None}, RELEASE - {"figures"}),
        ({"PRODUCTION_URL": None}, RELEASE - {"production"}),
        ({"STAGING_URL": None}, RELEASE - {"staging", "production"}),
        # gitlab-ci-local always has a registry; GitLab has none where the project has none.
        ({"CI_REGISTRY_IMAGE": ""}, {"verify", "register", "publish", "figures"}),
        ({"RELEASE_TOKEN": None}, {"verify", "figures", *JOB_IMAGES}),
        (dict.fromkeys(SET_UP, ""), {"verify"}),
    ],
    ids=lambda case: "-".join(case) if isinstance(case, dict) else "",
)
def test_main_leaves_out_what_is_not_set_up(
    files: Path, missing: dict[str, str | None], left: set[str]
) -> None:
    found = of_ref(files, "push", "main", {**SET_UP, **missing})
    assert set(found) - {"admitted", "pipeline-failed"} == CHECKS | left
    assert "production" not in found or found["production"] == Job("on_success", may_fail=False)


@pytest.mark.parametrize(
    ("variables", "jobs"),
    [
        ({}, set()),
        ({"JOB_IMAGE": "registry.example.com/team/landcover/jobs:cpu"}, {"job-image"}),
        ({"TRAIN_IMAGE": "registry.example.com/team/landcover/jobs:cuda"}, {"job-image-cuda"}),
        ({"JOB_IMAGE": "quay.io/team/jobs:7"}, set()),
    ],
)
@pytest.mark.parametrize("changed", ["poetry.lock", "README.md"])
def test_an_image_that_jobs_use_is_built_again_when_an_ingredient_changes(
    files: Path, tmp_path: Path, variables: dict[str, str], jobs: set[str], changed: str
) -> None:
    folder = shutil.copytree(files, tmp_path / "copy")
    (folder / changed).write_text("changed", encoding="utf-8")
    run("git", "add", "--all", cwd=folder)
    found = of_ref(folder, "push", "main", {**SET_UP, **variables})
    clicked = Job("manual", may_fail=True)
    for name in JOB_IMAGES:
        by_itself = changed == "poetry.lock" and name in jobs
        assert found[name] == (Job("on_success", may_fail=False) if by_itself else clicked), name


def test_production_that_waits_for_a_person_holds_up_nothing(files: Path) -> None:
    found = of_ref(files, "push", "main", {**SET_UP, "PRODUCTION": "manual"})
    assert found["production"] == Job("manual", may_fail=True)
    assert "figures" in found


@pytest.mark.parametrize(
    ("changed", "jobs"),
    [
        (TEAMS, set()),
        (["k8s/overlays/production/externalsecret.yaml"], {"template"}),
        (["tests/repo/test_ci.py"], {"template"}),
        (["src/pipeline/train.py"], {"template", "e2e"}),
        (["Dockerfile"], {"template", "e2e", "audit"}),
        (["constraints.txt"], {"audit"}),
    ],
)
def test_a_merge_request_runs_the_tests_of_what_it_changes(
    files: Path, tmp_path: Path, changed: list[str], jobs: set[str]
) -> None:
    found = of_request(shutil.copytree(files, tmp_path / "copy"), *changed)
    assert found >= CHECKS | {"train", "report", "gate"}
    assert found & {"template", "e2e", "audit"} == jobs


def test_a_merge_request_that_changes_the_search_runs_it_in_place_of_the_training(
    files: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(files, tmp_path / "copy")
    assert of_request(folder) & {"train", "search", "search-winner"} == {"train"}
    found = of_request(folder, "search.yaml")
    assert found & {"train", "search-winner"} == {"search-winner"}
    assert any(name.startswith("search") and name != "search-winner" for name in found)
    assert found >= {"report", "gate"}
    (folder / "search.yaml").unlink()  # a team without a search
    run("git", "add", "--all", cwd=folder)
    assert of_request(folder) & {"train", "search", "search-winner"} == {"train"}


def test_the_bots_commit_of_a_winner_searches_nothing(files: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(files, tmp_path / "copy")
    (folder / "search.yaml").write_text("changed", encoding="utf-8")
    run("git", "add", "--all", cwd=folder)
    facts = {
        "CI_PIPELINE_SOURCE": "merge_request_event",
        "CI_MERGE_REQUEST_SOURCE_PROJECT_ID": "7",
        "CI_PROJECT_ID": "7",
        "CI_COMMIT_BRANCH": "",
        "CI_COMMIT_TITLE": "Experiment of merge request 3",
    }
    found = ci.jobs(folder, facts)
    assert "trained" in found
    assert not [name for name in found if name == "train" or name.startswith("search")]
    forked = facts | {"CI_COMMIT_TITLE": "x", "CI_MERGE_REQUEST_SOURCE_PROJECT_ID": "8"}
    jobs = ci.jobs(folder, forked)
    assert jobs["search-winner"] == Job("manual", may_fail=False)
