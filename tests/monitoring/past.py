"""An hour that never was: a service with traffic, a swap and a drift, for a real Prometheus.

The instruments are prometheus_client's, with the names and labels that the service exports;
`write` puts what they say every 15 seconds into a file that promtool makes a database of.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary
from prometheus_client.metrics import MetricWrapperBase

STEP, STEPS = 15, 240  # seconds, and how many
OLD, NEW = "landcover@v1.0.0", "landcover@v1.1.0"
SHA = {OLD: "ab" * 32, NEW: "cd" * 32}
BANDS = ("B02", "B03", "B04", "B08")
STATISTICS = ("mean", "std", "nodata", "saturated", "roughness")
CLASSES = (
    "AnnualCrop",
    "Forest",
    "Highway",
    "Industrial",
    "Pasture",
    "Residential",
    "River",
    "$ea",
)
SHARES = tuple(step / 20 for step in range(1, 20))
SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
HTTP = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
SIGNALS = tuple(f"{statistic}/{band}" for statistic in STATISTICS for band in BANDS)


Floats = npt.NDArray[np.float64]


class Past:
    """A service, its pipelines and its alerts, moved on step by step."""

    def __init__(self, now: float) -> None:
        """Make the instruments. The last step is at `now`, in Unix seconds."""
        self.service, self.pushed = CollectorRegistry(), CollectorRegistry()
        self.random = np.random.default_rng(7)
        self.now = now
        self.made: dict[str, MetricWrapperBase] = {}

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        registry = self.pushed if name.startswith(("conveyor", "push")) else self.service
        if name not in self.made:
            self.made[name] = Gauge(name, name, list(labels), registry=registry)
        gauge = self.made[name]
        assert isinstance(gauge, Gauge)
        (gauge.labels(**labels) if labels else gauge).set(value)

    def count(self, name: str, by: float, **labels: str) -> None:
        """Add to a counter; `by` is what is to be expected, 0 and 1 are certain."""
        if name not in self.made:
            self.made[name] = Counter(name, name, list(labels), registry=self.service)
        counter = self.made[name]
        assert isinstance(counter, Counter)
        (counter.labels(**labels) if labels else counter).inc(float(self.random.poisson(by)))

    def see(self, name: str, values: Floats, buckets: tuple[float, ...], **labels: str) -> None:
        """Show values to a histogram, or to a summary where there are no buckets."""
        if name not in self.made:
            words = list(labels)
            self.made[name] = (
                Histogram(name, name, words, registry=self.service, buckets=buckets)
                if buckets
                else Summary(name, name, words, registry=self.service)
            )
        metric = self.made[name]
        bound = metric.labels(**labels) if labels else metric
        assert isinstance(bound, Histogram | Summary)
        for value in values:
            bound.observe(float(value))

    def move(self, step: int) -> None:
        """What happens in one step."""
        part = step / STEPS
        tag = OLD if part < 0.4 else NEW
        drift = max(0.0, part - 0.6) * 2.5
        self._state(tag, step)
        self._answers(tag, drift)
        self._drift(tag, drift)
        self._truth(tag, part)
        self._requests(part)
        self._pipelines(part)

    def _answers(self, tag: str, drift: float) -> None:
        sure = self.random.beta(8 - 5 * min(drift, 1), 1.6, 20)
        self.see("model_confidence", sure, SHARES, tag=tag)
        self.see("model_entropy", 1 - sure**2, SHARES, tag=tag)
        self.see("model_inference_seconds", self.random.gamma(4, 0.0005, 5), SECONDS, tag=tag)
        self.see("model_queue_seconds", self.random.gamma(2, 0.001, 5), SECONDS)
        for place, name in enumerate(CLASSES):
            self.count("model_predictions", 30 / (place + 1), tag=tag, **{"class": name})
        for band in BANDS:
            for statistic in STATISTICS:
                base = {"mean": 1200, "std": 300, "roughness": 90}.get(statistic, 0.01)
                wave = base * (1 + 0.4 * drift + 0.1 * BANDS.index(band))
                values = self.random.normal(wave, wave / 20, 2)
                self.see("model_input", values, (), tag=tag, band=band, statistic=statistic)
        self.count("model_inputs_not_finite", 0.05, tag=tag)

    def _drift(self, tag: str, drift: float) -> None:
        for place, signal in enumerate((*SIGNALS, "confidence", "classes")):
            words = {"tag": tag, "signal": signal}
            if place % 9 == 8:
                self.gauge("model_drift_insufficient", 1, reason="constant", **words)
                self.gauge("model_drift_samples", 40 + place, **words)
                continue
            moved = drift if place % 3 else 0
            score = 0.05 + 0.3 * moved + self.random.uniform(0, 0.03)
            self.gauge("model_drift_score", score, measure="psi", **words)
            self.gauge("model_drift_threshold", 0.2, measure="psi", **words)
            self.gauge("model_drift_samples", 900, **words)
        self.gauge("model_drift_window_seconds", 3600)
        self.gauge("model_reference_confidence", 0.9, tag=tag)
        for place, name in enumerate(CLASSES):
            share = 1 / len(CLASSES) + 0.01 * place
            self.gauge("model_reference_class_share", share, tag=tag, **{"class": name})

    def _truth(self, tag: str, part: float) -> None:
        answers = 60 + 400 * part
        right = 0.93 - max(0.0, part - 0.7) * 0.4
        for end, value in (("", right), ("_low", right - 0.04), ("_high", right + 0.03)):
            self.gauge(f"model_live_accuracy{end}", value, tag=tag)
        self.gauge("model_accuracy_floor", 0.85, tag=tag)
        self.gauge("model_feedback_answers", answers, tag=tag)
        for place, name in enumerate(CLASSES):
            other = CLASSES[(place + 3) % len(CLASSES)]
            for label, share in ((name, 1 / 9), (other, 1 / 90)):
                self.gauge(
                    "model_feedback_confusion",
                    round(answers * share),
                    tag=tag,
                    predicted=name,
                    label=label,
                )
        delays = self.random.gamma(2, 600, 3)
        self.see("model_feedback_delay_seconds", delays, (60, 300, 900, 3600, 14400))
        self.count("feedback_unrecorded", 0.2 * (part > 0.8), reason="disk_full")
        for kind, value in (("uncertain", 120), ("sample", 40)):
            self.gauge("feedback_images", value * part, kind=kind)
        self.gauge("feedback_image_bytes", 3e7 * part)
        self.gauge("feedback_spool_bytes", float(self.random.integers(0, 40000)))

    def _requests(self, part: float) -> None:
        for handler, rate in (("/predict", 120.0), ("/feedback", 6.0), ("/readyz", 2.0)):
            words = {"handler": handler, "method": "POST"}
            self.count("http_requests", rate, status="2xx", **words)
            taken = self.random.gamma(2, 0.006 + 0.01 * part, 12)
            self.see("http_request_duration_seconds", taken, HTTP, **words)
            self.see("http_request_duration_highr_seconds", taken, (*HTTP, 2.5, 10))
            self.see("http_request_size_bytes", np.full(2, 5e5), (), handler=handler)
            self.see("http_response_size_bytes", np.full(2, 6e4), (), handler=handler)
        failing = 0.4 if part > 0.9 else 0.02
        self.count("http_requests", failing, status="5xx", handler="/predict", method="POST")
        self.count("http_requests", 1.5, status="4xx", handler="/predict", method="POST")
        for reason, rate in (("format", 1.0), ("too_large", 0.3)):
            self.count("uploads_refused", rate, reason=reason)

    def _state(self, tag: str, step: int) -> None:
        if step == int(0.4 * STEPS):
            for name, metric in self.made.items():
                if name.startswith(("model_info", "model_drift_", "model_ref")):
                    if metric._labelnames:
                        metric.clear()  # only what serves now has these
        for name in (OLD, tag):  # what was replaced stays, at zero
            self.gauge("model_info", 2 * (name == tag), tag=name, sha256=SHA[name])
        swaps = float(step == int(0.4 * STEPS))
        self.gauge("model_wanted_mismatch", swaps)
        self.count("model_swaps", swaps, result="done", step="switch")
        self.count("process_cpu_seconds", 9)
        self.gauge("process_resident_memory_bytes", 4.1e8 + 1e5 * step)
        self.gauge("process_open_fds", 60 + step % 7)
        self.gauge("process_max_fds", 1024)
        self.gauge("process_start_time_seconds", self.now - STEP * STEPS)
        self.gauge("service_workers", 2)

    def _pipelines(self, part: float) -> None:
        for place, name in enumerate(("request", "main", "retrain")):
            seconds = 340 + 90 * place + 20 * round(3 * part)
            self.gauge("conveyor_pipeline_seconds", seconds, pipeline=name)
        self.gauge("conveyor_training_seconds", 180 + 5 * round(3 * part))
        self.gauge("conveyor_training_epochs", 40)
        self.gauge("conveyor_training_accuracy", 0.95 - 0.01 * round(2 * part))
        finished = self.now - STEP * STEPS * (1 - round(2 * part) / 2) - 60
        self.gauge("conveyor_training_finished_timestamp_seconds", finished)
        self.gauge("push_time_seconds", finished)
        for place, name in enumerate(("BOT_TOKEN", "RELEASE_TOKEN")):
            ends = self.now + 86400 * (20 + 70 * place)
            self.gauge("conveyor_token_expires_timestamp_seconds", ends, token=name)

    def lines(self) -> Iterator[str]:
        """The whole hour in the text format, the oldest first."""
        for step in range(STEPS):
            self.move(step)
            when = self.now - STEP * (STEPS - 1 - step)
            where = {"job": "landcover", "instance": "service:8000"}
            yield from _said(self.service, where, when)
            yield from _said(self.pushed, {"job": "conveyor"}, when)
            yield _line("up", where, 1, when)
            if step > 0.75 * STEPS:
                alert = {"alertname": "ModelDrift", "alertstate": "firing", "severity": "ticket"}
                yield _line("ALERTS", alert, 1, when)


def _said(registry: CollectorRegistry, where: dict[str, str], when: float) -> Iterator[str]:
    for family in registry.collect():
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                yield _line(sample.name, sample.labels | where, sample.value, when)


def _line(name: str, labels: dict[str, str], value: float, when: float) -> str:
    words = ",".join(f'{key}="{text}"' for key, text in labels.items())
    return f"{name}{{{words}}} {value!r} {when:.3f}\n"


def write(folder: Path, now: float) -> None:
    """Make a database of the hour before `now`.

    Raises:
        subprocess.CalledProcessError: promtool refuses it.
    """
    text = folder.with_suffix(".txt")
    with text.open("w", encoding="utf-8") as file:
        file.writelines(Past(now).lines())
        file.write("# EOF\n")
    command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(text), str(folder)]
    subprocess.run(command, check=True, capture_output=True, text=True)
