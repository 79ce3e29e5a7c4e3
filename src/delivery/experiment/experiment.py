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
from delivery.errors import DeliveryError, GitError, ToolError, TrainingFailed
from delivery.experiment import checkpoints
from delivery.git import Repository
from delivery.tags import experiment_tag
from delivery.verify import require_remote

FOLDER = Path("artifacts/experiment")
RECORD, LOG, COMMITTED = (FOLDER / name for name in ("experiment.json", "log.txt", "commit.json"))
SAVED = ("dvc.lock", "data.dvc", "params.yaml", "reports")
TRAINED = "Running stage 'train'"
TITLE = "Experiment of merge request"
"""Begins the title of the bot's commit; the rules in templates/train.yml match it."""
VARIABLES = ("CI_MERGE_REQUEST_IID", "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME")


class Experiment(BaseModel):
    """The record of a training job; the report reads it, and the tag's message contains it."""

    state: str = "running"
    """running (then it was killed) | failed | done"""
    trained: bool = False
    seconds: float = 0.0
    """Duration of the training job, what it pulls and pushes included."""
    epochs: int = 0
    estimate: float = 0.0
    """Expected seconds, from the last experiment; 0 without one."""
    job: str = ""
    """Address of the training job on GitLab; it is not in the tag's message."""

    def write(self) -> None:
        """Write artifacts/experiment/experiment.json."""
        FOLDER.mkdir(parents=True, exist_ok=True)
        RECORD.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


class Committed(BaseModel):
    """The record of the bot's commit, for the report and the review app."""

    tag: str = ""
    commit: str = ""
    """Hash of the bot's commit; empty if nothing was pushed."""
    note: str = ""
    """What was done, and why nothing was pushed."""

    def write(self) -> None:
        """Write artifacts/experiment/commit.json."""
        FOLDER.mkdir(parents=True, exist_ok=True)
        COMMITTED.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


def train(experiment: Experiment) -> None:
    """Bring the model up to date; the output of a training goes to the log as well.

    Raises:
        TrainingFailed: a stage failed.
    """
    begun = time.monotonic()
    if stale() or not _is_stored():
        pull_cached()
        with checkpoints.preserved():
            _repro()
        experiment.trained = TRAINED in LOG.read_text(encoding="utf-8", errors="replace")
        dvc("push", "--run-cache")
        checkpoints.delete()
    experiment.seconds = round(time.monotonic() - begun, 1)
    experiment.state = "done"


def check(repository: Repository) -> Experiment:
    """Check that the model of the bot's commit is trained and stored, and pull what describes it.

    Returns:
        The record of its training.

    Raises:
        TrainingFailed: dvc.lock is not current.
        RemoteError: the DVC remote lacks an object of dvc.lock.
    """
    if found := stale():
        raise TrainingFailed(
            f"dvc.lock is not current ({'; '.join(found[:3])}), and a commit with the title "
            f'"{TITLE} ..." is not trained again: give yours another title (git commit --amend), '
            "and push it"
        )
    _pull_results()
    return (_of_tags(repository, "HEAD") or Experiment()).model_copy(update={"state": "done"})


def _is_stored() -> bool:
    try:
        _pull_results()
    except DeliveryError:  # what is not stored is made again
        return False
    return True


def _pull_results() -> None:
    """Pull the model, its curves and pictures; the data only have to be in the remote."""
    require_remote(())
    dvc("pull", "train", "evaluate")


def pull_cached() -> None:
    """Pull the data and the models trained before; `dvc repro` reuses a model that fits.

    Not `dvc repro --pull`: it requests the outputs of load and preprocess, which are not stored.
    """
    dvc("pull", "--run-cache", "data.dvc")
    with suppress(ToolError):  # a model that is not stored is trained again
        dvc("fetch", "train")


def _repro() -> None:
    code = _follow(["dvc", "repro"])
    if code != 0:
        raise TrainingFailed(f"dvc repro ended with {code}: its log is {LOG}, and in the report")


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


def commit(repository: Repository, experiment: Experiment) -> Committed:
    """Commit the results to the branch of the merge request, and tag the commit.

    The push starts the pipeline that judges the commit; it trains nothing.

    Raises:
        GitError: GitLab refuses the push.
    """
    request, branch = (os.environ.get(name, "") for name in VARIABLES)
    if not request or not branch:
        return Committed(note="not the pipeline of a merge request, so nothing was committed")
    if os.environ.get("CI_MERGE_REQUEST_SOURCE_PROJECT_ID") != os.environ.get("CI_PROJECT_ID"):
        return Committed(note="the branch belongs to a fork, so nothing was committed to it")
    if os.environ.get("CI_MERGE_REQUEST_EVENT_TYPE", "detached") != "detached":
        return Committed(
            note="a pipeline of merged results has GitLab's own commit, so nothing was committed: "
            "switch merged results off (docs/gitlab-setup.md)"
        )
    if not experiment.trained and not _changed(repository):
        return Committed(note="nothing to commit: dvc.lock is current")
    begun = repository.commit("HEAD")
    if moved := _moved(repository, branch, begun):
        return Committed(note=moved)
    title = f"{TITLE} {request}"
    repository.commit_files([path for path in SAVED if Path(path).exists()], title)
    tag = experiment_tag(request, os.environ.get("CI_PIPELINE_ID", ""))
    if tag in repository.tags(tag):
        repository.git("tag", "--delete", tag)  # of an earlier run of this job
    body = f"{title}\n\n{experiment.model_dump_json(exclude={'job'})}\n"
    repository.git("tag", "--annotate", "--file=-", "--end-of-options", tag, stdin=body)
    try:
        repository.push(f"HEAD:refs/heads/{branch}", f"refs/tags/{tag}", skip_ci=False)
    except GitError as error:
        if moved := _moved(repository, branch, begun):
            return Committed(note=moved)
        raise GitError(
            f"dvc.lock could not be pushed to {branch} ({error}): BOT_TOKEN has expired or may "
            "not push there: make gitlab-setup APPLY=1 renews it (docs/gitlab-setup.md)"
        ) from None
    return Committed(tag=tag, commit=repository.commit("HEAD"), note=f"{tag} is pushed to {branch}")


def _changed(repository: Repository) -> bool:
    return bool(repository.git("status", "--porcelain", "--untracked-files=no", "--", *SAVED))


def _moved(repository: Repository, branch: str, begun: str) -> str:
    """A sentence if the branch has left the commit that was trained; else nothing."""
    head = repository.head_of(branch)
    if not head:
        return f"{branch} is gone, so nothing was committed; the model is in the run cache"
    if head != begun:
        return (
            f"{branch} has moved to {head[:12]}, whose own pipeline trains it, so nothing was "
            "committed; the model is in the run cache"
        )
    return ""


def read_epochs() -> int:
    """The epochs of params.yaml; 0 if they are not set."""
    try:
        return int(yaml.safe_load(Path("params.yaml").read_text("utf-8"))["train"]["epochs"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError):
        return 0


def estimate(repository: Repository, epochs: int) -> float:
    """Expected seconds: those of the newest experiment, scaled by the epochs."""
    earlier = _of_tags(repository)
    if earlier is None or not epochs:
        return 0.0
    return round(earlier.seconds * epochs / earlier.epochs, 1)


def _of_tags(repository: Repository, revision: str = "") -> Experiment | None:
    """The newest training that a tag records, of any commit or of one."""
    wanted = repository.commit(revision) if revision else ""
    tags = repository.tags("experiment/*")
    for tag in reversed([tag for tag, commit in tags.items() if wanted in ("", commit)]):
        text = repository.message(tag).partition("\n\n")[2]
        with suppress(ValidationError):
            found = Experiment.model_validate_json(text)
            if found.trained and found.epochs:
                return found
    return None
