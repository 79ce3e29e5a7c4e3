"""What watching the model costs a request.

    python -m benchmarks.observing

`add` is what a request waits for; `flush` is what counting costs, divided by the requests that are
counted at once; `before` are the four observations of prometheus_client (a counter and three
histograms in multiprocess mode) that a request made earlier; `record` is what feedback adds: one
write to a file, with the chip where that is kept. They take turns on the bundle in `model/`.
"""

import os
import statistics
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterable
from pathlib import Path

FOLDER = tempfile.TemporaryDirectory(prefix="conveyor-observing-")
# Before prometheus_client is imported: it decides then where values live.
os.environ["PROMETHEUS_MULTIPROC_DIR"] = FOLDER.name

import numpy as np  # noqa: E402
from prometheus_client import CollectorRegistry, Counter, Histogram  # noqa: E402

from benchmarks import machine  # noqa: E402
from service.feedback.journal import Journal  # noqa: E402
from service.feedback.recorder import JournalRecorder  # noqa: E402
from service.inference.bundle import decode_chip, read_bundle  # noqa: E402
from service.inference.model import Model, Serving  # noqa: E402
from service.telemetry.counters import SECONDS, SHARES  # noqa: E402
from service.telemetry.metrics import use_slot  # noqa: E402
from service.telemetry.observations import BUFFERED, Observations  # noqa: E402

REQUESTS = BUFFERED - 1  # of a turn: they are in the buffer and not counted yet
TURNS = 20  # a round
BATCHES = (1, 16, REQUESTS)  # requests that are counted at once

Act = Callable[[], object]


def main() -> None:
    """Measure and print."""
    parser = ArgumentParser(prog="python -m benchmarks.observing", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="of each (default: 7)")
    parser.add_argument("--bundle", type=Path, default=Path("model"))
    options = parser.parse_args()
    use_slot(0)
    model = Model("local", read_bundle(options.bundle))
    print(f"{machine.line()}; n = {options.rounds} rounds of {TURNS * REQUESTS} requests")
    ways = {**counting(model), "record": recording(model, False)}
    ways["record with the chip"] = recording(model, True)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, turn in ways.items():
            found[name].append(sum(turn() for _ in range(TURNS)) / TURNS * 1e6)
    for name, values in found.items():
        middle, low, high = statistics.median(values), min(values), max(values)
        print(f"{name}: {middle:.3f} us a request ({low:.3f} to {high:.3f})")


def counting(model: Model) -> dict[str, Callable[[], float]]:
    """The ways to count; each gives the seconds of a request, in the mean of a turn."""
    serving = Serving()
    serving.switch(model)
    worker = Observations(serving, 3600)
    golden = decode_chip(model.manifest.golden[0].chip, model.manifest.input)
    answer = model.infer(golden)
    best = int(answer.probabilities[0].argmax())
    sure = float(answer.probabilities[0, best])

    def add() -> None:
        worker.add(model, best, sure, answer, 0.001, 0.0001)

    def adding() -> float:
        seconds = timed([add] * REQUESTS)
        worker.flush()
        return seconds

    def flushing(batch: int) -> float:
        for _ in range(batch):
            add()
        return timed([worker.flush]) / batch

    registry = CollectorRegistry()
    counter = Counter("before", "x", ("tag", "class"), registry=registry).labels("local", "x")
    confidence, inference, queue = [
        Histogram(f"before_{name}", "x", ("tag",), buckets=buckets, registry=registry).labels("x")
        for name, buckets in (("share", SHARES), ("inference", SECONDS), ("queue", SECONDS))
    ]

    def before() -> None:
        counter.inc()
        inference.observe(0.001)
        confidence.observe(float(answer.probabilities[0, best]))
        queue.observe(0.0001)

    ways: dict[str, Callable[[], float]] = {"before": lambda: timed([before] * REQUESTS)}
    ways["add"] = adding
    for batch in BATCHES:
        ways[f"flush, {batch} at once"] = lambda batch=batch: flushing(batch)  # type: ignore[misc]
    return ways


def recording(model: Model, keep_images: bool) -> Callable[[], float]:
    """Seconds that a request waits for its prediction to be in a file that is never imported."""
    folder = Path(tempfile.mkdtemp(dir=FOLDER.name))
    journal = Journal(folder, limit=1 << 40)
    recorder = JournalRecorder(journal, lambda reason: None, keep_images, keep_below=1.0)
    chip = np.zeros(model.manifest.input.shape, model.manifest.input.dtype)

    def record() -> None:
        recorder.reset_image_quota()  # so that every chip is kept, not so many a second
        recorder.record("0123456789abcdef", model, 0, 0.5, chip)

    return lambda: timed([record] * REQUESTS)


def timed(acts: Iterable[Act]) -> float:
    """Seconds of an act, in the mean."""
    started, count = time.perf_counter(), 0
    for act in acts:
        act()
        count += 1
    return (time.perf_counter() - started) / count


if __name__ == "__main__":
    main()
