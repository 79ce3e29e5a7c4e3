"""Command: the floors and the comparison with `main` that block a merge.

    python -m pipeline.gate                 against main
    python -m pipeline.gate --against v1.2  against another revision

Exits with 1 and names each floor that the model misses, with the number. The floors are the
section `gate` of params.yaml.
"""

import json
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import paths, repository
from pipeline.errors import DataError, GateError, command
from pipeline.evaluation.comparison import Comparison, compare
from pipeline.evaluation.predictions import parse_predictions
from pipeline.params import Gate, Params, read_params

MAIN = "main"


class Check(NamedTuple):
    """One floor, and whether the model holds it."""

    name: str
    passed: bool
    text: str
    """The number and the floor, in words."""


@command
def main() -> None:
    """Judge the model that `reports/` describes."""
    parser = ArgumentParser(
        prog="python -m pipeline.gate",
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--against", default=MAIN, metavar="REV", help="revision to compare with (default: main)"
    )
    arguments = parser.parse_args()
    params = read_params()
    comparison, note = compare_with(arguments.against, params)
    checks = judge(read(paths.METRICS), read(paths.CLASSES), params.gate, comparison, note)
    for check in checks:
        print(f"{'pass' if check.passed else 'MISS'}  {check.name}: {check.text}")
    missed = [check for check in checks if not check.passed]
    if missed:
        listed = "; ".join(f"{check.name}: {check.text}" for check in missed)
        raise GateError(f"the gate is closed, {len(missed)} of {len(checks)} missed: {listed}")
    print(f"the gate is open: {len(checks)} of {len(checks)} hold")


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


def compare_with(name: str, params: Params) -> tuple[Comparison | None, str]:
    """Compare the model with the one of a revision.

    None, with the reason, when there is no earlier model or the comparison is switched off.

    Raises:
        GateError: there is an earlier model, but no test chip to compare on.
    """
    if not params.gate.compare:
        return None, "switched off by gate.compare"
    if not paths.PREDICTIONS.exists():
        raise DataError(f"{paths.PREDICTIONS} is missing: run `dvc repro`")
    ours = parse_predictions(paths.PREDICTIONS.read_text(encoding="utf-8"), str(paths.PREDICTIONS))
    theirs = repository.show(repository.resolve(name), paths.PREDICTIONS)
    if theirs is None:
        return None, f"{name} has no {paths.PREDICTIONS} yet, so this is the first model"
    champion = parse_predictions(theirs, f"{paths.PREDICTIONS} of {name}")
    comparison = compare(champion, ours, params.evaluate.bootstrap_samples)
    if comparison is None:
        raise GateError(
            f"no test chip in common with {name}, so nobody knows whether this model is better: "
            f"keep data and split, or set gate.compare to false in this change and say why"
        )
    return comparison, ""


def judge(
    metrics: dict[str, Any],
    classes: dict[str, Any],
    floors: Gate,
    comparison: Comparison | None,
    note: str,
) -> list[Check]:
    """Hold the metrics against every floor."""
    worst, score = min(classes.items(), key=lambda item: item[1]["recall"])
    return [
        _at_least("accuracy", metrics["accuracy"], floors.min_accuracy),
        _at_least(f"recall of {worst} (the lowest)", score["recall"], floors.min_recall),
        _at_most("calibration error", metrics["calibration_error"], floors.max_calibration_error),
        _at_most("latency p95", metrics["latency_p95_ms"], floors.max_latency, " ms"),
        _at_most("model size", metrics["model_size_mib"], floors.max_model_size, " MiB"),
        _no_loss(comparison, note),
    ]


def _at_least(name: str, value: float, floor: float) -> Check:
    return Check(name, value >= floor, f"{value:.4g}, wanted at least {floor:g}")


def _at_most(name: str, value: float, limit: float, unit: str = "") -> Check:
    return Check(name, value <= limit, f"{value:.4g}{unit}, wanted at most {limit:g}{unit}")


def _no_loss(comparison: Comparison | None, note: str) -> Check:
    name = "no loss against the model of the base"
    if comparison is None:
        return Check(name, True, f"not compared: {note}")
    low, high = comparison.difference
    return Check(
        name,
        not comparison.is_loss,
        f"accuracy {comparison.challenger - comparison.champion:+.2%} "
        f"(95 % interval {low:+.2%} to {high:+.2%}) on {comparison.chips} shared test chips",
    )


if __name__ == "__main__":
    main()
