"""Command: train the model of a merge request once, and commit it to its branch.

    python -m delivery.experiment            train it, and store it in the DVC remote
    python -m delivery.experiment commit     commit dvc.lock and reports/ to the branch, and tag
    python -m delivery.experiment check      check the commit: its model is stored, none is trained

Three jobs of a merge request call these steps. `train` pulls what is stored, runs `dvc repro`, and
pushes what is new; if dvc.lock is current and stored, it pulls the model alone. `commit` pushes the
results and the tag `experiment/<request>-<pipeline>`, which starts the pipeline that is judged.
There `check` stands in for `train`.

artifacts/experiment/ holds the records for the report: experiment.json, commit.json, log.txt.
"""

import os

from pydantic import ValidationError

from contracts import commands
from delivery import tracking
from delivery.dvc import require_own_remote
from delivery.errors import DeliveryError, GitLabError, TrainingFailed, command
from delivery.experiment import experiment as steps
from delivery.experiment.experiment import LOG, RECORD, Experiment
from delivery.git import BOT_EMAIL, BOT_NAME, Repository
from delivery.gitlab.client import GitLab
from delivery.metrics.pipeline import watched


@command
def main() -> None:
    """Run one step."""
    parser = commands.parser("delivery.experiment", __doc__)
    parser.add_argument("step", nargs="?", choices=("train", "commit", "check"), default="train")
    {"train": _train, "commit": _commit, "check": _check}[parser.parse_args().step](Repository())


def _train(repository: Repository) -> None:
    experiment = Experiment(epochs=steps.read_epochs(), job=os.environ.get("CI_JOB_URL", ""))
    experiment.estimate = steps.estimate(repository, experiment.epochs)
    experiment.write()
    if experiment.estimate:
        print(f"experiment: about {experiment.estimate / 60:.1f} minutes, like the last one")
    try:
        require_own_remote()
        with watched("request"):
            steps.train(experiment)
    except DeliveryError as error:
        _fail(experiment, error)
        raise
    finally:
        experiment.write()
        tracking.record(experiment)
    print(f"experiment: {'trained' if experiment.trained else 'dvc.lock is current'}; stored")


def _commit(repository: Repository) -> None:
    try:
        experiment = Experiment.model_validate_json(RECORD.read_bytes())
    except (OSError, ValidationError):
        raise TrainingFailed(f"{RECORD} is not there: run python -m delivery.experiment") from None
    if experiment.state != "done":
        raise TrainingFailed(f"the training is {experiment.state}: there is nothing to commit")
    _identify()
    committed = steps.commit(repository, experiment)
    committed.write()
    print(f"experiment: {committed.note}")


def _identify() -> None:
    """Commit as the user of the token: push rules may refuse an author unknown to GitLab."""
    if os.environ.get("BOT_TOKEN"):
        try:
            name, email = GitLab.from_environment().user()
        except GitLabError as error:
            print(f"experiment: commits as {BOT_NAME} ({error})")
        else:
            os.environ |= {"GIT_AUTHOR_NAME": name, "GIT_AUTHOR_EMAIL": email or BOT_EMAIL}


def _check(repository: Repository) -> None:
    experiment = Experiment(job=os.environ.get("CI_JOB_URL", ""))
    experiment.write()
    try:
        experiment = steps.check(repository)
    except DeliveryError as error:
        _fail(experiment, error)
        raise
    finally:
        experiment.write()
    print("experiment: the model is stored; nothing was trained")


def _fail(experiment: Experiment, error: DeliveryError) -> None:
    experiment.state = "failed"
    with LOG.open("a", encoding="utf-8") as log:  # the report shows its end
        log.write(f"error: {error}\n")


if __name__ == "__main__":
    main()
