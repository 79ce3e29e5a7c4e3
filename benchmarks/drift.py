"""How often drift is found where there is none, and how soon where there is: on real EuroSAT.

    make bench-drift EUROSAT=path/to/EuroSAT_RGB.zip

Trains on a part of one half of the archive; the reference of the bundle is another part of it. The
other half is production: drawn from as it is for the false alarms, and shifted for the detection.
Everything is judged by `service.telemetry.drift`, at the service's defaults.
"""

from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from benchmarks import machine
from benchmarks.eurosat import prepare, run
from contracts.bundle import Manifest
from pipeline import paths
from pipeline.bundle.inference import predict, session
from pipeline.data.prepared import Split, read_prepared
from service.inference.bundle import read_bundle
from service.settings import read_settings
from service.telemetry import drift

FOLDER = Path("artifacts/bench/drift")
SETTINGS: dict[str, dict[str, Any]] = {
    "preprocess": {"test_fraction": 0.5, "validation_fraction": 0.2},
    "train": {"epochs": 12},
}
SLICES = 60  # of a window, as in the service: it is judged anew with each
DAYS = 1_000
PACES = (300, 1_000, 10_000)  # images an hour
SMALL = 50  # chips: the reference of the shipped sample
TRIALS = 100
MOST = 5_000  # shifted images of a trial
STEP = 10  # images between two looks

Chips = npt.NDArray[np.uint8]
Bins = list[npt.NDArray[np.int64]]


class Alarms(NamedTuple):
    """Days with at least one alarm."""

    days: int
    of: int
    by: dict[str, int]


def main() -> None:
    """Measure, and print the tables."""
    parser = ArgumentParser(prog="python -m benchmarks.drift", description=__doc__)
    parser.add_argument("--path", type=Path, required=True, help="EuroSAT_RGB.zip, or its folder")
    parser.add_argument("--keep", action="store_true", help="take the model of the last run")
    arguments = parser.parse_args()
    print(machine.line())
    if not arguments.keep:
        train(arguments.path.resolve())
    bundle = read_bundle(FOLDER / paths.MODEL)
    production = read_prepared(FOLDER / paths.CHIPS).split("test")
    settings = read_settings()
    live = Live(bundle.manifest, bundle.graph, settings.drift_samples, settings.drift_floor)
    bins = live.bins(production.chips)
    samples = bundle.manifest.reference.samples
    print(f"\nreference {samples} chips, production {len(production.chips)} chips")
    print("\nFalse alarms: days with one, windows of an hour judged each minute")
    for reference in (samples, SMALL):
        for pace in PACES:
            print(f"  reference {reference}, {pace} images an hour: ", end="", flush=True)
            alarms = live.days(bins, pace, reference)
            print(f"{alarms.days} of {alarms.of} days {alarms.by or ''}", flush=True)
    print("\nImages until the alarm: median, and the most of the trials; largest signal")
    for name, shifted, keep in shifts(production, bundle.manifest):
        shifted_bins = live.bins(shifted) if shifted is not None else bins
        for window in (0, 1_000):
            counts, first = live.detect(bins, shifted_bins, keep, window)
            held = f"window full of {window}" if window else "window empty"
            print(f"  {name}, {held}: {_told(counts)}; {first}", flush=True)


def train(archive: Path) -> None:
    """Run the pipeline on the archive in a folder of its own."""
    prepare(FOLDER, SETTINGS)
    run(FOLDER, "ingest", "eurosat", "--path", str(archive))
    for stage in ("load", "preprocess", "train", "evaluate"):
        run(FOLDER, stage)


class Live:
    """The service's judgement, over many windows at once."""

    def __init__(self, manifest: Manifest, graph: bytes, few: int, floor: float) -> None:
        self.signals = drift.signals(manifest)
        self._manifest, self._few, self._floor = manifest, few, floor
        self._model = session(graph)
        self._random = np.random.default_rng(42)

    def answers(self, chips: Chips) -> dict[str, npt.NDArray[Any]]:
        """Run the model: output -> (N, ...)."""
        return predict(self._model, chips, ("probabilities", "statistics"))

    def bins(self, chips: Chips) -> Bins:
        """Bins (N,) of every signal."""
        answers = self.answers(chips)
        columns = [
            answers["statistics"][:, band, index]
            for index in range(len(self._manifest.statistics))
            for band in range(len(self._manifest.input.bands))
        ]
        probabilities = answers["probabilities"]
        columns += [probabilities.max(axis=1), probabilities.argmax(axis=1)]
        return [signal.bin_of(column) for signal, column in zip(self.signals, columns, strict=True)]

    def days(self, bins: Bins, pace: int, reference: int) -> Alarms:
        """Draw days of production from `bins`, and count those with an alarm.

        A reference smaller than the bundle's is drawn anew each day from the bundle's shares.
        """
        by: dict[str, int] = {}
        alarmed = 0
        for _ in range(DAYS):
            chosen = self._random.integers(len(bins[0]), size=24 * pace)
            slices = np.arange(len(chosen)) * SLICES // pace
            found = [
                signal.name
                for signal, values in zip(self.signals, bins, strict=True)
                if self._alarm(signal, values[chosen], slices, reference)
            ]
            alarmed += bool(found)
            for name in found:
                by[name] = by.get(name, 0) + 1
        return Alarms(alarmed, DAYS, by)

    def _alarm(
        self,
        signal: drift.Signal,
        values: npt.NDArray[np.int64],
        slices: npt.NDArray[np.int64],
        reference: int,
    ) -> bool:
        size = len(signal.counts)
        counts = np.bincount(slices * size + values, minlength=24 * SLICES * size)
        total = np.cumsum(counts.reshape(-1, size), axis=0)
        windows = total[SLICES:] - total[:-SLICES]  # (24 * 60 - 60, K)
        held = signal.counts
        if reference < held.sum():
            held = self._random.multinomial(reference, held / held.sum())
        return bool(self._drifted(windows, held).any())

    def _drifted(
        self, windows: npt.NDArray[np.int64], held: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        """Which windows (..., K) are drifted; those that show one value only are not judged."""
        p, q = drift.shares(windows), drift.shares(held)
        live = windows.sum(axis=-1)
        limits = [
            drift.thresholds(max(int(n), 1), int(held.sum()), len(held), self._floor)
            for n in np.unique(live)
        ]
        psi, js = np.array(limits)[np.searchsorted(np.unique(live), live)].T
        above = (drift.population_stability_index(p, q) > psi) | (
            drift.jensen_shannon_distance(p, q) > js
        )
        judged = (live >= self._few) & ((windows > 0).sum(axis=-1) > 1)
        drifted: npt.NDArray[np.bool_] = above & judged
        return drifted

    def detect(
        self, before: Bins, after: Bins, keep: npt.NDArray[np.bool_] | None, window: int
    ) -> tuple[list[int], str]:
        """Shifted images until an alarm, a number a trial (0: never), and the signal of most.

        The window holds the last `window` images, undrifted ones at first; 0: it is empty, and
        nothing leaves it.
        """
        chosen_from = np.arange(len(after[0])) if keep is None else np.flatnonzero(keep)
        found, names = [], []
        for _ in range(TRIALS):
            old = self._random.integers(len(before[0]), size=window)
            new = self._random.choice(chosen_from, size=MOST)
            first = [
                (self._first(signal, was[old], now[new]), signal.name)
                for signal, was, now in zip(self.signals, before, after, strict=True)
            ]
            soonest = min((item for item in first if item[0]), default=(0, "never"))
            found.append(soonest[0])
            names.append(soonest[1])
        return found, max(set(names), key=names.count)

    def _first(
        self,
        signal: drift.Signal,
        old: npt.NDArray[np.int64],
        new: npt.NDArray[np.int64],
    ) -> int:
        size, steps = len(signal.counts), len(old) // STEP
        hot = np.eye(size, dtype=np.int64)[np.concatenate((old, new))]
        total = np.cumsum(hot.reshape(-1, STEP, size).sum(axis=1), axis=0)
        windows = total[steps:] - (total[: len(total) - steps] if steps else 0)
        above = self._drifted(windows, signal.counts)
        return int(np.argmax(above) + 1) * STEP if above.any() else 0


def shifts(
    production: Split, manifest: Manifest
) -> Iterator[tuple[str, Chips | None, npt.NDArray[np.bool_] | None]]:
    """Name, shifted chips (none: as they are), and which of them occur (none: all)."""
    plain = np.asarray(production.chips)
    yield "brighter by 10 %", _bytes(plain * 1.1), None
    blue = np.array([1.0, 1.0, 1.1])[:, None, None]
    yield "blue band brighter by 10 %", _bytes(plain * blue), None
    yield "blurred, sigma 1 pixel", _bytes(gaussian_filter(plain, (0, 0, 1, 1))), None
    for number, name in enumerate(manifest.classes):
        yield f"without {name}", None, production.labels != number


def _bytes(values: npt.NDArray[Any]) -> Chips:
    clipped: Chips = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return clipped


def _told(counts: list[int]) -> str:
    missed = counts.count(0)
    seen = sorted(count for count in counts if count)
    if not seen:
        return f"never within {MOST} ({len(counts)} trials)"
    tail = f", {missed} of {len(counts)} never within {MOST}" if missed else ""
    return f"{seen[len(seen) // 2]}, {seen[-1]}{tail}"


if __name__ == "__main__":
    main()
