"""What has been seen of every model: predictions, confidence, and drift as one number."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.telemetry import drift
from service.telemetry.counters import CounterLayout
from service.telemetry.exposition import DriftPolicy, by_tag
from service.telemetry.observations import Observations


class Result(NamedTuple):
    """What all workers of this replica have seen of a model."""

    predictions: int
    """Since the service started."""
    confidence: float | None
    """Mean, 0 to 1."""
    drift: float | None
    """Largest distance of the window from the reference over its threshold."""


class Results:
    """Reads the counters of all workers; models that no worker has loaded any more, too."""

    def __init__(self, observations: Observations, policy: DriftPolicy) -> None:
        """Score the counts with a policy."""
        self._observations = observations
        self._policy = policy

    def read(self) -> dict[str, Result]:
        """Return what was seen, by tag: of the last `counters.MODELS` models, and those loaded."""
        found = {}
        for names, record in by_tag(self._observations.totals()):
            count = int(record["predictions"].sum())
            total = float(record["confidence"][0, -1])
            mean = total / count if count else None
            found[names.tag] = Result(count, mean, self._drift(names) if count else None)
        return found

    def _drift(self, names: CounterLayout) -> float | None:
        """None without enough data in the window, or without a reference."""
        window, (few, floor) = self._observations.window_of(names), self._policy
        ratios = []
        for index, (name, counts) in enumerate(names.signals):
            signal = drift.Signal(name, None, np.array(counts, np.int64))
            not_finite = int(window.not_finite[index])
            found = drift.judge(
                signal, window.counts[index], not_finite, few, floor, window.constant
            )
            if isinstance(found, drift.Score):
                ratios += [found.psi / found.psi_threshold, found.js / found.js_threshold]
        return max(ratios, default=None)


class NamedModelsCollector(Collector):
    """Metrics of the models beside the one that serves; their tags are those that are loaded.

    Their drift has a name of its own: alerts, and retraining after them, are about what serves.
    """

    def __init__(self, results: Results, loaded: Callable[[], Mapping[str, int]]) -> None:
        """Take a function that counts the workers that have each tag loaded."""
        self._results = results
        self._loaded = loaded

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics."""
        loaded = self._loaded()
        workers = GaugeMetricFamily(
            "model_loaded", "Workers that have a model loaded for who names it.", labels=("tag",)
        )
        scores = GaugeMetricFamily(
            "model_named_drift_ratio",
            "Largest distance from the reference over its threshold, of a model loaded by name.",
            labels=("tag",),
        )
        for tag, count in loaded.items():
            workers.add_metric((tag,), count)
        for tag, result in self._results.read().items() if loaded else ():
            if tag in loaded and result.drift is not None:
                scores.add_metric((tag,), result.drift)
        yield from (workers, scores)
