"""Git as a child process, as service, delivery and pipeline start it."""

import subprocess
from pathlib import Path

import pytest

from contracts.git import commit_of, content_of, environment
from tests.make.injection_strings import HOSTILE


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one commit."""
    git(tmp_path, "init", "--quiet")
    (tmp_path / "file").write_text("content", encoding="ascii")
    git(tmp_path, "add", "file")
    who = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    git(tmp_path, *who, "commit", "--quiet", "--message=Start")
    return tmp_path


def git(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run git as the packages do."""
    line = ["git", "-C", str(folder), *words]
    return subprocess.run(line, capture_output=True, text=True, env=environment(), check=False)


def test_a_revision_and_a_file_of_it_are_found(repository: Path) -> None:
    commit = git(repository, *commit_of("HEAD")).stdout.strip()
    assert len(commit) == 40
    assert git(repository, *content_of(commit, Path("file"))).stdout == "content"


def test_no_text_of_somebody_else_is_an_option_or_runs_anything(repository: Path) -> None:
    for text in HOSTILE:
        if "\0" not in text and text.isprintable():
            assert git(repository, *commit_of(text)).returncode != 0
    assert sorted(path.name for path in repository.iterdir()) == [".git", "file"]


def test_a_surrounding_git_process_does_not_lead_into_its_repository(
    repository: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path_factory.mktemp("other")
    monkeypatch.setenv("GIT_DIR", str(other))
    assert git(repository, *commit_of("HEAD")).returncode == 0


def test_a_transport_that_runs_a_program_is_refused(repository: Path) -> None:
    failed = git(repository, "fetch", "ext::touch pwned")
    assert failed.returncode != 0 and "not allowed" in failed.stderr
    assert not (repository / "pwned").exists()
