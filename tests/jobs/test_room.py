"""Jobs are a room, and so is each executor and the front: what is left works without them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.executors import KNOWN
from tests.conftest import ROOT
from tests.make.jobs import JobProject


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "src"
    shutil.copytree(ROOT / "src", folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def python(source: Path, *words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python with a copy of the code in place of the installed one."""
    start = f"import sys; sys.path[:0] = [{str(source)!r}, {str(ROOT)!r}]; "
    command = (sys.executable, "-c", start + words[0], *words[1:])
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_everything_else_is_imported_without_jobs(source: Path, tmp_path: Path) -> None:
    shutil.rmtree(source / "jobs")
    names = "delivery.experiment, delivery.notify, pipeline.report, service.auth.keys"
    done = python(source, f"import {names}, contracts.files", folder=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_clone_with_one_executor_and_no_front_runs_jobs(source: Path, tmp_path: Path) -> None:
    for name in KNOWN:
        for path in (source / "jobs" / "executors").glob(f"{name}*"):
            if name != "local":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    (source / "jobs" / "http.py").unlink()
    project = JobProject(tmp_path / "project")
    run = "from jobs.__main__ import main; sys.argv[0] = 'jobs'; main()"
    refused = python(
        source, run, "submit", str(project.request(executor="slurm")), folder=project.folder
    )
    assert refused.stderr == "error: executor: 'slurm' is not one here: use local\n"
    refused = python(source, run, "serve", folder=project.folder)
    assert refused.stderr == "error: serve: this project has no src/jobs/http.py\n"
    done = python(source, run, "submit", str(project.request()), folder=project.folder)
    assert done.returncode == 0, done.stderr
    project.ended(done.stdout.strip())
