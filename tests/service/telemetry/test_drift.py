import math

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import jensenshannon

from contracts.bundle import Manifest
from service.inference.bundle import parse_manifest
from service.telemetry import drift
from service.telemetry.drift import Insufficient, Score, Signal, judge, signals
from tests.conftest import ROOT

FEW, FLOOR = 100, 0.2
EDGES = np.linspace(0.0, 1.0, 11)
REFERENCE = Signal("mean/B02", EDGES, np.full(10, 400))


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return parse_manifest((ROOT / "tests" / "bundle" / "model.json").read_bytes())


def window(signal: Signal, values: np.ndarray, few: int = FEW) -> Score | Insufficient:
    bins = signal.bin_of(values)
    counts = np.bincount(bins[bins >= 0], minlength=len(signal.counts))
    finite = values[np.isfinite(values)]
    constant = len(finite) > 0 and bool(finite.min() == finite.max())
    return judge(signal, counts, int((bins < 0).sum()), few, FLOOR, constant)


def score(signal: Signal, values: np.ndarray) -> Score:
    found = window(signal, values)
    assert isinstance(found, Score), found
    return found


def test_every_statistic_of_every_band_the_confidence_and_the_classes_are_signals(
    manifest: Manifest,
) -> None:
    names = [signal.name for signal in signals(manifest)]
    assert names[:4] == ["mean/B02", "mean/B03", "mean/B04", "mean/B08"]
    assert names[-2:] == ["confidence", "classes"]
    assert len(names) == 5 * 4 + 2


def test_the_reference_counted_into_its_own_bins_is_the_reference(manifest: Manifest) -> None:
    found = next(signal for signal in signals(manifest) if signal.name == "mean/B02")
    edges = np.array(manifest.reference.signals["mean/B02"].edges)
    middles = (edges[:-1] + edges[1:]) / 2
    assert found.bin_of(middles).tolist() == list(range(len(middles)))
    assert found.bin_of(edges[:-1]).tolist() == list(range(len(middles)))


def test_values_beyond_the_reference_lie_in_the_outer_bins() -> None:
    assert REFERENCE.bin_of(np.array([-5.0, 0.05, 0.95, 7.0])).tolist() == [0, 0, 9, 9]


def test_values_like_the_reference_are_no_drift() -> None:
    found = score(REFERENCE, np.random.default_rng(1).uniform(size=1_000))
    assert not found.drifted
    assert 0 < found.psi < 0.05 and 0 < found.js < 0.1
    assert found.samples == 1_000


def test_shifted_values_are_a_drift_by_both_measures() -> None:
    found = score(REFERENCE, np.random.default_rng(1).uniform(0.3, 1.3, size=1_000))
    assert found.drifted
    assert found.psi > found.psi_threshold and found.js > found.js_threshold


def test_the_measures_are_those_of_the_books() -> None:
    p, q = np.array([0.1, 0.2, 0.7]), np.array([0.3, 0.3, 0.4])
    assert drift.population_stability_index(p, q) == pytest.approx(
        stats.entropy(p, q) + stats.entropy(q, p)
    )
    assert drift.jensen_shannon_distance(p, q) == pytest.approx(jensenshannon(p, q, base=2))


@pytest.mark.parametrize("degrees", [1, 2, 9, 30])
def test_the_quantile_is_never_too_low(degrees: int) -> None:
    exact = stats.chi2.ppf(1 - drift.CHANCE, degrees)
    assert exact <= drift.chi_squared_quantile(1 - drift.CHANCE, degrees) <= 1.2 * exact


def test_a_small_reference_asks_for_more_than_the_usual_threshold() -> None:
    small = Signal("mean/B02", EDGES, np.full(10, 5))
    found = score(small, np.random.default_rng(2).uniform(size=500))
    assert found.psi_threshold > 0.9
    assert score(REFERENCE, np.random.default_rng(2).uniform(size=5_000)).psi_threshold == FLOOR


def test_a_drift_by_chance_is_rare_with_any_reference() -> None:
    random = np.random.default_rng(3)
    for size in (50, 4_000):
        for _ in range(200):
            reference = Signal("mean/B02", EDGES, random.multinomial(size, np.full(10, 0.1)))
            assert not score(reference, random.uniform(size=200)).drifted


def test_too_few_values_are_insufficient() -> None:
    assert window(REFERENCE, np.full(99, 0.5)) == Insufficient("few_samples", 99)
    assert window(REFERENCE, np.array([]), few=0) == Insufficient("few_samples", 0)


def test_one_value_again_and_again_is_insufficient() -> None:
    assert window(REFERENCE, np.full(500, 7.0)) == Insufficient("constant", 500)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_insufficient(bad: float) -> None:
    values = np.random.default_rng(4).uniform(size=500)
    values[::2] = bad
    assert window(REFERENCE, values) == Insufficient("not_finite", 250)
    assert window(REFERENCE, np.full(500, bad)) == Insufficient("not_finite", 0)


def test_a_single_bad_value_among_many_is_left_out() -> None:
    values = np.random.default_rng(4).uniform(size=1_000)
    values[7] = math.nan
    assert score(REFERENCE, values).samples == 999


def test_a_signal_that_the_bundle_does_not_have_is_insufficient(manifest: Manifest) -> None:
    part = manifest.model_copy(
        update={"reference": manifest.reference.model_copy(update={"signals": {}})}
    )
    found = window(signals(part)[0], np.random.default_rng(5).uniform(size=500))
    assert found == Insufficient("no_reference", 500)


def test_a_constant_signal_that_starts_to_vary_has_drifted(manifest: Manifest) -> None:
    nodata = next(signal for signal in signals(manifest) if signal.name == "nodata/B02")
    values = np.where(np.arange(1_000) % 2, 0.0, 0.3)
    assert score(nodata, values).drifted
    assert window(nodata, np.zeros(1_000)) == Insufficient("constant", 1_000)


def test_a_class_that_vanishes_is_a_drift() -> None:
    classes = Signal("classes", None, np.full(10, 300))
    values = np.random.default_rng(6).integers(0, 10, size=2_000).astype(float)
    assert not score(classes, values).drifted
    assert score(classes, values[values != 4]).drifted


def test_the_mean_of_a_reference_is_that_of_its_bins(manifest: Manifest) -> None:
    assert drift.mean_of(manifest.reference.signals["confidence"]) == pytest.approx(0.856, abs=1e-3)
    assert drift.mean_of(None) is None
