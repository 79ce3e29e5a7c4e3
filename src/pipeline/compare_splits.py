"""Command: how much a random split would flatter the model; the report shows it.

    python -m pipeline.compare_splits

Trains the model of params.yaml once more with `preprocess.split: random`, in a folder of its own
below artifacts/, and writes what both reach to reports/splits.json. Neighbouring pixels, and chips
of one place, look alike: a model that is tested beside what it was trained on looks better than it
is on new ground. Nothing but reports/splits.json changes.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from pipeline import paths, tasks
from pipeline.arguments import parse_none
from pipeline.bundle.manifest import read_bundle
from pipeline.errors import DataError, ParameterError, command
from pipeline.files import write_json
from pipeline.gate import another_state, read
from pipeline.params import read_params
from pipeline.reporting.splits import SPLITS, split_rows

STAGES = ("preprocess", "train", "evaluate")


@command
def main(arguments: Sequence[str] = ()) -> None:
    """Train on a random split, and write both results."""
    parse_none("compare_splits", __doc__, arguments)
    params = read_params()
    if params.preprocess.split == "random":
        raise ParameterError(
            "params.yaml: preprocess.split is random already: set it to auto or spatial to compare"
        )
    if not paths.RAW.is_dir():
        raise DataError(f"{paths.RAW}/ is missing: run `dvc repro`")
    if found := another_state():  # two models of different chips say nothing about the split
        raise DataError(found)
    _, manifest = read_bundle()
    task = tasks.of(manifest)
    ours = read(paths.METRICS)
    theirs = _on_a_random_split()
    names = [metric.key for metric in task.METRICS]
    result = {
        "model": manifest.sha256,
        "split": params.preprocess.split,
        "metrics": {name: ours[name] for name in names},
        "random": {name: theirs[name] for name in names},
    }
    write_json(SPLITS, result)
    for title, here, there in split_rows(task, result):
        print(f"compare_splits: {title}: {here} as split, {there} by a random split")
    print("compare_splits: `make report` shows them in reports/report.md")


def _on_a_random_split() -> dict[str, Any]:
    """Run the stages in a folder of their own; returns the metrics."""
    root = Path.cwd()
    document = yaml.safe_load(paths.PARAMS.read_text(encoding="utf-8"))
    document["preprocess"]["split"] = "random"
    with TemporaryDirectory(dir=paths.RAW.parent) as name:
        folder = root / name
        (folder / paths.RAW).parent.mkdir(parents=True)
        (folder / paths.RAW).symlink_to(root / paths.RAW)
        (folder / paths.PARAMS).write_text(yaml.safe_dump(document), encoding="utf-8")
        (folder / paths.DATA_VERSION).write_bytes((root / paths.DATA_VERSION).read_bytes())
        for stage in STAGES:
            line = [sys.executable, "-m", f"pipeline.{stage}"]
            source = str(Path(__file__).parents[1])
            done = subprocess.run(line, cwd=folder, env=os.environ | {"PYTHONPATH": source})
            if done.returncode != 0:
                raise DataError(f"{stage} failed with a random split: see above")
        found: dict[str, Any] = json.loads((folder / paths.METRICS).read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
