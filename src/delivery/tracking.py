"""Command: show a version in GitLab's model registry; and `record`, which shows a training.

    python -m delivery.tracking landcover@v1.2.0

A version is under *Deploy > Model registry*, with its bundle. A training is a run under *Analyze >
Model experiments*, of the experiment that `model.name` names. The Git tags stay the registry that
decides what serves: nothing reads these pages back. A repeated job updates its run, and finds its
version.

Environment: BOT_TOKEN, and what GitLab sets in a job. Whatever is missing or refused is one
sentence in the log and never a failed job; it ends after two minutes at most.
"""

import csv
import json
import os
import time
from contextlib import suppress
from pathlib import Path

from contracts import commands
from contracts.commit import BUNDLE, METRICS, PARAMS, Unreadable, folder_digest
from contracts.commit import read_metrics as metrics_of
from contracts.commit import read_params as params_of
from contracts.tags import Version
from delivery import model_item
from delivery.errors import DeliveryError, GitLabError, command
from delivery.experiment.experiment import Experiment
from delivery.git import Repository
from delivery.gitlab.best_effort import best_effort
from delivery.gitlab.mlflow import Metric, MLflow
from delivery.model_card import compose
from delivery.registry.registry import Registry, open_registry
from delivery.registry.state import data_version, model_digest, read_metrics, read_params
from delivery.tags import experiment_tag, parse_version

CURVES = Path("reports/training/plots/metrics")
POINTS = 100  # of a curve; a long training is thinned
ADDRESS = Path("artifacts/model-version.txt")
"""Address of the version's page, for the release."""
COMPLETE = "bundle"
"""Tag of a version's run, written last: its files are there."""


@command
def main() -> None:
    """Show a version."""
    parser = commands.parser("delivery.tracking", __doc__)
    parser.add_argument("version")
    version = parser.parse_args().version
    best_effort("tracking", lambda: publish(version))


def record(experiment: Experiment) -> None:
    """Show the training of this job as a run, also one that failed."""
    best_effort("tracking", lambda: run(experiment))


def run(experiment: Experiment) -> str:
    """Write a training as a run; returns a sentence.

    Raises:
        GitLabError: GitLab refuses, or cannot be reached.
    """
    finished = experiment.state == "done"
    if finished and not experiment.trained:
        return "no run: nothing was trained"
    registry = open_registry()
    gitlab = MLflow.from_environment()
    name = _run_name()
    found = gitlab.run(registry.name, name, time.time() - experiment.seconds)
    metrics = _metrics() if finished else []  # reports/ still has those of the model before
    if found.has_curve:
        metrics = [metric for metric in metrics if metric.step is None]
    gitlab.log(found.id, metrics, _params(), {"experiment": name} | _facts())
    gitlab.end(found.id, "FINISHED" if finished else "FAILED")
    return f"run {name} of {registry.name}, under Analyze > Model experiments"


def publish(text: str) -> str:
    """Write a version with its bundle, report, metrics and parameters; returns a sentence.

    Raises:
        GitLabError: GitLab refuses, or cannot be reached.
    """
    gitlab = MLflow.from_environment()
    registry = open_registry()
    registry.sync()
    version = registry.find(parse_version(text, registry.name).tag)
    commit = registry.state().versions[version].commit
    bundle = Path(BUNDLE)
    if folder_digest(bundle) != model_digest(registry.repository, commit):
        raise GitLabError(f"{BUNDLE}/ is not the bundle of {version.tag}: dvc pull {BUNDLE}")
    number = version.text.removeprefix("v")
    found, its_run = gitlab.version(version.name, number, compose(registry, version))
    ADDRESS.parent.mkdir(exist_ok=True)
    ADDRESS.write_text(f"{found.source}\n", encoding="utf-8")
    if its_run.has_tag(COMPLETE):
        return f"{version.tag} is in GitLab's model registry already"
    for file in (*sorted(bundle.iterdir()), *_item(registry, version)):
        gitlab.upload(its_run, file)
    _describe(gitlab, its_run.id, registry, version, commit)
    return f"{version.tag} is in GitLab's model registry: {found.source}"


def _item(registry: Registry, version: Version) -> list[Path]:
    """The STAC item of the version; none, with a line, where its bundle cannot be described."""
    try:
        return [model_item.write(registry, version)]
    except DeliveryError as error:
        print(f"left out: the STAC item: {error}")
        return []


def _describe(
    gitlab: MLflow, run_id: str, registry: Registry, version: Version, commit: str
) -> None:
    repository = registry.repository
    metrics = [Metric(*pair) for pair in read_metrics(repository, commit).items()]
    params = {name: _text(value) for name, value in read_params(repository, commit).items()}
    digest = model_digest(repository, commit) or ""
    gitlab.log(run_id, metrics, params, {"tag": version.tag} | _facts() | {COMPLETE: digest})


def _run_name() -> str:
    """`experiment/12-345`, as the Git tag; of a retraining `retrain/345`."""
    request, pipeline = (
        os.environ.get(name, "") for name in ("CI_MERGE_REQUEST_IID", "CI_PIPELINE_ID")
    )
    return experiment_tag(request, pipeline) if request else f"retrain/{pipeline}"


def _facts() -> dict[str, str]:
    """Tags of a run. By `gitlab.CI_JOB_ID` GitLab links the job."""
    request = os.environ.get("CI_MERGE_REQUEST_IID", "")
    return {
        "gitlab.CI_JOB_ID": os.environ.get("CI_JOB_ID", ""),
        "commit": os.environ.get("CI_COMMIT_SHA", ""),
        "merge_request": f"!{request}" if request else "",
        "data": data_version(Repository(), "HEAD") or "",
    }


def _params() -> dict[str, str]:
    try:
        sections = params_of(Path(PARAMS).read_bytes())
    except (OSError, Unreadable):
        return {}
    return {
        f"{section}.{name}": _text(value)
        for section, values in sections.items()
        for name, value in values.items()
    }


def _text(value: object) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, default=str)


def _metrics() -> list[Metric]:
    """The numbers of reports/metrics.json, and before them the curves of the training."""
    curves = [metric for file in sorted(CURVES.rglob("*.tsv")) for metric in _curve(file)]
    with suppress(OSError, Unreadable):
        numbers = metrics_of(Path(METRICS).read_bytes())
        return [Metric(*pair) for pair in numbers.items()] + curves
    return curves


def _curve(file: Path) -> list[Metric]:
    """The points of a curve that DVCLive wrote; a row without two numbers is left out."""
    name = file.relative_to(CURVES).with_suffix("").as_posix()
    found = []
    with file.open(encoding="utf-8", errors="replace", newline="") as lines:
        for row in list(csv.reader(lines, delimiter="\t"))[1:]:
            with suppress(ValueError):
                step, value = row
                found.append(Metric(name, float(value), int(step)))
    return found[:: -(-len(found) // POINTS)] if found else []


if __name__ == "__main__":
    main()
