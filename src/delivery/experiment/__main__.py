"""Command: train what a merge request proposes, once, and give it back to its branch.

    python -m delivery.experiment

Pulls what is stored, runs `dvc repro`, pushes what is new, commits dvc.lock and reports/ to the
branch without starting another pipeline, and tags the commit, `experiment/<request>-<pipeline>`.
Nothing is trained when dvc.lock is current. Elsewhere than in the pipeline of a merge request, and
without a token that may push, the model still lies in DVC's run cache, and main need not train it.

artifacts/experiment/ tells the report what happened: experiment.json and log.txt.
"""

import os
import subprocess
import sys
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import yaml
from pydantic import BaseModel, ValidationError

from delivery import training_metrics
from delivery.dvc import dvc, require_own_remote, stale
from delivery.errors import DeliveryError, GitError, ToolError, TrainingFailed, command
from delivery.experiment import checkpoints
from delivery.git import Repository
from delivery.tags import experiment_tag

FOLDER = Path("artifacts/experiment")
RECORD, LOG = FOLDER / "experiment.json", FOLDER / "log.txt"
SAVED = ("dvc.lock", "data.dvc", "reports")
TRAINED = "Running stage 'train'"
VARIABLES = ("CI_MERGE_REQUEST_IID", "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME")


class Experiment(BaseModel):
    """What the training job did; the report reads it, and the tag keeps it."""

    state: str = "running"
    """running (then it was killed) | failed | done"""
    trained: bool = False
    seconds: float = 0.0
    """Of `dvc repro`."""
    epochs: int = 0
    estimate: float = 0.0
    """Seconds that the last experiment let expect; 0 without one."""
    tag: str = ""
    commit: str = ""
    """Commit that the bot made, empty when nothing changed."""
    note: str = ""
    """What the reader should know, such as why nothing was pushed."""

    def write(self) -> None:
        """Leave it for the report."""
        FOLDER.mkdir(parents=True, exist_ok=True)
        RECORD.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


@command
def main() -> None:
    """Train, push, commit, tag."""
    ArgumentParser(
        prog="python -m delivery.experiment",
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
    ).parse_args()
    repository = Repository()
    experiment = Experiment(epochs=read_epochs())
    experiment.estimate = estimate(repository, experiment.epochs)
    experiment.write()
    if experiment.estimate:
        print(f"experiment: about {experiment.estimate / 60:.1f} minutes, by the last one's")
    try:
        require_own_remote()
        with training_metrics.watched("request"):
            train(experiment)
    except DeliveryError as error:
        experiment.state = "failed"
        with LOG.open("a", encoding="utf-8") as log:  # the report shows its end
            log.write(f"error: {error}\n")
        raise
    finally:
        experiment.write()
    save(repository, experiment)
    experiment.write()
    print(f"experiment: {experiment.note or 'done'}")


def train(experiment: Experiment) -> None:
    """Bring the model up to date; what it prints goes to the log as well.

    Raises:
        TrainingFailed: a stage failed.
    """
    begun = time.monotonic()
    bring()
    current = not stale()
    with checkpoints.kept():
        code = _follow(["dvc", "repro"])
    experiment.seconds = round(time.monotonic() - begun, 1)
    experiment.trained = TRAINED in LOG.read_text(encoding="utf-8", errors="replace")
    if code != 0:
        raise TrainingFailed(f"dvc repro ended with {code}: its log is {LOG}, and in the report")
    dvc("push", "--quiet", "--run-cache")
    checkpoints.forget()
    if current and not experiment.trained:
        # evaluate ran for its pictures, and measured other latencies: no news.
        Repository().git("checkout", "--", *SAVED)
    experiment.state = "done"


def bring() -> None:
    """Bring the data, and the models that were trained before; `dvc repro` takes one that fits.

    Not `dvc repro --pull`: it asks the remote for what load and preprocess wrote, which is kept
    nowhere, and goes on without.
    """
    dvc("pull", "--quiet", "--run-cache", "data.dvc")
    with suppress(ToolError):  # a lock whose model is not there is trained again
        dvc("fetch", "--quiet", "train")


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
    """Commit what was made to the branch of the merge request, and tag it."""
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
        repository.git("tag", "--delete", tag)  # of an earlier try of this job
    experiment.tag = tag
    body = f"{title}\n\n{experiment.model_dump_json()}\n"
    repository.git("tag", "--annotate", "--file=-", "--end-of-options", tag, stdin=body)
    experiment.note = _push(repository, branch, tag)


def _changed(repository: Repository) -> bool:
    return bool(repository.git("status", "--porcelain", "--untracked-files=no", "--", *SAVED))


def _push(repository: Repository, branch: str, tag: str) -> str:
    """Push branch and tag; a sentence when they could not be."""
    if os.environ.get("CI_MERGE_REQUEST_SOURCE_PROJECT_ID") != os.environ.get("CI_PROJECT_ID"):
        return "done; the branch is a fork's, so that dvc.lock was not committed to it"
    try:
        repository.push(f"HEAD:refs/heads/{branch}", f"refs/tags/{tag}")
    except GitError as error:
        return (
            f"done, and in the run cache; dvc.lock could not be pushed to {branch} ({error}): "
            "either the branch has moved on, and its newer pipeline will, or BOT_TOKEN may not "
            "push (docs/gitlab-setup.md)"
        )
    return f"done; {tag} is pushed to {branch}"


def read_epochs() -> int:
    """Epochs that params.yaml asks for; 0 when it does not say."""
    try:
        return int(yaml.safe_load(Path("params.yaml").read_text("utf-8"))["train"]["epochs"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError):
        return 0


def estimate(repository: Repository, epochs: int) -> float:
    """Seconds to expect: those of the newest experiment, by the number of its epochs."""
    for tag in reversed(repository.tags("experiment/*")):
        text = repository.message(tag).partition("\n\n")[2]
        try:
            earlier = Experiment.model_validate_json(text)
        except ValidationError:
            continue
        if earlier.trained and earlier.epochs and epochs:
            return round(earlier.seconds * epochs / earlier.epochs, 1)
    return 0.0


if __name__ == "__main__":
    main()
