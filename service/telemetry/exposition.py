"""`/metrics`: the counts of all workers of this service, in the format of Prometheus."""

import asyncio
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from starlette.responses import Response

from service.inference.model import Model, Serving
from service.telemetry import drift
from service.telemetry.counters import SECONDS, SHARES, CounterLayout, Floats, Record
from service.telemetry.metrics import Metrics
from service.telemetry.observations import Observations


class DriftPolicy(NamedTuple):
    """Limits below which a window is not scored, or does not count as drift."""

    few: int
    """With fewer samples there is no score."""
    floor: float
    """Population stability index below which nothing is drift."""


class TotalsCollector(Collector):
    """Inputs and predictions of every model since the service started, by tag."""

    def __init__(self, observations: Observations) -> None:
        """Export the counts of all workers."""
        self._observations = observations

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics."""
        totals = by_tag(self._observations.totals())
        predictions = CounterMetricFamily(
            "model_predictions", "Predictions by model and class.", labels=("tag", "class")
        )
        inputs = SummaryMetricFamily(
            "model_input", "Statistics of the chips.", labels=("tag", "band", "statistic")
        )
        not_finite = CounterMetricFamily(
            "model_inputs_not_finite",
            "Statistics of the chips that were NaN or infinite.",
            labels=("tag",),
        )
        for names, record in totals:
            tag = names.tag
            for name, value in zip(names.classes, record["predictions"][0].tolist(), strict=True):
                predictions.add_metric((tag, name), value)
            columns = zip(record["counts"][0].tolist(), record["sums"][0].tolist(), strict=True)
            for (band, statistic), (count, total) in zip(names.inputs, columns, strict=True):
                inputs.add_metric((tag, band, statistic), count, total)
            not_finite.add_metric((tag,), float(record["not_finite"][0, 0]))
        yield from (predictions, inputs, not_finite)
        yield _histogram("confidence", "Probability of the predicted class.", totals)
        yield _histogram("entropy", "Entropy of the probabilities over that of a guess.", totals)
        yield _histogram("inference", "Time in the runtime per chip.", totals, "_seconds")
        waiting = HistogramMetricFamily(
            "model_queue_seconds",
            "Time between the end of an upload and the beginning of its inference.",
        )
        _add(waiting, (), SECONDS, self._observations.queue()["queue"][0])
        yield waiting


class DriftCollector(Collector):
    """Drift of the serving model: its window against the reference in its bundle."""

    def __init__(
        self, observations: Observations, serving: Serving, drift_policy: DriftPolicy
    ) -> None:
        """Score the counts of all workers with a policy."""
        self._observations = observations
        self._serving = serving
        self._policy = drift_policy

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics; a signal has a score with its threshold, or a reason without them."""
        model = self._serving.current
        yield GaugeMetricFamily(
            "model_drift_window_seconds",
            "Length of the window in which drift is measured.",
            self._observations.seconds,
        )
        if model is not None:
            yield from _reference(model)
            yield from self._scores(model)

    def _scores(self, model: Model) -> Iterable[Metric]:
        labels = ("tag", "signal", "measure")
        score = GaugeMetricFamily(
            "model_drift_score", "Distance of the window from the reference.", labels=labels
        )
        threshold = GaugeMetricFamily(
            "model_drift_threshold", "Distance above which the signal has drifted.", labels=labels
        )
        samples = GaugeMetricFamily(
            "model_drift_samples", "Predictions in the window.", labels=("tag", "signal")
        )
        insufficient = GaugeMetricFamily(
            "model_drift_insufficient",
            "1 for a signal without a score, with the reason.",
            labels=("tag", "signal", "reason"),
        )
        tag, window, few, floor = model.tag, self._observations.window(model), *self._policy
        for index, signal in enumerate(drift.signals(model.manifest)):
            name, not_finite = signal.name, int(window.not_finite[index])
            found = drift.judge(
                signal, window.counts[index], not_finite, few, floor, window.constant
            )
            samples.add_metric((tag, name), found.samples)
            if isinstance(found, drift.Insufficient):
                insufficient.add_metric((tag, name, found.reason), 1)
                continue
            score.add_metric((tag, name, "psi"), found.psi)
            score.add_metric((tag, name, "js"), found.js)
            threshold.add_metric((tag, name, "psi"), found.psi_threshold)
            threshold.add_metric((tag, name, "js"), found.js_threshold)
        yield from (score, threshold, samples, insufficient)


class Exposition:
    """Renders the response to a scrape."""

    def __init__(
        self, observations: Observations, metrics: Metrics, collectors: Sequence[Collector]
    ) -> None:
        """Render the instruments, then the collectors."""
        self._observations = observations
        self._metrics = metrics
        self._collectors = list(collectors)

    def add(self, collector: Collector) -> None:
        """Render one more, of a room that a service may lack."""
        self._collectors.append(collector)

    async def render(self) -> Response:
        """Flush the buffer of this worker, then render in a thread: requests continue meanwhile."""
        self._observations.flush()
        content = await asyncio.to_thread(generate_latest, self._registry())
        return Response(content, headers={"content-type": CONTENT_TYPE_LATEST})

    def _registry(self) -> CollectorRegistry:
        registry = CollectorRegistry()
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        else:
            registry.register(self._metrics.registry)
        for collector in self._collectors:
            registry.register(collector)
        return registry


def by_tag(totals: list[tuple[CounterLayout, Record]]) -> list[tuple[CounterLayout, Record]]:
    """Merge two models with one tag, as `local` before and after a training, into one series.

    Totals with identical classes and inputs are summed; otherwise only the newest layout is
    exported.
    """
    found: dict[str, tuple[CounterLayout, Record]] = {}
    for names, record in totals:
        if names.tag not in found:
            found[names.tag] = names, record
            continue
        latest, total = found[names.tag]
        if (latest.classes, latest.inputs) == (names.classes, names.inputs):
            for field in record.dtype.names or ():
                total[field] += record[field]
    return list(found.values())


def _reference(model: Model) -> Iterable[Metric]:
    manifest, tag = model.manifest, model.tag
    share = GaugeMetricFamily(
        "model_reference_class_share",
        "Share of the predictions on the unseen chips of the training.",
        labels=("tag", "class"),
    )
    counts = [manifest.reference.classes.get(name, 0) for name in manifest.classes]
    for name, count in zip(manifest.classes, counts, strict=True):
        if total := sum(counts):
            share.add_metric((tag, name), count / total)
    confidence = GaugeMetricFamily(
        "model_reference_confidence",
        "Mean confidence on the unseen chips of the training.",
        labels=("tag",),
    )
    mean = drift.mean_of(manifest.reference.signals.get("confidence"))
    if mean is not None:
        confidence.add_metric((tag,), mean)
    yield from (share, confidence)


def _histogram(
    field: str, documentation: str, totals: list[tuple[CounterLayout, Record]], unit: str = ""
) -> Metric:
    family = HistogramMetricFamily(f"model_{field}{unit}", documentation, labels=("tag",))
    for names, record in totals:
        _add(family, (names.tag,), SECONDS if unit else SHARES, record[field][0])
    return family


def _add(
    family: HistogramMetricFamily,
    labels: tuple[str, ...],
    bounds: tuple[float, ...],
    numbers: Floats,
) -> None:
    """Add a histogram: one count per bucket, the last bucket open, then the sum."""
    names = [*(str(bound) for bound in bounds), "+Inf"]
    counts = np.cumsum(numbers[:-1]).tolist()
    family.add_metric(labels, list(zip(names, counts, strict=True)), float(numbers[-1]))
