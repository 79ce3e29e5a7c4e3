"""int8 beside float32: what is lost on the test split, and what is gained.

    dvc repro && python -m benchmarks.quantize
    python -m benchmarks.quantize --project artifacts/bench/eurosat

Takes `model/` and `artifacts/chips/` of a trained project, quantizes its graph as
`train.quantize: auto` does, with chips of the training split, and runs both graphs: over the test
split, and again and again over 1 and 16 chips on one thread, in turns. CPU time counts.
"""

import contextlib
import statistics
import sys
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import machine
from pipeline import paths, tasks
from pipeline.bundle.inference import predict, session
from pipeline.bundle.manifest import read_bundle
from pipeline.bundle.quantize import quantize
from pipeline.data.prepared import read_prepared
from pipeline.params import read_params

BATCHES = (1, 16)
CHIPS = 480  # a measurement, at least


def main() -> None:
    """Measure and print."""
    parser = ArgumentParser(prog="python -m benchmarks.quantize", description=__doc__)
    parser.add_argument("--project", type=Path, default=Path(), help="default: this folder")
    parser.add_argument("--rounds", type=int, default=7, help="of each (default: 7)")
    options = parser.parse_args()
    with contextlib.chdir(options.project):
        graph, manifest = read_bundle()
        prepared, params = read_prepared(), read_params().evaluate
        if b"QuantizeLinear" in graph:
            sys.exit(f"error: {paths.MODEL}/ is int8 already: train with train.quantize: never")
        task, test = tasks.of(manifest), prepared.split("test")
        graphs = {"float32": graph, "int8": quantize(graph, prepared.split("train").chips)}
        print(f"{machine.line()}; n = {options.rounds} rounds; {len(test.rows)} test chips")
        answers = {
            name: predict(session(of), test.chips, task.OUTPUTS) for name, of in graphs.items()
        }
        for name, output in answers.items():
            found = task.evaluate(output, test, prepared.dataset, params, manifest).metrics
            measures = ", ".join(
                f"{metric.title} {metric.form.format(found[metric.key])}" for metric in task.METRICS
            )
            print(f"{name}: {len(graphs[name]) / 2**20:.2f} MiB; {measures}")
        apart = task.difference(answers["float32"], answers["int8"])
        print(f"largest difference of an answer: {apart:.3g}")
        for batch in BATCHES:
            compare(graphs, np.ascontiguousarray(test.chips[:batch]), options.rounds)


def compare(graphs: dict[str, bytes], chips: npt.NDArray[Any], rounds: int) -> None:
    """Print CPU-us a chip of both graphs, in batches of so many."""
    sessions = {name: session(graph, threads=1) for name, graph in graphs.items()}
    found: dict[str, list[float]] = {name: [] for name in graphs}
    runs = -(-CHIPS // len(chips))
    for _ in range(rounds):
        for name, opened in sessions.items():
            started = time.process_time()
            for _ in range(runs):
                opened.run(None, {"chips": chips})
            found[name].append(1e6 * (time.process_time() - started) / runs / len(chips))
    middle = {name: statistics.median(values) for name, values in found.items()}
    each = ", ".join(
        f"{name} {middle[name]:.0f} us ({min(values):.0f} to {max(values):.0f})"
        for name, values in found.items()
    )
    gain = middle["float32"] / middle["int8"]
    print(f"{len(chips)} at once: {each}; int8 is {gain:.2f} times as fast")


if __name__ == "__main__":
    main()
