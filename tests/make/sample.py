"""The data of the shipped example, whatever data and remote a team has given the project.

They come from the remote in sample/ by a version of their own: sample-data.yaml is the data.dvc
that the template ships. (A file whose name ends in .dvc would be one of the project's outputs.)
"""

import configparser
import shutil
from pathlib import Path

from tests.conftest import ROOT, run

DATA = ROOT / "tests" / "make" / "sample-data.yaml"


def pull_sample(folder: Path) -> None:
    """Make the sample the data of a copy of the project, and its remote the default; pull it."""
    shutil.copy(DATA, folder / "data.dvc")
    run("dvc", "remote", "default", "--quiet", "sample", cwd=folder)
    run("dvc", "pull", "--quiet", "data.dvc", cwd=folder)


def is_adopted() -> bool:
    """Whether a team has made the project its own: its data and models lie elsewhere."""
    config = configparser.ConfigParser()
    config.read(ROOT / ".dvc" / "config", encoding="utf-8")
    return config["core"]["remote"] != "sample"
