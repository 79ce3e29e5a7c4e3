"""Live accuracy: predictions compared with the labels of people.

One worker of a replica queries the database every few seconds and writes a snapshot to a file; the
other workers read that file. A scrape never waits for a database.
"""

import math
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from pydantic import TypeAdapter

from service.feedback.recorder import REASONS
from service.files import replace_file
from service.inference.model import Model, Serving

FILE = "live.json"
WINDOW_DAYS = 7  # of labels that count; a constant, so that services can be compared
STALE = 300.0  # seconds; an older snapshot is not shown: the database is unavailable
MODELS = 16  # whose accuracy is exported, besides the one that serves
Z = 1.959964  # quantile of the normal distribution for 95 %, two-sided
DELAYS = (1.0, 10.0, 60.0, 600.0, 3600.0, 21600.0, 86400.0, 604800.0, 2592000.0)  # s, to 30 days


class AccuracySnapshot(NamedTuple):
    """Numbers of one query of the database."""

    cells: list[tuple[str, str, str, int]] = []
    """Tag, predicted class, label, count."""
    floors: dict[str, float] = {}
    images: dict[str, int] = {}
    image_bytes: int = 0
    objects: list[tuple[str, int, int, int, int]] = []
    """Tag, labels, objects found, missed, false boxes."""


SAVED = TypeAdapter(tuple[float, AccuracySnapshot])  # moment in seconds since 1970, numbers


class FeedbackCounters:
    """Counters that each worker keeps for itself."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the instruments."""
        self._unrecorded = Counter(
            "feedback_unrecorded",
            "Predictions that cannot be labelled, because they were not recorded.",
            ("reason",),
            registry=registry,
        )
        for reason in REASONS:
            self._unrecorded.labels(reason)
        self.delay = Histogram(
            "model_feedback_delay_seconds",
            "Time between a prediction and its first label.",
            buckets=DELAYS,
            registry=registry,
        )

    def count_unrecorded(self, reason: str, count: int = 1) -> None:
        """Count lost predictions."""
        self._unrecorded.labels(reason).inc(count)


class AccuracyFile:
    """The file through which the leading worker shares its snapshot with the others."""

    def __init__(self, folder: Path) -> None:
        """Use a file in a folder shared by the workers."""
        self._path = folder / FILE
        self._seen = (0, 0)
        self._moment = 0.0
        self._live = AccuracySnapshot()
        self.journal_bytes = 0

    def write(self, live: AccuracySnapshot) -> None:
        """Publish a snapshot; raises OSError."""
        replace_file(self._path, SAVED.dump_json((time.time(), live)), durable=False)

    def refresh(self) -> None:
        """Read the snapshot if the file has changed."""
        try:
            found = self._path.stat()
            if (found.st_ino, found.st_mtime_ns) == self._seen:
                return
            self._moment, self._live = SAVED.validate_json(self._path.read_bytes())
            self._seen = (found.st_ino, found.st_mtime_ns)
        except (OSError, ValueError):
            return

    def latest(self) -> AccuracySnapshot | None:
        """Return the snapshot; None without one or with a stale one."""
        # A time in the future is stale too: the clock was set back since.
        return self._live if abs(time.time() - self._moment) < STALE else None


class AccuracyCollector(Collector):
    """Exports live accuracy as metrics."""

    def __init__(self, accuracy_file: AccuracyFile, serving: Serving) -> None:
        """Export the snapshot, and the floor of the serving model."""
        self._accuracy_file = accuracy_file
        self._serving = serving

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield all metrics, from memory alone."""
        live = _of_most_labelled(self._accuracy_file.latest(), self._serving.current)
        yield from self._accuracies(live)
        if live is not None:
            yield _confusion(live)
            yield from _objects(live)
            yield from _images(live)
        journal = GaugeMetricFamily(
            "feedback_spool_bytes", "Bytes of predictions that wait for the database."
        )
        journal.add_metric((), self._accuracy_file.journal_bytes)
        yield journal

    def _accuracies(self, live: AccuracySnapshot | None) -> Iterator[GaugeMetricFamily]:
        named = "Share of the labels of the last 7 days that agree with the model"
        shares = [
            GaugeMetricFamily(f"model_live_accuracy{end}", f"{named}{what}.", labels=("tag",))
            for end, what in (
                ("", ""),
                ("_low", ", lower end of its 95 % interval"),
                ("_high", ", upper end of its 95 % interval"),
            )
        ]
        answers = GaugeMetricFamily(
            "model_feedback_answers", "Labels of the last 7 days.", labels=("tag",)
        )
        floors = GaugeMetricFamily(
            "model_accuracy_floor", "Accuracy that the gate required.", labels=("tag",)
        )
        totals: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])  # tag -> right, all
        known = dict(live.floors) if live else {}
        if (model := self._serving.current) is not None:
            known.pop(model.tag, None)
            if (floor := model.manifest.training.min_accuracy) is not None:
                known[model.tag] = floor
            if live is not None:
                totals[model.tag] = [0, 0]
        for tag, predicted, label, times in live.cells if live else ():
            totals[tag][0] += times * (predicted == label)
            totals[tag][1] += times
        of_objects = {tag: labels for tag, labels, *_ in live.objects} if live else {}
        for tag in totals | of_objects:
            right, count = totals.get(tag, (0, 0))
            answers.add_metric((tag,), count + of_objects.get(tag, 0))
            if count:
                values = (right / count, *wilson(right, count))
                for family, value in zip(shares, values, strict=True):
                    family.add_metric((tag,), value)
        for tag, floor in known.items():
            floors.add_metric((tag,), floor)
        yield from (*shares, answers, floors)


def _of_most_labelled(
    live: AccuracySnapshot | None, current: Model | None
) -> AccuracySnapshot | None:
    """Keep the model that serves and the `MODELS` with most labels: requests may name any."""
    if live is None:
        return None
    counts: defaultdict[str, int] = defaultdict(int)
    for tag, _, _, times in live.cells:
        counts[tag] += times
    for tag, labels, *_ in live.objects:
        counts[tag] += labels
    most = sorted(counts, key=lambda tag: counts[tag], reverse=True)[:MODELS]
    kept = {*most, current.tag if current else ""}
    floors = {tag: floor for tag, floor in live.floors.items() if tag in kept}
    cells = [cell for cell in live.cells if cell[0] in kept]
    objects = [sums for sums in live.objects if sums[0] in kept]
    return live._replace(cells=cells, floors=floors, objects=objects)


def wilson(right: int, count: int) -> tuple[float, float]:
    """95 % interval of a share, `count` above 0.

    Source: E. B. Wilson, Probable Inference, the Law of Succession, and Statistical Inference,
    Journal of the American Statistical Association 22 (1927), 209-212.
    """
    share, square = right / count, Z * Z
    centre = (share + square / (2 * count)) / (1 + square / count)
    spread = math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    half = Z * spread / (1 + square / count)
    return max(0.0, centre - half), min(1.0, centre + half)


def _confusion(live: AccuracySnapshot) -> GaugeMetricFamily:
    family = GaugeMetricFamily(
        "model_feedback_confusion",
        "Labels of the last 7 days by predicted class and label.",
        labels=("tag", "predicted", "label"),
    )
    for tag, predicted, label, times in live.cells:
        family.add_metric((tag, predicted, label), times)
    return family


def _objects(live: AccuracySnapshot) -> Iterator[GaugeMetricFamily]:
    """Of models that find objects; without labels of such there are no samples."""
    named = "of the objects that people confirmed in the last 7 days"
    shares = [
        GaugeMetricFamily(f"model_live_{name}", f"{what} {named}.", labels=("tag",))
        for name, what in (
            ("f1", "Harmonic mean of precision and recall"),
            ("precision", "Share of the boxes that are right,"),
            ("recall", "Share that was found"),
        )
    ]
    counts = GaugeMetricFamily(
        "model_feedback_objects",
        "Objects of the last 7 days that were found or missed, and false boxes.",
        labels=("tag", "result"),
    )
    for tag, _, found, missed, false in live.objects:
        for result, count in (("found", found), ("missed", missed), ("false", false)):
            counts.add_metric((tag, result), count)
        wholes = (2 * found + missed + false, found + false, found + missed)
        for family, part, whole in zip(shares, (2 * found, found, found), wholes, strict=True):
            if whole:
                family.add_metric((tag,), part / whole)
    yield from (*shares, counts)


def _images(live: AccuracySnapshot) -> Iterator[GaugeMetricFamily]:
    counts = GaugeMetricFamily("feedback_images", "Stored images.", labels=("kind",))
    for kind, count in live.images.items():
        counts.add_metric((kind,), count)
    size = GaugeMetricFamily("feedback_image_bytes", "Bytes of the stored images.")
    size.add_metric((), live.image_bytes)
    yield from (counts, size)
