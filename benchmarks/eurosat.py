"""The whole pipeline on real EuroSAT, in a folder of its own.

    make bench-eurosat EUROSAT=path/to/EuroSAT_RGB.zip

Runs ingest, load, preprocess, train and evaluate in `artifacts/bench/eurosat/` with the parameters
below on top of params.yaml, times each, and leaves the bundle in `artifacts/bench/eurosat/model/`.
The repository's own data.dvc, dvc.lock and model/ stay as they are.
"""

import json
import os
import resource
import shutil
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

# Chosen on a validation split; docs/benchmarks.md says how.
SETTINGS: dict[str, dict[str, Any]] = {
    "model": {"network": "resnet-deep", "width": 32},
    "train": {"epochs": 50, "batch_size": 128},
}


def main() -> None:
    """Run the stages and print what they took and reached."""
    parser = ArgumentParser(prog="python -m benchmarks.eurosat", description=__doc__)
    parser.add_argument("--path", type=Path, required=True, help="EuroSAT_RGB.zip, or its folder")
    parser.add_argument("--seed", type=int, help="of the training; the split stays the same")
    arguments = parser.parse_args()
    archive = arguments.path.resolve()
    print(machine.line())
    prepare(FOLDER, SETTINGS, arguments.seed)
    run(FOLDER, "ingest", "eurosat", "--path", str(archive))
    for stage in ("load", "preprocess", "train", "evaluate"):
        run(FOLDER, stage)
    metrics = json.loads((FOLDER / paths.METRICS).read_text(encoding="utf-8"))
    print(
        f"accuracy {metrics['accuracy']:.2%} (95 % interval {metrics['accuracy_low']:.2%} to "
        f"{metrics['accuracy_high']:.2%}), macro F1 {metrics['macro_f1']:.4f}, "
        f"test chips {metrics['test_chips']}, bundle {FOLDER / paths.MODEL}/"
    )


def prepare(folder: Path, settings: dict[str, dict[str, Any]], seed: int | None = None) -> None:
    """Make an empty DVC project with the parameters of a benchmark."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    params = yaml.safe_load(paths.PARAMS.read_text(encoding="utf-8"))
    for section, values in settings.items():
        params[section] |= values
    if seed is not None:
        params["train"]["seed"] = seed
    (folder / paths.PARAMS).write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    subprocess.run(
        [sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet"], cwd=folder, check=True
    )


def run(folder: Path, stage: str, *arguments: str) -> None:
    """Run one stage as a person would, and print its time and peak memory."""
    started = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    command = [sys.executable, "-m", f"pipeline.{stage}", *arguments]
    process = subprocess.Popen(command, cwd=folder, env=os.environ | {"DVC_NO_ANALYTICS": "1"})
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"error: {stage} failed, see above")
    seconds = time.perf_counter() - started
    cpu = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    print(
        f"{stage}: {seconds:.1f} s, {cpu:.1f} CPU s, peak {usage.ru_maxrss / 2**20:.2f} GiB",
        flush=True,
    )


if __name__ == "__main__":
    main()
