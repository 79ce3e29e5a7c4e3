"""Stage: the bundle on the test split -> metrics, predictions and plots.

Measures `model.onnx` in ONNX Runtime: the file that ships, not the network in memory.

Reads:
    model/                    the bundle
    artifacts/chips/          the test split
    reports/training/         the curves of training
    params.yaml               the section evaluate

Writes:
    reports/metrics.json      numbers of the whole: what `dvc metrics diff` and `dvc exp show` list
    reports/classes.json      scores of every class
    reports/predictions.csv   one line a test chip; two versions of it make a paired comparison
    reports/plots/            data of `dvc plots`
    reports/pictures/         pictures of the report
"""

import csv
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from pipeline import paths, tasks
from pipeline.arguments import parse_none
from pipeline.bundle.inference import predict, session
from pipeline.bundle.manifest import read_bundle
from pipeline.data.prepared import read_prepared
from pipeline.errors import BundleError, command
from pipeline.files import replacing, write_json
from pipeline.params import read_params
from pipeline.tasks import plots
from pipeline.tasks.task import Evaluation, Table

WARM_UP = 20  # single-chip predictions before timing starts


@command
def main(arguments: Sequence[str] = ()) -> None:
    """Measure `model/` on the test split."""
    parse_none("evaluate", __doc__, arguments)
    params = read_params().evaluate
    graph, manifest = read_bundle()
    prepared = read_prepared()
    dataset = prepared.dataset
    if (manifest.classes, manifest.input.bands) != (dataset.classes, dataset.bands):
        raise BundleError(
            f"{paths.MODEL}/ was trained on other classes or bands than {paths.CHIPS}/ holds: "
            f"run `dvc repro`"
        )
    task, test = tasks.of(manifest), prepared.split("test")
    output = predict(session(graph), test.chips, task.OUTPUTS)
    found = task.evaluate(output, test, dataset, params, manifest)
    found.metrics.update(latency(session(graph, threads=1), test.chips, params.latency_runs))
    found.metrics["model_size_mib"] = round(len(graph) / 2**20, 3)
    _write(found)
    measured = ", ".join(
        f"{metric.title} {metric.form.format(found.metrics[metric.key])}" for metric in task.METRICS
    )
    print(f"evaluate: {measured}; {len(test.rows)} test chips")


def latency(
    model: onnxruntime.InferenceSession, chips: npt.NDArray[np.generic], runs: int
) -> dict[str, float]:
    """Time single chips on one thread, milliseconds."""
    times = []
    for run in range(WARM_UP + runs):
        chip = np.ascontiguousarray(chips[run % len(chips)][None])
        started = time.perf_counter()
        model.run(None, {"chips": chip})
        times.append(1000 * (time.perf_counter() - started))
    p50, p95 = np.percentile(times[WARM_UP:], (50, 95))
    return {"latency_p50_ms": round(float(p50), 3), "latency_p95_ms": round(float(p95), 3)}


def _write(found: Evaluation) -> None:
    with replacing(paths.PLOTS) as folder:
        for name, table in found.tables.items():
            _write_csv(folder / f"{name}.csv", table)
    with replacing(paths.PICTURES) as folder:
        for name, figure in (found.figures | {"curves": plots.curves(_history())}).items():
            plots.save(figure, folder / f"{name}.png")
    _write_csv(paths.PREDICTIONS, found.predictions)
    write_json(paths.CLASSES, found.classes)
    write_json(paths.METRICS, found.metrics)


def _history() -> dict[str, list[float]]:
    """Read the curves of training as DVCLive wrote them: name -> value of each epoch."""
    history = {}
    for path in sorted(paths.CURVES.rglob("*.tsv")):
        with path.open(encoding="utf-8", newline="") as file:
            values = [float(record[path.stem]) for record in csv.DictReader(file, delimiter="\t")]
        history[path.relative_to(paths.CURVES).with_suffix("").as_posix()] = values
    return history


def _write_csv(path: Path, table: Table) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table.head)
        writer.writerows(table.rows)


if __name__ == "__main__":
    main(sys.argv[1:])
