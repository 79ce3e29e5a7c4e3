"""Command: the floors and the comparison with `main` that block a merge.

    python -m pipeline.gate                 against main
    python -m pipeline.gate --against v1.2  against another revision

Exits with 1 and names each floor that the model misses, with the number. The floors are the
section `gate` of params.yaml, and where there are some, the tests of tests.yaml. artifacts/gate/
gets the same for GitLab's widgets.

Numbers of another state of the folder are refused. In a pipeline that is a warning: there the jobs
`trained` and `verify` hold dvc.lock, and main without BOT_TOKEN has nobody who commits it.
"""

import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from contracts import commit as commit_facts
from contracts.bundle import MANIFEST, parse_manifest
from contracts.commit import Unreadable
from contracts.lock import stale
from pipeline import paths, repository, tasks
from pipeline.arguments import parse_against
from pipeline.errors import DataError, GateError, command
from pipeline.files import write_text
from pipeline.params import Params, read_params
from pipeline.reporting import widgets
from pipeline.reporting.model_tests import model_test_checks
from pipeline.tasks.comparison import Comparison
from pipeline.tasks.task import Check, at_most

WIDGETS = Path("artifacts/gate")
PARENT = "HEAD^1"
"""What the pipeline of main compares with."""


@command
def main(arguments: Sequence[str] = ()) -> None:
    """Judge the model that `reports/` describes."""
    against = parse_against("gate", __doc__, arguments)
    params = read_params()
    if (found := another_state()) and "CI_PIPELINE_ID" not in os.environ:
        raise GateError(found)
    warn_of(found)
    comparison, note = compare_with(against, params)
    metrics = read(paths.METRICS)
    tested = model_test_checks(sha256_of_model())
    checks = judge(metrics, read(paths.CLASSES), params, comparison, note, tested)
    write_text(WIDGETS / "junit.xml", widgets.junit(checks, params.model.name))
    write_text(WIDGETS / "metrics.txt", widgets.openmetrics(metrics, params.model.name))
    for check in checks:
        print(f"{'pass' if check.passed else 'MISS'}  {check.name}: {check.text}")
    missed = [check for check in checks if not check.passed]
    if missed:
        listed = "; ".join(f"{check.name}: {check.text}" for check in missed)
        raise GateError(f"the gate is closed, {len(missed)} of {len(checks)} missed: {listed}")
    print(f"the gate is open: {len(checks)} of {len(checks)} hold")


def another_state() -> str:
    """Why reports/ does not describe these data, parameters and code, by dvc.lock; else nothing."""
    with suppress(Unreadable):  # without DVC there is nothing to compare with
        if found := stale():
            more = f"; and {len(found) - 1} more" if len(found) > 1 else ""
            return (
                f"reports/ describes another state of this folder ({found[0]}{more}): "
                "run `make repro`"
            )
    return ""


def warn_of(state: str) -> None:
    """Warn of another state."""
    if state:
        print(f"warning: {state}", file=sys.stderr)


def read(path: Path) -> dict[str, Any]:
    """Read what evaluate measured.

    Raises:
        DataError: it is not there, or not JSON.
    """
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} is missing: run `dvc repro`") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON ({error}): run `dvc repro evaluate`") from None
    return document


def sha256_of_model() -> str:
    """Digest of the bundle in model/, by its manifest; empty where none is here."""
    try:
        return parse_manifest((paths.MODEL / MANIFEST).read_bytes()).sha256
    except (OSError, ValidationError):
        return ""


def compare_with(name: str, params: Params) -> tuple[Comparison | None, str]:
    """Compare the model with the one of a revision.

    None, with the reason, when there is no earlier model of this name or the comparison is
    switched off.

    Raises:
        GateError: there is an earlier model, but no test chip to compare on.
    """
    if not params.gate.compare:
        return None, "switched off by gate.compare"
    if not paths.PREDICTIONS.exists():
        raise DataError(f"{paths.PREDICTIONS} is missing: run `dvc repro`")
    task = tasks.find(params.model.task)
    ours = task.parse_predictions(
        paths.PREDICTIONS.read_text(encoding="utf-8"), str(paths.PREDICTIONS)
    )
    if name == PARENT and repository.is_first_commit():
        return None, f"{name} does not exist: this is the first commit"
    base = repository.resolve(name)
    theirs = repository.show(base, paths.PREDICTIONS)
    if theirs is None:
        return None, f"{name} has no {paths.PREDICTIONS} yet, so this is the first model"
    if other := other_model(base, params):
        return None, f"{name} has {' '.join(other)}, so this is the first {params.model.name}"
    champion = task.parse_predictions(theirs, f"{paths.PREDICTIONS} of {name}")
    comparison = task.compare(champion, ours, params.evaluate.bootstrap_samples)
    if comparison is None:
        raise GateError(
            f"no test chip in common with {name}, so it is unknown whether this model is better: "
            f"keep data and split, or set gate.compare to false in this change and say why"
        )
    return comparison, ""


def other_model(commit: str, params: Params) -> tuple[str, str] | None:
    """Which other model.name or model.task a commit has, in words; None if none, or unknown."""
    try:
        parameters = commit_facts.read_params(
            (repository.show(commit, paths.PARAMS) or "").encode()
        )
    except commit_facts.Unreadable:
        return None
    before = parameters.get("model", {})
    if (name := str(before.get("name", ""))) not in ("", params.model.name):
        return "another model,", name
    if (task := str(before.get("task", ""))) not in ("", params.model.task):
        return "a model for", task
    return None


def judge(
    metrics: dict[str, Any],
    classes: dict[str, Any],
    params: Params,
    comparison: Comparison | None,
    note: str,
    tested: Sequence[Check] = (),
) -> list[Check]:
    """Compare the metrics with every floor; `tested` are the tests of the model."""
    limits = params.gate
    return [
        *tasks.find(params.model.task).floors(metrics, classes, limits),
        at_most("latency p95", metrics["latency_p95_ms"], limits.max_latency, " ms"),
        at_most("model size", metrics["model_size_mib"], limits.max_model_size, " MiB"),
        *tested,
        _no_loss(comparison, note),
    ]


def _no_loss(comparison: Comparison | None, note: str) -> Check:
    name = "no loss against the model of the base"
    if comparison is None:
        return Check(name, True, f"not compared: {note}")
    low, high = comparison.difference
    return Check(
        name,
        not comparison.is_loss,
        f"{comparison.measure} {comparison.challenger - comparison.champion:+.2%} "
        f"(95 % interval {low:+.2%} to {high:+.2%}) on {comparison.chips} shared {comparison.unit}",
    )


if __name__ == "__main__":
    main(sys.argv[1:])
