"""What watching the model costs a request.

    python -m benchmarks.observing

`add` is what a request waits for; `flush` is what counting costs, divided by the requests that are
counted at once; `before` are the four observations of prometheus_client (a counter and three
histograms in multiprocess mode) that a request made earlier; `record` is what feedback adds:
nothing without it, one write to a file with it, and the chip where that is kept. They take turns
on the bundle in `model/`, the median of all rounds counts, and the ratio is taken round by round.
`scrape` is the text of `/metrics` for two workers, with and without what the model saw and said.
"""

import asyncio
import os
import statistics
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path

FOLDER = tempfile.TemporaryDirectory(prefix="conveyor-observing-")
# Before prometheus_client is imported: it decides then where values live.
os.environ["PROMETHEUS_MULTIPROC_DIR"] = FOLDER.name

import numpy as np  # noqa: E402
from prometheus_client import CollectorRegistry, Counter, Histogram  # noqa: E402

from benchmarks import machine  # noqa: E402
from service.feedback.journal import Journal  # noqa: E402
from service.feedback.recorder import JournalRecorder, NoRecorder, Recorder  # noqa: E402
from service.inference.bundle import decode_chip, read_bundle  # noqa: E402
from service.inference.tasks import Output  # noqa: E402
from service.inference.model import Model, Serving  # noqa: E402
from service.telemetry.counters import SECONDS, SHARES  # noqa: E402
from service.telemetry.exposition import (  # noqa: E402
    DriftCollector,
    DriftPolicy,
    Exposition,
    TotalsCollector,
)
from service.telemetry.metrics import Metrics, use_slot  # noqa: E402
from service.telemetry.observations import BUFFERED, Observations  # noqa: E402

REQUESTS = 20_000  # a round
RECORDS = 2_000  # a round
SCRAPES = 20  # a round
WORKERS = 2
BATCHES = (1, 16, BUFFERED)  # requests that are counted at once

Note = tuple[Model, int, Output, float, float]


def main() -> None:
    """Measure and print."""
    parser = ArgumentParser(prog="python -m benchmarks.observing", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="of each (default: 7)")
    parser.add_argument("--bundle", type=Path, default=Path("model"))
    options = parser.parse_args()
    use_slot(0)
    model = Model("local", read_bundle(options.bundle))
    serving = Serving()
    serving.switch(model)
    workers = [Observations(serving, 3600) for _ in range(WORKERS)]
    notes = make_notes(model)
    for worker in workers:
        add_all(worker, notes)
        worker.flush()
    print(f"{machine.line()}; n = {options.rounds} rounds of {REQUESTS} requests")
    requests(workers[0], notes, options.rounds)
    scrapes(workers, serving, options.rounds)


def requests(worker: Observations, notes: list[Note], rounds: int) -> None:
    """Compare the ways to count, one after the other in every round."""
    ways: dict[str, Callable[[], float]] = {
        "before": lambda before=Before(notes[0][0]): before.seconds(notes),  # type: ignore[misc]
        "add": lambda: adding(worker, notes),
    }
    for batch in BATCHES:
        name = f"flush, {batch} at once"
        ways[name] = lambda batch=batch: folding(worker, notes, batch)  # type: ignore[misc]
    ways["record, no feedback"] = lambda: recording(notes, NoRecorder())
    ways["record, feedback"] = lambda: recording(notes, spooling(keep_images=False))
    ways["record, feedback and chip"] = lambda: recording(notes, spooling(keep_images=True))
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(way() * 1e6)
    for name, values in found.items():
        low, middle, high = min(values), statistics.median(values), max(values)
        print(f"{name}: {middle:.3f} us a request ({low:.3f} to {high:.3f})")
    whole = [a + b for a, b in zip(found["add"], found[f"flush, {BUFFERED} at once"], strict=True)]
    print_ratio("before / add", found["before"], found["add"])
    print_ratio(f"before / (add + flush, {BUFFERED} at once)", found["before"], whole)


def print_ratio(name: str, above: list[float], below: list[float]) -> None:
    """Print the median of the rounds' ratios, and their range."""
    ratios = sorted(a / b for a, b in zip(above, below, strict=True))
    print(f"{name}: {statistics.median(ratios):.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})")


def make_notes(model: Model) -> list[Note]:
    """As many predictions as are counted at once, on noisy golden chips."""
    generator = np.random.default_rng(0)
    golden = decode_chip(model.manifest.golden[0].chip, model.manifest.input)
    notes = []
    for _ in range(BUFFERED):
        noise = generator.uniform(0.7, 1.3, (len(golden), 1, 1))
        chip = (golden * noise).clip(0, model.manifest.input.valid_max).astype(golden.dtype)
        answer = model.infer(chip)
        seconds = float(generator.uniform(0.0002, 0.002))
        best = int(answer.probabilities[0].argmax())
        notes.append((model, best, answer, seconds, seconds / 10))
    return notes


class Before:
    """The instruments of prometheus_client with bound labels, as requests used them."""

    def __init__(self, model: Model) -> None:
        """Make and bind them."""
        registry = CollectorRegistry()
        counter = Counter("before", "x", ("tag", "class"), registry=registry)
        self._classes = [counter.labels(model.tag, name) for name in model.manifest.classes]
        bounds = {"confidence": SHARES, "inference": SECONDS, "queue": SECONDS}
        histograms = [
            Histogram(f"before_{name}", "x", ("tag",), buckets=it, registry=registry)
            for name, it in bounds.items()
        ]
        self._bound = [histogram.labels(model.tag) for histogram in histograms]

    def seconds(self, notes: list[Note]) -> float:
        """Seconds a request."""
        confidence, inference, queue = self._bound
        started = time.perf_counter()
        for _ in range(REQUESTS // len(notes)):
            for _, best, answer, seconds, waited in notes:
                self._classes[best].inc()
                inference.observe(seconds)
                confidence.observe(float(answer.probabilities[0, best]))
                queue.observe(waited)
        return (time.perf_counter() - started) / (REQUESTS // len(notes) * len(notes))


def add_all(worker: Observations, notes: list[Note]) -> None:
    """Note them, but for one, so that they are not counted yet."""
    for model, best, answer, seconds, waited in notes[:-1]:
        worker.add(model, best, answer, seconds, waited)


def adding(worker: Observations, notes: list[Note]) -> float:
    """Seconds that a request waits for."""
    elapsed = 0.0
    for _ in range(REQUESTS // len(notes)):
        started = time.perf_counter()
        add_all(worker, notes)
        elapsed += time.perf_counter() - started
        worker.flush()
    return elapsed / (REQUESTS // len(notes) * (len(notes) - 1))


def folding(worker: Observations, notes: list[Note], batch: int) -> float:
    """Seconds a request that counting takes, `batch` requests at once."""
    elapsed, batch = 0.0, min(batch, BUFFERED - 1)
    turns = max(1, min(500, REQUESTS // batch))
    for _ in range(turns):
        for note in notes[:batch]:
            worker.add(*note)
        started = time.perf_counter()
        worker.flush()
        elapsed += time.perf_counter() - started
    return elapsed / (turns * batch)


def spooling(keep_images: bool) -> JournalRecorder:
    """A recorder whose files are never imported, in a new folder."""
    journal = Journal(Path(tempfile.mkdtemp(dir=FOLDER.name)), limit=1 << 40)
    return JournalRecorder(journal, lambda reason: None, keep_images, keep_below=1.0)


def recording(notes: list[Note], recorder: Recorder) -> float:
    """Seconds that a request waits for its prediction to be in the file."""
    wanted = notes[0][0].manifest.input
    chip = np.zeros(wanted.shape, wanted.dtype)
    started = time.perf_counter()
    for turn in range(RECORDS):
        model, best, answer, _, _ = notes[turn % len(notes)]
        if isinstance(recorder, JournalRecorder):
            recorder.reset_image_quota()  # so that every chip is kept, not so many a second
        recorder.record("0123456789abcdef", model, best, float(answer.probabilities[0, best]), chip)
    elapsed = time.perf_counter() - started
    for path in Path(FOLDER.name).glob("*/*.spool"):
        path.unlink()
    return elapsed / RECORDS


def scrapes(workers: list[Observations], serving: Serving, rounds: int) -> None:
    """Time the text of `/metrics`, with and without the model's part."""
    worker, metrics = workers[0], Metrics()
    metrics.count_request((30_000, 400), "POST", "/predict", 200, 0.001)
    parts = [TotalsCollector(worker), DriftCollector(worker, serving, DriftPolicy(200, 0.2))]
    expositions = {"scrape": parts, "scrape without the model": []}
    for name, collectors in expositions.items():
        exposition = Exposition(worker, metrics, collectors)
        values = []
        for _ in range(rounds):
            started = time.perf_counter()
            asyncio.run(_ask(exposition))
            values.append((time.perf_counter() - started) / SCRAPES * 1e3)
        low, high = min(values), max(values)
        print(f"{name}: {statistics.median(values):.2f} ms ({low:.2f} to {high:.2f})")


async def _ask(exposition: Exposition) -> None:
    for _ in range(SCRAPES):
        await exposition.render()


if __name__ == "__main__":
    main()
