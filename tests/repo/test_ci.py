"""The pipeline's files: jobs call commands that a person types, secrets stay where they belong."""

import functools
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT, run
from tests.e2e.world import RUNNER


class Loader(yaml.SafeLoader):
    """Keeps GitLab's `!reference [job, key]` as what it is."""


def reference(loader: Loader, node: yaml.SequenceNode) -> tuple[str, ...]:
    return tuple(loader.construct_sequence(node))


Loader.add_constructor("!reference", reference)

FILES = (ROOT / ".gitlab-ci.yml", *sorted((ROOT / "ci").glob("*.yml")))
DOCUMENTS: dict[Path, dict[str, Any]] = {
    path: yaml.load(path.read_text(encoding="utf-8"), Loader) for path in FILES
}
MAIN = DOCUMENTS[FILES[0]]
JOBS = {name: job for path in FILES[1:] for name, job in DOCUMENTS[path].items()}


LINES = [
    (name, line)
    for name, job in JOBS.items()
    for line in (*job.get("before_script", []), *job.get("script", []))
]
"""Name of a job, and a line that it runs."""
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"(?m)^([a-z0-9-]+):", MAKEFILE))


def test_a_job_calls_what_a_person_types() -> None:
    assert [f"{name}: {line}" for name, line in LINES if not is_typed(line)] == []


def is_typed(line: str) -> bool:
    first, *rest = line.split()
    if first == "make":
        return {word for word in rest if "=" not in word} <= TARGETS
    return line == ". ci/credentials" or first in ("ci/install", "gitleaks", "command")


def test_texts_of_others_stand_in_quotes() -> None:
    quoted = re.compile(r'"\$[A-Z_]+"|="?[a-z/]*\$[A-Z_]+"')
    assert [f"{name}: {line}" for name, line in LINES if "$" in quoted.sub("", line)] == []


def test_nothing_that_fails_is_passed_over() -> None:
    for path in (*FILES, ROOT / "ci" / "install", ROOT / "ci" / "credentials", ROOT / "Makefile"):
        content = path.read_text(encoding="utf-8")
        assert "|| true" not in content and "|| :" not in content, path
    failing = {name for name, job in JOBS.items() if job.get("allow_failure")}
    assert failing <= {".review"}


def test_images_are_pinned_and_the_base_is_the_one_of_the_dockerfile() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    base = re.search(r"(?m)^ARG PYTHON_BASE=(?:docker\.io/)?(?:library/)?(\S+)", dockerfile)
    assert base and base[1] == MAIN["variables"]["PYTHON_IMAGE"]
    assert "@sha256:" in base[1]
    images = [job["image"]["name"] for job in JOBS.values() if "image" in job]
    assert all(re.search(r"(:v?\d+\.\d+\.\d+|@sha256:[0-9a-f]{64})$", name) for name in images)


def test_a_merge_request_reaches_no_stage() -> None:
    """Jobs that deploy run for main and for tags of the registry; review apps have their own."""
    for name in ("staging", "production", "register", "build-image", "verify"):
        rules = JOBS[name].get("rules") or JOBS[".rollout"].get("rules") or MAIN[".main"]["rules"]
        text = str([rule if isinstance(rule, tuple) else rule["if"] for rule in rules])
        assert "merge_request_event" not in text
        assert ".merge-request" not in text


def test_only_releases_can_not_be_interrupted() -> None:
    assert MAIN["default"]["interruptible"] is True
    assert MAIN[".main"]["interruptible"] is False
    assert JOBS[".rollout"]["interruptible"] is False
    for name in ("staging", "production"):
        assert JOBS[name]["resource_group"] == name


def test_gitlab_runs_one_retraining_at_a_time() -> None:
    # The cool-down reads a tag and then writes one; only this keeps two jobs from doing both.
    assert JOBS["retrain"]["resource_group"] == "retrain"


# What a pipeline consists of, as gitlab-ci-local reads the rules.

TAG = "landcover#production#4"  # old code, perhaps: a stage's tag stays where it is


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pipeline's files, and a job with the rules of the workflow.

    gitlab-ci-local passes the workflow over; so a job shows whether there would be a pipeline.
    """
    if not RUNNER.exists():
        pytest.skip("gitlab-ci-local is not installed: make setup-e2e")
    folder = tmp_path_factory.mktemp("rules")
    shutil.copytree(ROOT / "ci", folder / "ci")
    job = {"stage": "check", "script": ["true"], "rules": MAIN["workflow"]["rules"]}
    text = (ROOT / ".gitlab-ci.yml").read_text(encoding="utf-8")
    text += f"\n{yaml.safe_dump({'admitted': job})}"
    (folder / ".gitlab-ci.yml").write_text(text, encoding="utf-8")
    run("git", "init", "--quiet", cwd=folder)
    return folder


@functools.cache
def listed(folder: Path, source: str, ref: str, task: str) -> frozenset[str]:
    """Jobs whose rules let them in, `admitted` among them when there is a pipeline."""
    facts = {
        "CI_PIPELINE_SOURCE": source,
        "CI_COMMIT_TAG": ref if "#" in ref else "",
        "CI_COMMIT_BRANCH": "" if "#" in ref else ref,
        "CI_DEFAULT_BRANCH": "main",
        "TASK": task,
    }
    words = [f"--variable={name}={value}" for name, value in facts.items()]
    line = (str(RUNNER), "--list-csv", "--no-color", "--no-json-schema-validation", *words)
    rows = run(*line, cwd=folder).stdout.partition("name;description;")[2].splitlines()[1:]
    return frozenset(row.partition(";")[0] for row in rows)


@pytest.mark.parametrize(
    ("source", "ref", "task", "jobs"),
    [
        ("push", TAG, "", {"production"}),
        ("web", TAG, "", {"production"}),
        ("trigger", TAG, "", None),
        ("schedule", TAG, "retrain", None),
        ("api", TAG, "", None),
        ("trigger", "main", "", {"retrain"}),
        ("schedule", "main", "retrain", {"retrain"}),
    ],
)
def test_a_stage_follows_a_tag_that_somebody_pushed_and_no_trigger_or_schedule(
    files: Path, source: str, ref: str, task: str, jobs: set[str] | None
) -> None:
    found = listed(files, source, ref, task)
    assert ("admitted" in found) == (jobs is not None)
    if jobs is not None:
        assert found == jobs | {"admitted", "pipeline-failed"}


@pytest.mark.parametrize(("source", "task"), [("trigger", ""), ("schedule", "retrain")])
def test_old_code_does_not_retrain_even_in_a_pipeline_that_is_let_in(
    files: Path, source: str, task: str
) -> None:
    assert "retrain" not in listed(files, source, TAG, task)
