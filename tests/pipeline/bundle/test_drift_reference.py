"""The reference for drift: bins that say something, whatever the values are."""

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.bundle.drift_reference import histogram

Floats = npt.NDArray[np.float32]


def drawn(*parts: tuple[int, float, float]) -> Floats:
    """Values of the reference: so many, evenly from one number to another."""
    return np.concatenate([np.linspace(low, high, count) for count, low, high in parts]).astype(
        np.float32
    )


def test_values_without_ties_lie_in_ten_bins_of_equal_counts() -> None:
    found = histogram(drawn((1000, 0.1, 0.9)))
    assert found.counts == (100,) * 10
    assert (found.edges[0], found.edges[-1]) == pytest.approx((0.1, 0.9))


def test_a_constant_has_one_bin() -> None:
    assert histogram(np.zeros(50, np.float32)) == histogram(drawn((50, 0, 0)))
    assert histogram(np.zeros(50, np.float32)).counts == (50,)


@pytest.mark.parametrize("others", [1, 5, 200, 2000])
def test_a_value_that_most_chips_have_is_a_bin_of_its_own(others: int) -> None:
    """Without it all of them would share one bin, and no drift could ever be seen."""
    found = histogram(drawn((5000, 0, 0), (others, 0.2, 0.8)))
    assert found.counts[0] == 5000
    assert found.edges[1] < 0.2
    assert sum(found.counts[1:]) == others


@pytest.mark.parametrize("common", [1.0, -3.0, 250.0])
def test_values_on_both_sides_of_the_common_one_are_told_apart(common: float) -> None:
    found = histogram(drawn((40, common - 2, common - 1), (900, common, common), (60, 1e3, 2e3)))
    assert list(found.edges) == sorted(set(found.edges))
    assert found.counts == (40, 900, 60)


def test_the_last_digit_of_the_common_value_does_not_matter() -> None:
    """Another processor rounds a softmax of nearly 1 in another way."""
    found = histogram(drawn((50, 0.3, 0.9), (950, 1, 1)))
    assert found.counts == (50, 950)
    assert found.edges[1] < np.nextafter(np.float32(1), np.float32(0)) < found.edges[2]


def test_the_mean_by_the_bins_is_near_the_mean_of_the_values() -> None:
    values = drawn((50, 0.3, 0.9), (950, 1, 1))
    found = histogram(values)
    middles = (np.array(found.edges[:-1]) + np.array(found.edges[1:])) / 2
    assert np.average(middles, weights=found.counts) == pytest.approx(values.mean(), abs=0.01)
