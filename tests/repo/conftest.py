"""A fresh clone, as a new user has it: the working tree's files, committed, and nothing else."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import ROOT, run


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository with `dvc pull` done; every test that changes it restores it."""
    folder = tmp_path_factory.mktemp("clone") / "conveyor"
    listing = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in listing.stdout.split("\0")[:-1]:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    run("git", "init", "--quiet", "--initial-branch=main", cwd=folder)
    run("git", "config", "user.name", "Test", cwd=folder)
    run("git", "config", "user.email", "test@example.org", cwd=folder)
    run("git", "add", "--all", ".", cwd=folder)
    run("git", "commit", "--quiet", "--message", "clone", cwd=folder)
    run("dvc", "pull", "--quiet", cwd=folder)
    return folder
