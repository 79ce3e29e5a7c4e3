"""Drift: compares the live inputs and predictions with those that the model was tested on.

The bundle carries a histogram of every signal on unseen chips: each statistic of each band, the
confidence, the mix of classes. A window of live values is counted into the same bins, and two
measures compare the shares p (live) and q (reference):

    psi   population stability index, sum of (p - q) ln(p / q), 0 to infinity (Siddiqi 2006, ch. 10)
    js    Jensen-Shannon distance, square root of the divergence in bits, 0 to 1 (Endres and
          Schindelin 2003, IEEE Trans. Inf. Theory 49, 7)

The usual threshold of 0.2 does not suffice: with few samples, or a small reference, the index is
larger by chance. Without drift it is distributed like (1/N + 1/M) chi-squared with K - 1 degrees of
freedom (Yurdakul 2018, Statistical properties of the population stability index). So the threshold
is the larger of two: a floor below which drift does not matter, and a quantile that chance rarely
exceeds.

Without enough data the result is `Insufficient`, with the reason: never a drift, and never a zero.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from contracts.bundle import Histogram, Manifest

CHANCE = 1e-7
"""Chance of a signal in a window to exceed its threshold without drift: with twenty signals and a
hundred independent windows a day stay below 1 % a day (docs/benchmarks.md has the simulation)."""
SMOOTHING = (
    0.5  # added to each count: an empty bin does not prove a share of zero (Jeffreys' prior)
)
NOT_FINITE = 0.01  # share of values that may be NaN or infinite
BITS = 8 * math.log(2)  # psi / (js squared) for small differences: both measure (p - q)^2 / q

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Score(NamedTuple):
    """Distances of a window from the reference, and their thresholds."""

    psi: float
    js: float
    psi_threshold: float
    js_threshold: float
    samples: int

    @property
    def drifted(self) -> bool:
        """Whether either measure is above its threshold."""
        return self.psi > self.psi_threshold or self.js > self.js_threshold


class Insufficient(NamedTuple):
    """Why a window has no score: few_samples, not_finite, constant or no_reference."""

    reason: str
    samples: int


class Signal:
    """One signal of the reference: its bins, and how many values of the reference lie in each."""

    def __init__(self, name: str, edges: Floats | None, counts: Counts) -> None:
        """Take K + 1 edges and K counts; without edges the values are the numbers of the bins.

        Edges of no width, those of a signal that was constant, make two bins: the constant, and
        everything else.
        """
        self.name = name
        self._edges = edges
        self._constant = None
        if edges is not None and edges[0] == edges[-1]:
            self._constant = edges[0]
            counts = np.array([counts.sum(), 0], np.int64)
        self.counts = counts  # (K,)

    def bin_of(self, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Return the bins of values (N,); -1 for NaN and infinity. The outer bins are open."""
        values = np.asarray(values, np.float64)
        finite = np.isfinite(values)
        if self._constant is not None:
            bins = (values != self._constant).astype(np.int64)
        elif self._edges is None:
            bins = np.where(finite, values, 0).astype(np.int64)
        else:
            bins = np.searchsorted(self._edges[1:-1], values, side="right")
        return np.where(finite, bins, -1)


def signals(manifest: Manifest) -> list[Signal]:
    """List the signals of a bundle: statistics of the bands, confidence, classes."""
    names = [
        f"{statistic}/{band}" for statistic in manifest.statistics for band in manifest.input.bands
    ]
    found = [_signal(name, manifest.reference.signals.get(name)) for name in names]
    found.append(_signal("confidence", manifest.reference.signals.get("confidence")))
    classes = [manifest.reference.classes.get(name, 0) for name in manifest.classes]
    found.append(Signal("classes", None, np.array(classes, np.int64)))
    return found


def judge(
    signal: Signal, counts: Counts, not_finite: int, few: int, floor: float, constant: bool
) -> Score | Insufficient:
    """Compare a window with the reference.

    Args:
        signal: the reference.
        counts: (K,) live values in each bin.
        not_finite: live values that were NaN or infinite, outside of all bins.
        few: with fewer samples there is no score.
        floor: psi that does not matter, for any number of samples.
        constant: all live values were the same: a stuck camera, or a probe that repeats one image.
    """
    live, reference = int(counts.sum()), int(signal.counts.sum())
    if reference == 0 or len(counts) < 2:
        return Insufficient("no_reference", live)
    if not_finite > NOT_FINITE * (live + not_finite) and live + not_finite >= few:
        return Insufficient("not_finite", live)
    if live < max(few, 1):
        return Insufficient("few_samples", live)
    if constant:
        return Insufficient("constant", live)
    p, q = shares(counts), shares(signal.counts)
    psi_threshold, js_threshold = thresholds(live, reference, len(counts), floor)
    return Score(
        psi=float(population_stability_index(p, q)),
        js=float(jensen_shannon_distance(p, q)),
        psi_threshold=psi_threshold,
        js_threshold=js_threshold,
        samples=live,
    )


def thresholds(live: int, reference: int, bins: int, floor: float) -> tuple[float, float]:
    """Return the thresholds of psi and js: the floor, or the quantile of chance."""
    chance = (1 / live + 1 / reference) * chi_squared_quantile(1 - CHANCE, bins - 1)
    psi = max(floor, chance)
    return psi, math.sqrt(psi / BITS)


def shares(counts: Counts) -> Floats:
    """Counts (..., K) -> shares without zeros."""
    smooth = counts + SMOOTHING
    found: Floats = smooth / smooth.sum(axis=-1, keepdims=True)
    return found


def population_stability_index(p: Floats, q: Floats) -> Floats:
    """Sum of (p - q) ln(p / q) over shares (..., K) without zeros."""
    found: Floats = np.sum((p - q) * np.log(p / q), axis=-1)
    return found


def jensen_shannon_distance(p: Floats, q: Floats) -> Floats:
    """Square root of the Jensen-Shannon divergence in bits, of shares (..., K) without zeros."""
    middle = (p + q) / 2
    divergence = np.sum(p * np.log2(p / middle) + q * np.log2(q / middle), axis=-1) / 2
    found: Floats = np.sqrt(np.maximum(divergence, 0.0))  # rounding can leave less than zero
    return found


def chi_squared_quantile(probability: float, degrees: int) -> float:
    """Quantile of the chi-squared distribution (Wilson and Hilferty 1931, PNAS 17, 12).

    At 1 - 1e-7 the approximation is too high, which is safe: by 19 % with 1 degree of freedom, 3 %
    with 9, 1 % with 30.
    """
    z = NormalDist().inv_cdf(probability)
    step = 2 / (9 * degrees)
    return degrees * (1 - step + z * math.sqrt(step)) ** 3


def mean_of(histogram: Histogram | None) -> float | None:
    """Return the mean of a reference histogram, from the middles of its bins; or None."""
    if histogram is None or not sum(histogram.counts):
        return None
    middles = (np.array(histogram.edges[:-1]) + np.array(histogram.edges[1:])) / 2
    return float(np.average(middles, weights=histogram.counts))


def _signal(name: str, histogram: Histogram | None) -> Signal:
    edges: Sequence[float] = () if histogram is None else histogram.edges
    counts: Sequence[int] = () if histogram is None else histogram.counts
    if len(edges) != len(counts) + 1 or not counts:
        return Signal(name, np.zeros(2), np.zeros(1, np.int64))  # judged as `no_reference`
    return Signal(name, np.array(edges, np.float64), np.array(counts, np.int64))
