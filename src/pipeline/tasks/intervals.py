"""How sure a mean is: bootstrap intervals."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Interval(NamedTuple):
    """A 95 % interval."""

    low: float
    high: float


def interval(values: npt.NDArray[np.float64], samples: int, seed: int = 0) -> Interval:
    """95 % percentile-bootstrap interval of the mean of `values` (N,) (Efron & Tibshirani 1993)."""
    if np.ptp(values) == 0:  # nothing to resample: every resample is the same
        return Interval(float(values[0]), float(values[0]))
    from scipy.stats import bootstrap  # a second to import; many commands never come here

    found = bootstrap(
        (values,),
        np.mean,
        n_resamples=samples,
        batch=100,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(found.low), float(found.high))
