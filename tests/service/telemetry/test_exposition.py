"""`/metrics` of the model: every family of it, and a drift score only where there is one."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.inference.bundle import read_bundle
from service.inference.tasks import Output
from service.inference.model import Model, Serving
from service.telemetry.counters import SECONDS, SHARES
from service.telemetry.exposition import DriftCollector, DriftPolicy, Exposition, TotalsCollector
from service.telemetry.metrics import Metrics
from service.telemetry.observations import Observations
from service.telemetry.processes import ProcessesCollector
from tests.make.bundles import BANDS, CLASSES, STATISTICS, make_bundle, make_chip

FEW, FLOOR = 100, 0.2
SIGNALS = {f"{statistic}/{band}" for statistic in STATISTICS for band in BANDS}
SIGNALS |= {"confidence", "classes"}
TAG = "landcover@v1.0.0"
ORDER = (
    "tag class band statistic signal measure reason handler le result step method status".split()
)

Samples = dict[str, dict[tuple[str, ...], float]]  # name -> values of the labels -> value


class Worker:
    """The parts of a worker that measure, around models that are only called."""

    def __init__(self) -> None:
        self.serving = Serving()
        self.now = 1e6  # seconds since the machine started
        self.observations = Observations(self.serving, 3600, clock=lambda: self.now)
        collectors = [
            TotalsCollector(self.observations),
            DriftCollector(self.observations, self.serving, DriftPolicy(FEW, FLOOR)),
            ProcessesCollector(lambda: []),
        ]
        self.exposition = Exposition(self.observations, Metrics(), collectors)

    def see(self, chip: np.ndarray[Any, Any]) -> None:
        model = self.serving.model()
        self.note(model.infer(chip))

    def note(self, answer: Output) -> None:
        model = self.serving.model()
        best = int(answer.probabilities.argmax())
        confidence = float(answer.probabilities[0, best])
        self.observations.add(model, best, confidence, answer, 0.001, 0.0001)

    def scrape(self) -> Samples:
        response = asyncio.run(self.exposition.render())
        assert response.headers["content-type"].startswith("text/plain; version=")
        found: Samples = {}
        for family in text_string_to_metric_families(bytes(response.body).decode()):
            for sample in family.samples:
                labels = tuple(sample.labels[name] for name in ORDER if name in sample.labels)
                assert labels not in found.setdefault(sample.name, {}), "a series is there twice"
                found[sample.name][labels] = sample.value
        return found


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Model]:
    """Makes models of small chips that have a reference of 400 samples."""

    def make(tag: str = TAG, seed: int = 3, **options: Any) -> Model:
        folder = tmp_path_factory.mktemp("model") / "model"
        made = make_bundle(folder, seed=seed, size=16, **({"samples": 400} | options))
        return Model(tag, read_bundle(made))

    return make


@pytest.fixture(scope="module")
def model(load: Callable[..., Model]) -> Model:
    return load()


@pytest.fixture
def worker(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Worker:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    worker = Worker()
    worker.serving.switch(model)
    return worker


def chip(seed: int) -> np.ndarray[Any, Any]:
    return make_chip(seed, size=16)


def reasons(found: Samples) -> dict[str, str]:
    """Signal -> why it is not judged; and no signal is judged and not judged, or neither."""
    why = {signal: reason for _, signal, reason in labels_of(found, "insufficient")}
    scores = {label[1:] for label in labels_of(found, "score")}
    thresholds = {label[1:] for label in labels_of(found, "threshold")}
    assert scores == thresholds
    judged = {signal for signal, _ in scores}
    assert scores == {(signal, measure) for signal in judged for measure in ("psi", "js")}
    assert judged.isdisjoint(why)
    assert judged | set(why) == SIGNALS
    return why


def labels_of(found: Samples, name: str) -> list[tuple[str, ...]]:
    return sorted(found.get(f"model_drift_{name}", {}))


def drifted(found: Samples) -> set[str]:
    """Signals of which a measure is above its threshold."""
    scores, thresholds = found["model_drift_score"], found["model_drift_threshold"]
    return {label[1] for label, value in scores.items() if value > thresholds[label]}


def test_before_there_is_a_model_the_text_is_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    found = Worker().scrape()
    assert found["model_drift_window_seconds"] == {(): 3600}
    assert "model_predictions_total" not in found


def test_a_lone_process_answers_too(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    worker = Worker()
    worker.serving.switch(model)
    worker.see(chip(0))
    found = worker.scrape()
    assert sum(found["model_predictions_total"].values()) == 1
    assert "model_wanted_mismatch" in found


def test_every_class_band_and_bucket_is_there_before_the_first_prediction(worker: Worker) -> None:
    found = worker.scrape()
    assert found["model_predictions_total"] == {(TAG, name): 0.0 for name in CLASSES}
    columns = {(TAG, band, statistic) for band in BANDS for statistic in STATISTICS}
    assert set(found["model_input_sum"]) == set(found["model_input_count"]) == columns
    assert found["model_inputs_not_finite_total"] == {(TAG,): 0.0}
    for name, bounds in (("confidence", SHARES), ("entropy", SHARES), ("inference", SECONDS)):
        full = f"model_{name}" + ("_seconds" if name == "inference" else "")
        labels = {(TAG, str(bound)) for bound in [*bounds, "+Inf"]}
        assert set(found[f"{full}_bucket"]) == labels
        assert found[f"{full}_count"] == found[f"{full}_sum"] == {(TAG,): 0.0}
    assert found["model_queue_seconds_count"] == {(): 0.0}


def test_the_reference_is_that_of_the_bundle(worker: Worker, model: Model) -> None:
    found = worker.scrape()
    shares = found["model_reference_class_share"]
    assert sum(shares.values()) == pytest.approx(1)
    classes = model.manifest.reference.classes
    assert shares == {(TAG, name): count / 400 for name, count in classes.items()}
    seen = [model.infer(chip(100_000 + i)).probabilities.max() for i in range(400)]
    assert found["model_reference_confidence"][(TAG,)] == pytest.approx(np.mean(seen), abs=0.03)


def test_a_histogram_counts_upwards_to_its_count(worker: Worker) -> None:
    for seed in range(30):
        worker.see(chip(seed))
    found = worker.scrape()
    for name in ("confidence", "entropy", "inference_seconds"):
        buckets = [value for _, value in found[f"model_{name}_bucket"].items()]
        assert buckets == sorted(buckets)
        assert buckets[-1] == found[f"model_{name}_count"][(TAG,)] == 30
    assert found["model_queue_seconds_sum"][()] == pytest.approx(30 * 0.0001)


def test_chips_like_those_of_the_reference_are_judged_and_are_no_drift(worker: Worker) -> None:
    for seed in range(300):
        worker.see(chip(seed))
    found = worker.scrape()
    assert reasons(found) == {}
    assert drifted(found) == set()
    assert set(found["model_drift_samples"].values()) == {300}
    assert "model_drift_insufficient" not in found


def test_darker_chips_are_drift(worker: Worker) -> None:
    for seed in range(300):
        worker.see((chip(seed) * 0.2).astype(np.uint16))
    found = worker.scrape()
    assert reasons(found) == {}
    assert {f"mean/{band}" for band in BANDS} <= drifted(found)


def test_one_band_that_is_dead_is_drift_of_that_band(worker: Worker) -> None:
    for seed in range(300):
        dead = chip(seed)
        dead[1] = 0
        worker.see(dead)
    found = worker.scrape()
    assert reasons(found) == {}
    assert "mean/B03" in drifted(found)
    assert drifted(found).isdisjoint({"mean/B02", "mean/B04", "mean/B08"})


def test_few_chips_are_not_judged(worker: Worker) -> None:
    for seed in range(FEW - 1):
        worker.see(chip(seed))
    found = worker.scrape()
    assert reasons(found) == dict.fromkeys(SIGNALS, "few_samples")
    assert set(found["model_drift_insufficient"].values()) == {1}
    assert "model_drift_score" not in found
    worker.see(chip(FEW))
    assert reasons(worker.scrape()) == {}


@pytest.mark.parametrize("uptime", [10.0, 1e6])
def test_one_image_repeated_is_not_judged(worker: Worker, uptime: float) -> None:
    worker.now = uptime
    for _ in range(300):
        worker.see(chip(1))
    found = worker.scrape()
    assert reasons(found) == dict.fromkeys(SIGNALS, "constant")
    assert set(found["model_drift_samples"].values()) == {300}


def test_statistics_that_are_not_finite_are_counted_and_not_judged(worker: Worker) -> None:
    for seed in range(300):
        answer = worker.serving.model().infer(chip(seed))
        if seed % 10 == 0:
            answer.statistics[0, 0, 0] = np.nan  # mean of B02
        worker.note(answer)
    found = worker.scrape()
    assert reasons(found) == {"mean/B02": "not_finite"}
    assert found["model_inputs_not_finite_total"] == {(TAG,): 30}
    assert found["model_input_count"][(TAG, "B02", "mean")] == 270
    assert np.isfinite(found["model_input_sum"][(TAG, "B02", "mean")])


def test_a_bundle_without_a_reference_is_not_judged(
    worker: Worker, load: Callable[..., Model]
) -> None:
    reference = {"samples": 0, "signals": {}, "classes": {}}
    worker.serving.switch(load("landcover@v3.0.0", samples=0, reference=reference))
    for seed in range(FEW):
        worker.see(chip(seed))
    found = worker.scrape()
    assert reasons(found) == dict.fromkeys(SIGNALS, "no_reference")
    assert "model_reference_class_share" not in found
    assert "model_reference_confidence" not in found
    assert sum(found["model_predictions_total"].values()) == FEW


def test_after_a_swap_the_totals_of_both_are_shown_and_the_drift_of_the_new_one(
    worker: Worker, load: Callable[..., Model]
) -> None:
    for seed in range(300):
        worker.see(chip(seed))
    assert reasons(worker.scrape()) == {}
    worker.serving.switch(load("landcover@v2.0.0", seed=4))
    for seed in range(5):
        worker.see(chip(seed))
    found = worker.scrape()
    by_tag = {TAG: 0.0, "landcover@v2.0.0": 0.0}
    for (tag, _), value in found["model_predictions_total"].items():
        by_tag[tag] += value
    assert by_tag == {TAG: 300, "landcover@v2.0.0": 5}
    assert reasons(found) == dict.fromkeys(SIGNALS, "few_samples")
    assert set(found["model_drift_samples"].values()) == {5}
    for name in ("drift_samples", "drift_insufficient", "reference_class_share"):
        assert {label[0] for label in found[f"model_{name}"]} == {"landcover@v2.0.0"}


def test_two_models_under_one_tag_are_one_series_and_two_windows(
    worker: Worker, load: Callable[..., Model]
) -> None:
    for seed in range(10):
        worker.see(chip(seed))
    worker.serving.switch(load(TAG, seed=4))
    for seed in range(7):
        worker.see(chip(seed))
    found = worker.scrape()
    assert sum(found["model_predictions_total"].values()) == 17
    assert found["model_confidence_count"] == {(TAG,): 17}
    assert set(found["model_drift_samples"].values()) == {7}


def test_a_model_of_other_classes_under_the_same_tag_shows_its_own(
    worker: Worker, load: Callable[..., Model]
) -> None:
    worker.see(chip(0))
    worker.scrape()
    names = [name.upper() for name in CLASSES]
    worker.serving.switch(load(TAG, seed=4, samples=0, classes=names))
    worker.see(chip(1))
    found = worker.scrape()
    assert {label[1] for label in found["model_predictions_total"]} == set(names)
    assert sum(found["model_predictions_total"].values()) == 1
