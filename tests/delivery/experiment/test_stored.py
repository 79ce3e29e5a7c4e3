"""A commit whose model is stored: nothing is trained or measured again, and no data are pulled."""

import hashlib
import shutil
from pathlib import Path

import pytest

from delivery.errors import RemoteError
from delivery.experiment import experiment as steps
from delivery.experiment.experiment import Experiment
from delivery.git import Repository
from tests.conftest import run

PICTURE, DRAWN = "picture.png", b"drawn\n"


@pytest.fixture(autouse=True)
def job(remote: Path) -> None:
    """The job runs in a fresh clone: it has what is in Git."""
    run("git", "config", "user.email", "ada@example.org")
    run("git", "config", "user.name", "Ada")
    run("git", "add", ".")
    run("git", "commit", "--quiet", "--message", "Train")
    for path in ("data", "model", ".dvc/cache"):
        shutil.rmtree(path)
    Path(PICTURE).unlink()


def stored(remote: Path, content: bytes) -> Path:
    """Where the remote has an object."""
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return remote / "files" / "md5" / digest[:2] / digest[2:]


def is_pulled() -> bool:
    return Path("model/model.onnx").is_file() and Path(PICTURE).is_file()


def test_the_check_pulls_the_model_and_what_describes_it_alone() -> None:
    assert steps.check(Repository()).state == "done"
    assert is_pulled() and not Path("data").exists()


def test_the_check_refuses_a_remote_that_lacks_a_part_of_the_data(remote: Path) -> None:
    stored(remote, b"a").unlink()
    with pytest.raises(RemoteError, match="objects of data are missing in the DVC remote"):
        steps.check(Repository())


def test_a_model_that_is_stored_is_not_trained_and_its_data_are_not_pulled() -> None:
    experiment = Experiment()
    steps.train(experiment)
    assert (experiment.state, experiment.trained) == ("done", False)
    assert is_pulled() and not Path("data").exists()


def test_a_picture_that_is_not_stored_is_drawn_again_without_a_training(remote: Path) -> None:
    stored(remote, DRAWN).unlink()
    experiment = Experiment()
    experiment.write()
    steps.train(experiment)
    assert (experiment.state, experiment.trained) == ("done", False)
    assert is_pulled() and stored(remote, DRAWN).is_file()
