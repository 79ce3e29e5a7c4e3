"""The whole pipeline on real EuroSAT, in a folder of its own.

    make bench-eurosat EUROSAT=path/to/EuroSAT_RGB.zip
    python -m benchmarks.eurosat --path EuroSAT_RGB.zip --choose     choose the settings again
    python -m benchmarks.eurosat --path EuroSAT_RGB.zip --seeds 1 2 3

Runs ingest, load and preprocess once, then train and evaluate for each training seed, with SETTINGS
on top of params.yaml, below `artifacts/bench/eurosat/`. The repository's own data.dvc, dvc.lock and
model/ stay as they are.

`--choose` trains short runs and compares them on the validation split of the same data; it reads no
test chip. It changes one setting at a time and keeps what is better.
"""

import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import yaml

from benchmarks import machine
from pipeline import paths

FOLDER = Path("artifacts/bench/eurosat")
CURVE = paths.TRAINING / "plots/metrics/validation/accuracy.tsv"
# Where the search begins. The network is the larger one of the two; what is not named is as in
# params.yaml.
START: dict[str, dict[str, Any]] = {
    "model": {"network": "resnet-deep", "width": 32},
    "train": {"epochs": 2, "batch_size": 128, "seed": 0},
}
# One at a time, in this order; a value is kept when the validation accuracy is higher.
ALTERNATIVES: list[tuple[str, str, list[Any]]] = [
    ("train", "learning_rate", [0.01, 0.04]),
    ("train", "label_smoothing", [0.0]),
    ("train", "max_shift", [0]),
    ("train", "brightness", [0.0]),
    ("model", "network", ["resnet"]),
]
# Of the figures in docs/benchmarks.md, which says how they were chosen.
SETTINGS: dict[str, dict[str, Any]] = {
    "model": {"network": "resnet-deep", "width": 32},
    "train": {"epochs": 16, "batch_size": 128, "learning_rate": 0.04},
}


def main() -> None:
    """Run the stages and print what they took and reached."""
    parser = ArgumentParser(prog="python -m benchmarks.eurosat", description=__doc__)
    parser.add_argument("--path", type=Path, required=True, help="EuroSAT_RGB.zip, or its folder")
    parser.add_argument("--choose", action="store_true", help="choose the settings")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[42], help="one training each; the split stays (42)"
    )
    arguments = parser.parse_args()
    archive = arguments.path.resolve()
    print(machine.line())
    prepare(FOLDER, SETTINGS)
    run(FOLDER, "ingest", "eurosat", "--path", str(archive))
    for stage in ("load", "preprocess"):
        run(FOLDER, stage)
    if arguments.choose:
        choose()
    else:
        repeat(arguments.seeds)


def choose() -> None:
    """Search the settings, one at a time, by the accuracy on the validation split."""
    best = START
    accuracy = trial(best)
    for section, key, values in ALTERNATIVES:
        for value in values:
            candidate = best | {section: best.get(section, {}) | {key: value}}
            reached = trial(candidate, f"{section}.{key} {value}")
            if reached > accuracy:
                best, accuracy = candidate, reached
    print(f"chosen, {accuracy:.2%} on the validation split: {json.dumps(best)}")


def trial(settings: dict[str, dict[str, Any]], change: str = "start") -> float:
    """Train a short run; return the highest accuracy on the validation split."""
    write_params(FOLDER, settings)
    run(FOLDER, "train")
    with (FOLDER / CURVE).open(encoding="utf-8") as file:
        accuracy = max(float(row["accuracy"]) for row in csv.DictReader(file, delimiter="\t"))
    print(f"{change}: {accuracy:.2%} on the validation split", flush=True)
    return accuracy


def repeat(seeds: list[int]) -> None:
    """Train and evaluate once a seed; print each result, then mean and spread."""
    accuracies = []
    for seed in seeds:
        write_params(FOLDER, SETTINGS | {"train": SETTINGS["train"] | {"seed": seed}})
        for stage in ("train", "evaluate"):
            run(FOLDER, stage)
        metrics = json.loads((FOLDER / paths.METRICS).read_text(encoding="utf-8"))
        accuracies.append(metrics["accuracy"])
        print(
            f"seed {seed}: accuracy {metrics['accuracy']:.2%} (95 % interval "
            f"{metrics['accuracy_low']:.2%} to {metrics['accuracy_high']:.2%}), "
            f"macro F1 {metrics['macro_f1']:.4f}, calibration error "
            f"{metrics['calibration_error']:.4f}, test chips {metrics['test_chips']}",
            flush=True,
        )
    print(
        f"accuracy over {len(seeds)} seeds: mean {statistics.mean(accuracies):.2%}, "
        f"{min(accuracies):.2%} to {max(accuracies):.2%}; last bundle {FOLDER / paths.MODEL}/"
    )


def prepare(folder: Path, settings: dict[str, dict[str, Any]]) -> None:
    """Make an empty DVC project with the parameters of a benchmark."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_params(folder, settings)
    subprocess.run(
        [sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet"], cwd=folder, check=True
    )


def write_params(folder: Path, settings: dict[str, dict[str, Any]]) -> None:
    """Write params.yaml as it ships, with `settings` on top."""
    params = yaml.safe_load(paths.PARAMS.read_text(encoding="utf-8"))
    for section, values in settings.items():
        params[section] |= values
    (folder / paths.PARAMS).write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def run(folder: Path, stage: str, *arguments: str) -> None:
    """Run one stage as a person would, and print its time and peak memory."""
    started = time.perf_counter()
    command = [sys.executable, "-m", f"pipeline.{stage}", *arguments]
    process = subprocess.Popen(command, cwd=folder, env=os.environ | {"DVC_NO_ANALYTICS": "1"})
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"error: {stage} failed, see above")
    print(
        f"{stage}: {time.perf_counter() - started:.1f} s, {usage.ru_utime:.1f} CPU s, "
        f"peak {usage.ru_maxrss / 2**20:.2f} GiB",
        flush=True,
    )


if __name__ == "__main__":
    main()
