"""A fresh clone, as a new user has it: the files of the last commit, and nothing else."""

import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT, built_once, run
from tests.make.sample import pull_sample


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository at HEAD with the sample pulled; all workers share it, so no test changes it.

    Not the files of the working tree: `make demo` trains, and then dvc.lock names a model that
    the remote in sample/ does not have. So a change of dvc.yaml, .dvc/config or sample/ has to be
    committed before the tests of the clone see it.
    """
    return built_once(tmp_path_factory, "clone", _clone)


def _clone(folder: Path) -> None:
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True)
    subprocess.run(["tar", "--extract"], input=archive.stdout, cwd=folder, check=True)
    run("git", "init", "--quiet", "--initial-branch=main", cwd=folder)
    run("git", "config", "user.name", "Test", cwd=folder)
    run("git", "config", "user.email", "test@example.org", cwd=folder)
    pull_sample(folder)
    run("git", "add", "--all", ".", cwd=folder)
    run("git", "commit", "--quiet", "--message", "clone", cwd=folder)
