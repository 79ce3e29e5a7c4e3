"""A runner without space: the job ends with one sentence, and goes on when there is room."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from delivery.experiment.experiment import RECORD
from tests.conftest import run
from tests.make.disks import fill, small_disk
from tests.make.repositories import Project

DVC = (sys.executable, "-m", "dvc")


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Path]:
    """A clone on a disk of 4 MB, with data of half a megabyte that only the DVC remote has."""
    project = Project(tmp_path / "project")
    config = "[core]\n    remote = team\n['remote \"team\"']\n    url = {}\n"
    project.write(".dvc/config", config.format(tmp_path / "remote"))
    project.write(".gitignore", "/data\n/model\n/artifacts\n/.dvc/cache\n/.dvc/tmp\n")
    project.write("data/pictures", os.urandom(500_000))
    project.write("params.yaml", "model: {name: landcover}\ntrain: {epochs: 1}\n")
    stage = "{cmd: cp data/pictures model, deps: [data], outs: [model]}"
    project.write("dvc.yaml", f"stages: {{train: {stage}}}\n")
    project.write("dvc.lock", "schema: '2.0'\nstages: {}\n")
    run(*DVC, "add", "--quiet", "data", cwd=project.folder)
    run(*DVC, "push", "--quiet", cwd=project.folder)
    project.commit("Try something")
    with small_disk(tmp_path / "disk", "4m") as disk:
        run("git", "clone", "--quiet", str(project.folder), "checkout", cwd=disk)
        yield disk / "checkout"


def test_a_training_on_a_full_disk_ends_with_the_cure_and_goes_on_later(checkout: Path) -> None:
    command = (sys.executable, "-m", "delivery.experiment")
    full = fill(checkout.parent)
    for left in (0, 700_000):  # the second has room for DVC's copy, and none for ours
        os.truncate(full, full.stat().st_size - left)
        failed = run(*command, cwd=checkout, check=False)
        assert failed.returncode == 1 and "Traceback" not in failed.stderr
        last = failed.stderr.splitlines()[-1]
        assert last.startswith("error: ") and "free some space" in last
    full.unlink()
    done = run(*command, cwd=checkout, check=False)
    assert "experiment: trained; stored" in done.stdout, done.stderr
    assert '"state":"done"' in (checkout / RECORD).read_text(encoding="utf-8").replace(" ", "")
