"""The pipeline's files: jobs call commands that a person types, secrets stay where they belong."""

import re

from delivery.comment import PAGE
from delivery.rollout.cluster import SHORT, SPARE
from delivery.rollout.controller import ARGO, ROLLING, TIMEOUTS
from delivery.rollout.workload import OBSERVED
from delivery.rollout.smoke_test import LIMIT
from tests.conftest import ROOT
from tests.make.ci import FILES, JOBS, MAIN, seconds, value

LINES = [
    (name, line)
    for name, job in JOBS.items()
    for line in (*job.get("before_script", []), *job.get("script", []))
]
"""Name of a job, and a line that it runs."""
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"(?m)^([a-z0-9-]+):", MAKEFILE))


TYPED = ("ci/install", "ci/main-code", "gitleaks", "command")


def test_a_job_calls_what_a_person_types() -> None:
    assert [f"{name}: {line}" for name, line in LINES if not is_typed(line)] == []


def is_typed(line: str) -> bool:
    first, *rest = line.split()
    if first == "make":
        return {word for word in rest if "=" not in word} <= TARGETS
    return line == ". ci/credentials" or first in TYPED


def test_texts_of_others_stand_in_quotes() -> None:
    quoted = re.compile(r'"\$[A-Z_]+"|="?[a-z/]*\$[A-Z_]+"')
    assert [f"{name}: {line}" for name, line in LINES if "$" in quoted.sub("", line)] == []


def test_nothing_that_fails_is_passed_over() -> None:
    for path in (*FILES, ROOT / "ci" / "install", ROOT / "ci" / "credentials", ROOT / "Makefile"):
        content = path.read_text(encoding="utf-8")
        assert "|| true" not in content and "|| :" not in content, path
    failing = {name for name, job in JOBS.items() if job.get("allow_failure")}
    assert failing <= {".review", "publish"}  # both show something, and nothing depends on them


def test_images_are_pinned_and_the_base_is_the_one_of_the_dockerfile() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    base = re.search(r"(?m)^ARG PYTHON_BASE=(?:docker\.io/)?(?:library/)?(\S+)", dockerfile)
    assert base and base[1] == MAIN["variables"]["PYTHON_IMAGE"]
    assert "@sha256:" in base[1]
    assert MAIN["variables"]["TRAIN_IMAGE"] == "$PYTHON_IMAGE"
    named = {job["image"]["name"] for job in JOBS.values() if "image" in job}
    images = named - {"$TRAIN_IMAGE"}
    assert all(re.search(r"(:v?\d+\.\d+\.\d+|@sha256:[0-9a-f]{64})$", name) for name in images)


def test_the_name_of_a_pipeline_has_no_text_that_anybody_may_write() -> None:
    """GitLab expands the variables in a title or a branch, secrets too, and shows the name."""
    rules = [rule for rule in MAIN["workflow"]["rules"] if "variables" in rule]
    names = {rule["variables"]["PIPELINE_NAME"]: rule["if"] for rule in rules}
    assert MAIN["workflow"]["name"] == "$PIPELINE_NAME"
    safe = {"CI_MERGE_REQUEST_IID", "CI_COMMIT_TAG"}
    assert {word for name in names for word in re.findall(r"\$(\w+)", name)} <= safe
    assert names["Rollout $CI_COMMIT_TAG"].startswith("$CI_COMMIT_TAG =~ /^")


def test_main_runs_in_no_image_that_a_branch_could_have_pushed() -> None:
    """A job of a branch may push to the project's registry, and main's jobs have secrets."""
    rules = [rule for rule in MAIN["workflow"]["rules"] if "PYTHON_IMAGE" in str(rule)]
    assert [rule["if"] for rule in rules] == [
        '$CI_PIPELINE_SOURCE == "merge_request_event" && $JOB_IMAGE'
    ]
    named = {name: job["image"]["name"] for name, job in JOBS.items() if "image" in job}
    assert [name for name, image in named.items() if image == "$TRAIN_IMAGE"] == [
        ".search",
        "train",
        "attempt",
    ]


def test_owners_are_named_for_files_that_exist() -> None:
    lines = (ROOT / ".gitlab" / "CODEOWNERS").read_text(encoding="utf-8").splitlines()
    paths = [line.split()[0] for line in lines if line.startswith("/")]
    assert paths and [path for path in paths if not (ROOT / path.strip("/")).exists()] == []


def test_a_merge_request_reaches_no_stage() -> None:
    """Jobs that deploy run for main and for tags of the registry; review apps have their own."""
    for name in ("staging", "production", "register", "build-image", "verify"):
        rules = value(name, "rules")
        text = str([rule if isinstance(rule, tuple) else rule["if"] for rule in rules])
        assert "merge_request_event" not in text
        assert ".merge-request" not in text


def test_only_releases_can_not_be_interrupted() -> None:
    assert MAIN["default"]["interruptible"] is True
    for name in ("verify", "register", "build-image", "staging", "production"):
        assert value(name, "interruptible") is False, name
    for name in ("staging", "production"):
        assert JOBS[name]["resource_group"] == name


def test_gitlab_runs_one_retraining_at_a_time() -> None:
    # The cool-down reads a tag and then writes one; only this keeps two jobs from doing both.
    assert JOBS["retrain"]["resource_group"] == "retrain"


def test_gitlab_ends_no_rollout_before_its_own_limits_and_its_way_back_do() -> None:
    setting_up = 15 * 60
    forward = TIMEOUTS[ARGO] + SPARE + OBSERVED + LIMIT
    back = TIMEOUTS[ROLLING] + SPARE + 2 * OBSERVED + LIMIT
    calls = 10 * SHORT  # those that do not wait for the cluster
    for name in ("staging", "production", "review"):
        assert seconds(value(name, "timeout")) >= setting_up + forward + back + calls, name


def test_tests_have_an_hour_on_a_slow_runner() -> None:
    for name in ("test", "template", "e2e"):
        assert seconds(value(name, "timeout")) >= 3600, name


def test_one_job_packs_each_cache_and_training_alone_takes_cuda() -> None:
    variables = {name: job.get("variables", {}) for name, job in JOBS.items()}
    packing = {name: own for name, own in variables.items() if "CACHE_POLICY" in own}
    assert MAIN["variables"]["CACHE_POLICY"] == "pull"
    assert {name: own.get("CACHE", "jobs") for name, own in packing.items()} == {
        "test": "jobs",
        "train": "train",
        "retrain": "train",
    }
    installing = {name for name, own in variables.items() if "train" in own.get("EXTRAS", "")}
    cpu = {name for name in installing if variables[name].get("TORCH") == "cpu"}
    assert installing - cpu == {".search", "train", "retrain", "attempt"}


def test_a_job_that_waited_or_ran_too_long_is_not_started_again() -> None:
    retried = [
        name
        for name in JOBS
        if "stuck_or_timeout_failure" in (value(name, "retry") or {}).get("when", [])
    ]
    assert retried == []


def test_the_report_is_linked_in_the_merge_request_whether_or_not_it_is_posted() -> None:
    artifacts = JOBS["report"]["artifacts"]
    assert artifacts["expose_as"] == "Model report"
    assert artifacts["paths"] == [str(PAGE)]  # GitLab takes no pattern here
    assert artifacts["when"] == "always"
