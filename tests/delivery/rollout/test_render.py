"""Rendered objects on a branch, for Argo CD and Flux: a real repository with a real origin."""

import os
import subprocess

import pytest

from delivery.errors import GitError, RolloutError
from delivery.git import Repository
from delivery.rollout.render import FILE, publish
from tests.delivery.conftest import Project
from tests.make.injection_strings import HOSTILE

BRANCH = "rendered"


@pytest.fixture(autouse=True)
def author(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bot commits, as in CI."""
    monkeypatch.setenv("CI", "true")
    monkeypatch.delenv("PUSH_URL", raising=False)


def of_origin(project: Project, folder: str) -> str:
    """What a folder of the branch on origin has."""
    return Repository(project.origin).git("show", f"{BRANCH}:{folder}/{FILE}")


def count(project: Project) -> int:
    return int(Repository(project.origin).git("rev-list", "--count", BRANCH))


def test_each_stage_is_a_folder_of_the_branch_and_leaves_the_rest(project: Project) -> None:
    head = project.git("rev-parse", "HEAD")
    assert publish(project.repository, BRANCH, "staging", "one\n", "Render staging v1.0.0")
    assert publish(project.repository, BRANCH, "production", "two\n", "Render production v1.0.0")
    assert publish(project.repository, BRANCH, "staging", "three\n", "Render staging v1.1.0")
    assert of_origin(project, "staging") == "three"
    assert of_origin(project, "production") == "two"
    assert count(project) == 3
    title = Repository(project.origin).git("log", "-1", "--format=%s", BRANCH)
    assert title == "Render staging v1.1.0"
    assert project.git("rev-parse", "HEAD") == head and project.git("status", "--porcelain") == ""


def test_what_is_on_the_branch_already_makes_no_commit(project: Project) -> None:
    assert publish(project.repository, BRANCH, "staging", "one\n", "Render staging")
    assert not publish(project.repository, BRANCH, "staging", "one\n", "Render staging again")
    assert count(project) == 1


def test_a_commit_of_another_job_is_kept(project: Project) -> None:
    publish(project.repository, BRANCH, "staging", "one\n", "Render staging")
    repository = project.repository
    late = repository.head_of

    def overtaken(branch: str) -> str:
        head = late(branch)
        repository.head_of = late  # type: ignore[method-assign]
        publish(repository, BRANCH, "production", "two\n", "Render production")
        return head

    repository.head_of = overtaken  # type: ignore[method-assign]
    with pytest.raises(GitError, match="run it again"):
        publish(repository, BRANCH, "staging", "three\n", "Render staging")
    assert of_origin(project, "production") == "two"
    assert publish(repository, BRANCH, "staging", "three\n", "Render staging")
    assert of_origin(project, "production") == "two"


def test_no_branch_of_the_project_itself_gets_objects(project: Project) -> None:
    project.write("dvc.yaml", "stages: {}\n")
    project.commit()
    project.git("push", "origin", "HEAD:refs/heads/main")
    before = Repository(project.origin).git("rev-parse", "main")
    with pytest.raises(RolloutError, match="branch: main has the project itself.*write rendered"):
        publish(project.repository, "main", "staging", "one\n", "Render staging")
    assert Repository(project.origin).git("rev-parse", "main") == before


def test_a_git_without_a_name_is_told_how_to_get_one(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    for name in (
        "GIT_AUTHOR_NAME",
        "GIT_AUTHOR_EMAIL",
        "GIT_COMMITTER_NAME",
        "GIT_COMMITTER_EMAIL",
    ):
        monkeypatch.delenv(name, raising=False)
    for name in ("GLOBAL", "SYSTEM"):
        monkeypatch.setenv(f"GIT_CONFIG_{name}", os.devnull)
    for key in ("user.name", "user.email", "user.useConfigOnly"):
        subprocess.run(["git", "config", "--unset", key], cwd=project.folder, check=False)
    project.git("config", "user.useConfigOnly", "true")  # as on a machine with no name to guess
    with pytest.raises(GitError, match="git config --global user.name NAME, and user.email"):
        publish(project.repository, BRANCH, "staging", "one\n", "Render staging")


def test_hostile_names_of_branches_are_refused(project: Project) -> None:
    before = Repository(project.origin).git("for-each-ref")
    for text in (*HOSTILE, "--help", "a..b", "a b", "-x", "@{-1}", "*"):
        with pytest.raises(RolloutError, match="branch: "):
            publish(project.repository, text, "staging", "one\n", "Render staging")
    assert Repository(project.origin).git("for-each-ref") == before
    assert not [name for name in os.listdir(project.folder) if "pwned" in name]
