"""Observations of predictions: buffered per request, aggregated once a second.

A request extends a flat list with six values, in a fraction of a microsecond:

    buffer  [best, confidence, probabilities, statistics, inference, queue,  best, confidence, ...]
             `---------------------- prediction 0 -----------------------'  `- prediction 1 - ...
             buffer[0::6] are the classes, buffer[4::6] the seconds of inference

Each model has a list of its own. It is flat because a thousand tuples that live on would make the
garbage collector walk (and so unshare) all memory that workers share since the fork. `flush`
aggregates all lists at once, once a second, before each scrape and when one is long, into files
that every worker can read (counters.py). A killed worker loses the observations of its last second,
none that was exported.
"""

import asyncio
import logging
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from service.inference.tasks import Output
from service.inference.model import Model, Serving
from service.telemetry import drift
from service.telemetry.counters import (
    QUEUE,
    SECONDS,
    SHARES,
    SLICES,
    Floats,
    CounterLayout,
    Record,
    SharedCounters,
    Window,
    read_queue,
    read_totals,
    read_window,
)

BUFFERED = 512  # predictions in the buffer; aggregating them takes about a millisecond
FIELDS = 6  # per prediction
PAUSE = 1.0  # seconds between two counts

log = logging.getLogger("service.telemetry.observations")


class Observations:
    """Buffers the predictions of this worker; reads the sums over all workers."""

    def __init__(
        self,
        serving: Serving,
        window: float,
        clock: Callable[[], float] = time.monotonic,
        folder: Path | None = None,
    ) -> None:
        """Look back over `window` seconds, by a monotonic clock that all workers share.

        Without `folder` the files lie with those of the other metrics.
        """
        self.seconds = window
        self._serving = serving
        self._clock = clock
        self._buffer: list[Any] = []
        self._model: Model | None = None  # of everything in the buffer
        self._buffers: dict[Model, list[Any]] = {}
        self._accumulators: dict[Model, _Accumulator] = {}
        self._latest: Model | None = None  # that this worker marked as the latest
        self._queue: SharedCounters | None = None
        self._folder = folder
        self._failing = False

    def add(
        self,
        model: Model,
        best: int,
        confidence: float,
        answer: Output,
        inference: float,
        queue: float,
    ) -> None:
        """Buffer one prediction: `model` gave class `best` to one chip.

        Args:
            model: the model that answered.
            best: index of the class.
            confidence: of the answer, 0 to 1.
            answer: of the graph, for a batch of one.
            inference: seconds in the runtime.
            queue: seconds between the end of the upload and the inference.
        """
        if model is not self._model:
            self._model, self._buffer = model, self._buffers.setdefault(model, [])
        buffer = self._buffer
        shares, statistics = answer.probabilities, answer.statistics
        buffer.extend((best, confidence, shares, statistics, inference, queue))
        if len(buffer) >= BUFFERED * FIELDS:
            self.flush()

    async def flush_periodically(self) -> None:
        """Flush once a second until cancelled."""
        while True:
            await asyncio.sleep(PAUSE)
            self.flush()

    def flush(self) -> None:
        """Aggregate the buffer. Call it on the event loop, where requests are served.

        It never raises: a prediction is right even if it cannot be counted.
        """
        buffers, self._buffers = self._buffers, {}
        self._model, current = None, self._serving.current
        try:
            if current is not None:
                self._mark_latest(current)
            for model, buffer in buffers.items():
                self._count(model, buffer)
            self._failing = False
        except Exception as error:  # a full disk, or a bug; logged once, not every second
            if not self._failing:
                known = isinstance(error, OSError)
                extra = {"detail": str(error)}
                log.error("predictions are not counted", extra=extra, exc_info=not known)
            self._failing = True
        kept = (current, self._serving.previous, *self._serving.beside)
        self._accumulators = {key: it for key, it in self._accumulators.items() if key in kept}

    def totals(self) -> list[tuple[CounterLayout, Record]]:
        """Read the totals of all workers by model; the latest model comes first."""
        return read_totals(self._directory())

    def queue(self) -> Record:
        """Read the totals of the queue, which belong to no model."""
        return read_queue(self._directory())

    def window(self, model: Model) -> Window:
        """Read the window of all workers, in the order of `drift.signals`."""
        return self.window_of(layout_of(model))

    def window_of(self, names: CounterLayout) -> Window:
        """Read the same of a model that this worker need not have."""
        return read_window(self._directory(), names, self._slice_number())

    def _count(self, model: Model, buffer: list[Any]) -> None:
        best, confidence, probabilities, statistics, inference, queue = (
            buffer[field::FIELDS] for field in range(FIELDS)
        )
        answers = Output(np.concatenate(probabilities), np.concatenate(statistics))
        self._accumulator(model).count(
            np.array(best),
            np.array(confidence, np.float64),
            answers,
            np.array(inference),
            self._slice_number(),
        )
        if self._queue is None:
            self._queue = SharedCounters(self._directory(), QUEUE)
        _add_to_histogram(self._queue.totals["queue"], SECONDS, np.array(queue))

    def _mark_latest(self, model: Model) -> None:
        """Mark the serving model as the latest, also after a rollback.

        Its classes are exported from the beginning, as zeros.
        """
        counters = self._accumulator(model).counters
        if model is not self._latest or not counters.described:
            counters.describe()
            self._latest = model

    def _accumulator(self, model: Model) -> "_Accumulator":
        if model not in self._accumulators:
            self._accumulators[model] = _Accumulator(self._directory(), model)
            self._latest = None  # a late prediction of an old model may have become the latest
        return self._accumulators[model]

    def _slice_number(self) -> int:
        """Return the number of the current slice of time; 0 stands for none."""
        return int(self._clock() / self.seconds * SLICES) + 1

    def _directory(self) -> Path:
        """Return the folder of the files, that of the other metrics or a temporary one."""
        if self._folder is None:
            shared = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
            if shared:
                self._folder = Path(shared)
            else:
                self._folder = Path(tempfile.mkdtemp(prefix="conveyor-observations-"))
                weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder


class _Accumulator:
    """Aggregates predictions of one model into this worker's counter file."""

    def __init__(self, folder: Path, model: Model) -> None:
        self.counters = SharedCounters(folder, layout_of(model))
        self._signals = drift.signals(model.manifest)
        columns = {
            f"{statistic}/{band}": i for i, (band, statistic) in enumerate(input_columns(model))
        }
        self._columns = [columns.get(signal.name, -1) for signal in self._signals]  # -1: confidence
        self._ends = np.cumsum(self.counters.names.bins)

    def count(
        self,
        best: npt.NDArray[np.int64],
        confidence: Floats,
        answers: Output,
        inference: Floats,
        number: int,
    ) -> None:
        """Add N predictions, to the totals and to a slice of time."""
        shares = answers.probabilities.astype(np.float64)  # (N, K)
        statistics = answers.statistics.astype(np.float64)  # (N, bands, 5)
        values = np.column_stack([statistics.reshape(len(best), -1), confidence])  # (N, C + 1)
        values[~np.isfinite(values)] = np.nan
        totals = self.counters.totals
        totals["predictions"][0] += np.bincount(best, minlength=shares.shape[1])
        _add_to_histogram(totals["confidence"], SHARES, confidence)
        _add_to_histogram(totals["entropy"], SHARES, entropy(shares))
        _add_to_histogram(totals["inference"], SECONDS, inference)
        finite = np.isfinite(values[:, :-1])  # (N, C)
        totals["sums"][0] += np.nansum(values[:, :-1], axis=0)
        totals["counts"][0] += finite.sum(axis=0)
        totals["not_finite"][0] += (~finite).sum()
        self._count_slice(values, best, self.counters.slice(number))

    def _count_slice(self, values: Floats, best: npt.NDArray[np.int64], record: Record) -> None:
        record["low"][0] = np.fmin(record["low"][0], np.fmin.reduce(values))
        record["high"][0] = np.fmax(record["high"][0], np.fmax.reduce(values))
        found = np.stack(
            [
                signal.bin_of(best if signal.name == "classes" else values[:, column])
                for signal, column in zip(self._signals, self._columns, strict=True)
            ]
        )  # (G, N)
        record["not_finite"][0] += (found < 0).sum(axis=1)
        starts = self._ends - self.counters.names.bins
        found = np.where(found < 0, -1, found + starts[:, None])
        record["bins"][0] += np.bincount(found[found >= 0], minlength=self._ends[-1])


def layout_of(model: Model) -> CounterLayout:
    """Return the layout of the counters of a model."""
    signals = tuple((it.name, tuple(it.counts.tolist())) for it in drift.signals(model.manifest))
    bins = tuple(len(counts) for _, counts in signals)
    inputs = tuple(input_columns(model))
    return CounterLayout(model.tag, model.sha256, model.manifest.classes, inputs, bins, signals)


def input_columns(model: Model) -> list[tuple[str, str]]:
    """Return band and statistic of each column (C,) of the graph's output `statistics`."""
    bands, statistics = model.manifest.input.bands, model.manifest.statistics
    return [(band, statistic) for band in bands for statistic in statistics]


def entropy(shares: Floats) -> Floats:
    """Entropy of probabilities (N, K) over that of a guess: 0 is sure, 1 a guess."""
    logarithms = np.log(np.where(shares > 0, shares, 1.0))
    found: Floats = -(shares * logarithms).sum(axis=1) / np.log(max(2, shares.shape[1]))
    return np.clip(found, 0.0, 1.0)  # rounding can go beyond; NaN stays


def _add_to_histogram(histogram: Floats, bounds: tuple[float, ...], values: Floats) -> None:
    """Add values (N,) to a histogram (1, buckets + 1), its sum at the end. NaN is left out.

    A value on a bound counts below it, as in Prometheus.
    """
    values = values[np.isfinite(values)]
    buckets = np.bincount(np.searchsorted(bounds, values), minlength=len(bounds) + 1)
    histogram[0, :-1] += buckets
    histogram[0, -1] += values.sum()
