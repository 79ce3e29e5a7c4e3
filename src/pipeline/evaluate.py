"""Stage: the bundle on the test split -> metrics, predictions and plots.

Measures `model.onnx` in ONNX Runtime: the file that ships, not the network in memory.

Output:
    reports/metrics.json      numbers of the whole: what `dvc metrics diff` and `dvc exp show` list
    reports/classes.json      precision, recall, F1 and support of every class
    reports/predictions.csv   one line a test chip; two versions of it make a paired comparison
    reports/plots/            data of `dvc plots`
    reports/pictures/         pictures of the report
"""

import csv
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from contracts.bundle import Manifest
from pipeline import paths
from pipeline.bundle.inference import predict, session
from pipeline.bundle.manifest import read_bundle
from pipeline.data.prepared import Split, read_chips
from pipeline.errors import BundleError, command
from pipeline.evaluation import measures, plots
from pipeline.evaluation.measures import ClassScore, Labels, Reliability
from pipeline.evaluation.predictions import Prediction, write_predictions
from pipeline.files import replacing, write_json
from pipeline.params import Evaluate, read_params

WARM_UP = 20  # single-chip predictions before timing starts


@command
def main() -> None:
    """Measure `model/` on the test split."""
    params = read_params().evaluate
    graph, manifest = read_bundle()
    chips = read_chips()
    if (manifest.classes, manifest.input.bands) != (chips.dataset.classes, chips.dataset.bands):
        raise BundleError(
            f"{paths.MODEL}/ was trained on other classes or bands than {paths.CHIPS}/ holds: "
            f"run `dvc repro`"
        )
    test = chips.split("test")
    probabilities = predict(session(graph), test.chips).probabilities
    metrics = measure(manifest, test, probabilities, params)
    metrics |= latency(session(graph, threads=1), test.chips, params.latency_runs)
    metrics["model_size_mib"] = round(len(graph) / 2**20, 3)
    scores = measures.class_scores(test.labels, probabilities.argmax(axis=1), manifest.classes)
    _write(metrics, scores, manifest, test, probabilities, params)
    print(
        f"evaluate: accuracy {metrics['accuracy']:.2%} "
        f"({metrics['accuracy_low']:.2%} to {metrics['accuracy_high']:.2%}), "
        f"macro F1 {metrics['macro_f1']:.3f}, n = {metrics['test_chips']}"
    )


def measure(
    manifest: Manifest, test: Split, probabilities: npt.NDArray[np.float32], params: Evaluate
) -> dict[str, Any]:
    """Compute every metric that follows from predictions."""
    count = len(manifest.classes)
    predicted = probabilities.argmax(axis=1)
    correct = (predicted == test.labels).astype(np.float64)
    low, high = measures.interval(correct, params.bootstrap_samples)
    return {
        "accuracy": float(correct.mean()),
        "accuracy_low": low,
        "accuracy_high": high,
        "macro_f1": measures.macro_f1(test.labels, predicted, count),
        "log_loss": measures.mean_log_loss(test.labels, probabilities),
        "calibration_error": measures.calibration_error(
            test.labels, probabilities, params.calibration_bins
        ),
        "test_chips": len(test.labels),
    }


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


def _write(
    metrics: dict[str, Any],
    scores: dict[str, ClassScore],
    manifest: Manifest,
    test: Split,
    probabilities: npt.NDArray[np.float32],
    params: Evaluate,
) -> None:
    names = manifest.classes
    predicted = probabilities.argmax(axis=1)
    table = measures.reliability(test.labels, probabilities, params.calibration_bins)
    with replacing(paths.PLOTS) as folder:
        _write_plot_data(folder, names, test.labels, predicted, scores, table)
    with replacing(paths.PICTURES) as folder:
        plots.confusion(folder / "confusion.png", names, test.labels, predicted)
        plots.reliability(folder / "reliability.png", table, metrics["calibration_error"])
        plots.mistakes(folder / "mistakes.png", names, manifest.input, test, probabilities)
        plots.curves(folder / "curves.png", _history())
    write_predictions(
        paths.PREDICTIONS,
        [
            Prediction(row.sha256[:16], row.label, names[answer], float(probability[answer]))
            for row, answer, probability in zip(test.rows, predicted, probabilities, strict=True)
        ],
    )
    write_json(paths.CLASSES, {name: score._asdict() for name, score in scores.items()})
    write_json(paths.METRICS, metrics)


def _write_plot_data(
    folder: Path,
    names: tuple[str, ...],
    labels: Labels,
    predicted: Labels,
    scores: dict[str, ClassScore],
    table: list[Reliability],
) -> None:
    pairs = [(names[true], names[answer]) for true, answer in zip(labels, predicted, strict=True)]
    _write_csv(folder / "confusion.csv", ("actual", "predicted"), pairs)
    rows = [(name, *score) for name, score in scores.items()]
    _write_csv(folder / "classes.csv", ("class", *ClassScore._fields), rows)
    _write_csv(folder / "reliability.csv", Reliability._fields, table)


def _history() -> dict[str, list[float]]:
    """Read the curves of training as DVCLive wrote them: name -> value of each epoch."""
    history = {}
    for path in sorted(paths.CURVES.rglob("*.tsv")):
        with path.open(encoding="utf-8", newline="") as file:
            values = [float(record[path.stem]) for record in csv.DictReader(file, delimiter="\t")]
        history[path.relative_to(paths.CURVES).with_suffix("").as_posix()] = values
    return history


def _write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)


if __name__ == "__main__":
    main()
