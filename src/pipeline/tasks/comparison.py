"""Challenger against champion on the same test chips: a paired bootstrap."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from pipeline.tasks.intervals import Interval, interval
from pipeline.tasks.predictions import Prediction


class Comparison(NamedTuple):
    """How much better the challenger is, on what neither model was trained on."""

    chips: int
    """In the test split of both; of label maps they are blocks of ground."""
    champion: float
    """The measure on those chips."""
    challenger: float
    difference: Interval
    """95 % interval of challenger minus champion."""
    fixed: int
    """Chips that the challenger predicts better."""
    broken: int
    """Chips that the champion predicts better."""
    measure: str = "accuracy"
    unit: str = "test chips"

    @property
    def is_loss(self) -> bool:
        """The challenger is worse beyond the uncertainty: the whole interval is below zero."""
        return self.difference.high < 0


def compare_chips(
    champion: Mapping[str, Prediction],
    challenger: Mapping[str, Prediction],
    samples: int,
    credit: Callable[[str, str], float],
) -> Comparison | None:
    """Compare two models; None when they share no test chip.

    Pairing matters: both models predict the same for most chips, so the difference is known far
    better than either accuracy.

    Args:
        credit: value of a prediction for a label, 0..1.
    """
    shared = sorted(champion.keys() & challenger.keys())
    if not shared:
        return None
    # The label of today counts for both: a corrected label is a better judge.
    labels = [challenger[chip].label for chip in shared]
    old, new = (
        np.array([credit(of[c].predicted, label) for c, label in zip(shared, labels, strict=True)])
        for of in (champion, challenger)
    )
    return Comparison(
        chips=len(shared),
        champion=float(old.mean()),
        challenger=float(new.mean()),
        difference=interval(new - old, samples),
        fixed=int(((new - old) > 0).sum()),
        broken=int(((new - old) < 0).sum()),
    )
