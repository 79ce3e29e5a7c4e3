"""Command: train the model of a merge request once, and commit it to its branch.

    python -m delivery.experiment

Pulls what is stored, runs `dvc repro`, pushes what is new, commits dvc.lock and reports/ to the
branch without starting another pipeline, and tags the commit `experiment/<request>-<pipeline>`.
Nothing is trained if dvc.lock is current. Outside the pipeline of a merge request, or with a token
that may not push, the model is still stored in DVC's run cache, and main need not train it again.

artifacts/experiment/ holds the record for the report: experiment.json and log.txt.
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter

from delivery.dvc import require_own_remote
from delivery.errors import DeliveryError, command
from delivery.experiment.experiment import LOG, Experiment, estimate, read_epochs, save, train
from delivery.git import Repository
from delivery.metrics.pipeline import watched


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
        print(f"experiment: about {experiment.estimate / 60:.1f} minutes, like the last one")
    try:
        require_own_remote()
        with watched("request"):
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


if __name__ == "__main__":
    main()
