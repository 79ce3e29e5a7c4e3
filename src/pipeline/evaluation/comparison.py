"""Challenger against champion on the same test chips: a paired bootstrap."""

from typing import NamedTuple

import numpy as np

from pipeline.evaluation.measures import Interval, interval
from pipeline.evaluation.predictions import Prediction


class Comparison(NamedTuple):
    """How much more accurate the challenger is, on chips that neither model was trained on."""

    chips: int
    """In the test split of both."""
    champion: float
    """Accuracy on those chips."""
    challenger: float
    difference: Interval
    """95 % interval of challenger minus champion."""
    fixed: int
    """Chips that only the challenger gets right."""
    broken: int
    """Chips that only the champion gets right."""

    @property
    def is_loss(self) -> bool:
        """The challenger is worse beyond the uncertainty: the whole interval is below zero."""
        return self.difference.high < 0


def compare(
    champion: dict[str, Prediction], challenger: dict[str, Prediction], samples: int
) -> Comparison | None:
    """Compare two models; None when they share no test chip.

    Pairing matters: most chips are answered alike by both, so the difference is known far better
    than either accuracy.
    """
    shared = sorted(champion.keys() & challenger.keys())
    if not shared:
        return None
    # The label of today counts for both: a corrected label is a better judge.
    labels = [challenger[chip].label for chip in shared]
    old = np.array([champion[c].predicted == y for c, y in zip(shared, labels, strict=True)], float)
    new = np.array(
        [challenger[c].predicted == y for c, y in zip(shared, labels, strict=True)], float
    )
    return Comparison(
        chips=len(shared),
        champion=float(old.mean()),
        challenger=float(new.mean()),
        difference=interval(new - old, samples),
        fixed=int(((new - old) > 0).sum()),
        broken=int(((new - old) < 0).sum()),
    )
