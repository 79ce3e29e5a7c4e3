"""The training of a merge request: its record, its run, its commit and tag."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import yaml
from pydantic import BaseModel, ValidationError

from delivery.dvc import dvc, stale
from delivery.errors import GitError, ToolError, TrainingFailed
from delivery.experiment import checkpoints
from delivery.git import Repository
from delivery.tags import experiment_tag

FOLDER = Path("artifacts/experiment")
RECORD, LOG = FOLDER / "experiment.json", FOLDER / "log.txt"
SAVED = ("dvc.lock", "data.dvc", "reports")
TRAINED = "Running stage 'train'"
VARIABLES = ("CI_MERGE_REQUEST_IID", "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME")


class Experiment(BaseModel):
    """The record of a training job; the report reads it, and the tag's message contains it."""

    state: str = "running"
    """running (then it was killed) | failed | done"""
    trained: bool = False
    seconds: float = 0.0
    """Duration of `dvc repro`."""
    epochs: int = 0
    estimate: float = 0.0
    """Expected seconds, from the last experiment; 0 without one."""
    tag: str = ""
    commit: str = ""
    """The bot's commit; empty if nothing changed."""
    note: str = ""
    """A remark for the reader, such as why nothing was pushed."""

    def write(self) -> None:
        """Write artifacts/experiment/experiment.json."""
        FOLDER.mkdir(parents=True, exist_ok=True)
        RECORD.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


def train(experiment: Experiment) -> None:
    """Bring the model up to date; the output goes to the log as well.

    Raises:
        TrainingFailed: a stage failed.
    """
    begun = time.monotonic()
    pull_cached()
    current = not stale()
    with checkpoints.preserved():
        code = _follow(["dvc", "repro"])
    experiment.seconds = round(time.monotonic() - begun, 1)
    experiment.trained = TRAINED in LOG.read_text(encoding="utf-8", errors="replace")
    if code != 0:
        raise TrainingFailed(f"dvc repro ended with {code}: its log is {LOG}, and in the report")
    dvc("push", "--run-cache")
    checkpoints.delete()
    if current and not experiment.trained:
        # evaluate ran for its pictures and measured slightly other latencies: discard them.
        Repository().git("checkout", "--", *SAVED)
    experiment.state = "done"


def pull_cached() -> None:
    """Pull the data and the models trained before; `dvc repro` reuses a model that fits.

    Not `dvc repro --pull`: it requests the outputs of load and preprocess, which are not stored.
    """
    dvc("pull", "--run-cache", "data.dvc")
    with suppress(ToolError):  # a model that is not stored is trained again
        dvc("fetch", "train")


def _follow(line: Sequence[str]) -> int:
    with (
        LOG.open("w", encoding="utf-8") as log,
        subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as process,
    ):
        assert process.stdout is not None
        for text in process.stdout:
            sys.stdout.write(text)
            sys.stdout.flush()
            log.write(text)
            log.flush()
    return process.returncode


def save(repository: Repository, experiment: Experiment) -> None:
    """Commit the results to the branch of the merge request, and tag the commit."""
    request, branch = (os.environ.get(name, "") for name in VARIABLES)
    if not request or not branch:
        experiment.note = "done; not the pipeline of a merge request, so nothing was committed"
        return
    if not experiment.trained and not _changed(repository):
        experiment.note = "nothing to train: dvc.lock is current"
        return
    tag = experiment_tag(request, os.environ.get("CI_PIPELINE_ID", ""))
    title = f"{'Experiment' if experiment.trained else 'Reports'} of merge request {request}"
    if repository.commit_files([path for path in SAVED if Path(path).exists()], title):
        experiment.commit = repository.commit("HEAD")
    if tag in repository.tags(tag):
        repository.git("tag", "--delete", tag)  # of an earlier run of this job
    experiment.tag = tag
    body = f"{title}\n\n{experiment.model_dump_json()}\n"
    repository.git("tag", "--annotate", "--file=-", "--end-of-options", tag, stdin=body)
    experiment.note = _push(repository, branch, tag)


def _changed(repository: Repository) -> bool:
    return bool(repository.git("status", "--porcelain", "--untracked-files=no", "--", *SAVED))


def _push(repository: Repository, branch: str, tag: str) -> str:
    """Push branch and tag; returns a sentence about the result."""
    if os.environ.get("CI_MERGE_REQUEST_SOURCE_PROJECT_ID") != os.environ.get("CI_PROJECT_ID"):
        return "done; the branch belongs to a fork, so dvc.lock was not pushed to it"
    try:
        repository.push(f"HEAD:refs/heads/{branch}", f"refs/tags/{tag}")
    except GitError as error:
        return (
            f"done, and in the run cache; dvc.lock could not be pushed to {branch} ({error}): "
            "either the branch has newer commits, whose pipeline will push it, or BOT_TOKEN may "
            "not push (docs/gitlab-setup.md)"
        )
    return f"done; {tag} is pushed to {branch}"


def read_epochs() -> int:
    """The epochs of params.yaml; 0 if they are not set."""
    try:
        return int(yaml.safe_load(Path("params.yaml").read_text("utf-8"))["train"]["epochs"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError):
        return 0


def estimate(repository: Repository, epochs: int) -> float:
    """Expected seconds: those of the newest experiment, scaled by the epochs."""
    for tag in reversed(repository.tags("experiment/*")):
        text = repository.message(tag).partition("\n\n")[2]
        try:
            earlier = Experiment.model_validate_json(text)
        except ValidationError:
            continue
        if earlier.trained and earlier.epochs and epochs:
            return round(earlier.seconds * epochs / earlier.epochs, 1)
    return 0.0
