"""The revision that a bundle names."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import repository as git
from pipeline.errors import OwnershipError, RevisionError
from tests.conftest import run
from tests.make.clones import clone_in_part


def test_a_model_names_the_commit_when_only_results_of_the_pipeline_differ(
    repository: Path, commit: Callable[[str], str]
) -> None:
    (repository / "reports").mkdir()
    (repository / "dvc.lock").write_text("schema: '2.0'\n")
    (repository / "reports/metrics.json").write_text("{}")
    made = commit("before")
    (repository / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")  # as `dvc repro` does
    (repository / "reports/metrics.json").write_text('{"accuracy": 1}')

    assert git.revision() == made


def test_a_model_says_dirty_when_an_input_of_the_training_differs(
    repository: Path, commit: Callable[[str], str]
) -> None:
    made = commit("before")
    with (repository / "params.yaml").open("a") as file:
        file.write("# changed\n")

    assert git.revision() == f"{made}-dirty"


def test_a_repository_of_another_user_is_refused_with_the_cure(
    repository: Path, commit: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit("before")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    for ask in (git.revision, lambda: git.resolve("HEAD")):
        with pytest.raises(OwnershipError, match="git config --global --add safe.directory /"):
            ask()


def test_a_file_that_a_partial_clone_cannot_fetch_is_not_taken_for_absent(
    repository: Path,
    commit: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = commit("before")
    Path("params.yaml").write_text("{}")
    commit("after")
    monkeypatch.chdir(clone_in_part(repository, tmp_path / "part", "--filter=blob:none"))
    assert git.show("HEAD", Path("params.yaml")) == "{}"
    assert git.show(old, Path("absent.yaml")) is None
    with pytest.raises(
        RevisionError, match=f"params.yaml at {old[:12]} cannot be read .*--refetch"
    ):
        git.show(old, Path("params.yaml"))


def test_a_revision_that_a_shallow_clone_lacks_is_named_with_the_cure(
    repository: Path,
    commit: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = commit("before")
    Path("params.yaml").write_text("{}")
    commit("after")
    monkeypatch.chdir(clone_in_part(repository, tmp_path / "part", "--depth=1"))
    with pytest.raises(RevisionError, match=r"fetch it \(git fetch --unshallow origin\)"):
        git.resolve(old)


def test_a_download_without_history_has_no_revision_to_compare_with(workdir: Path) -> None:
    with pytest.raises(RevisionError, match="no history to compare with: git clone instead"):
        git.resolve("main")


def test_a_repository_without_a_commit_is_refused_with_the_cure(workdir: Path) -> None:
    run("git", "init", "--quiet", cwd=workdir)
    with pytest.raises(RevisionError, match="no commit yet: git add --all"):
        git.revision()


def test_outside_of_git_the_revision_is_unknown(workdir: Path) -> None:
    assert git.revision() == "unknown"
