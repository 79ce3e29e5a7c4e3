"""An executor is a room: without its file, jobs say so, and the others run them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.record import State
from tests.conftest import ROOT
from tests.make.jobs import JobProject


@pytest.mark.parametrize("name", ["kubernetes", "gitlab"])
def test_an_executor_can_be_deleted(tmp_path: Path, name: str) -> None:
    for package in ("contracts", "jobs"):
        shutil.copytree(ROOT / "src" / package, tmp_path / "src" / package)
    room = tmp_path / "src" / "jobs" / "executors" / name
    shutil.rmtree(room) if room.is_dir() else room.with_suffix(".py").unlink()
    project = JobProject(tmp_path / "project", {"executors": {name: {"image": "x"}}})
    project.environment = os.environ | {"PYTHONPATH": str(tmp_path / "src")}
    asked = project.request(executor=name)
    refused = project.jobs("submit", str(asked), check=False)
    assert f"executor: '{name}' is not one here: use local, slurm, " in refused.stderr
    assert project.ended(project.submit()).state is State.SUCCEEDED
    words = (sys.executable, "-m", "compileall", "-q", str(tmp_path / "src"))
    subprocess.run(words, check=True)
