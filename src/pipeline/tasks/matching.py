"""Which boxes that were found are right, and what follows: average precision, F1, recall by size.

A box that was found is right if its overlap (intersection over union, IoU) with an object of its
class that no surer box has taken is IOU or more, as in Pascal VOC and COCO at 50 %.

In the shapes below N is a number of images, D that of boxes found in all of them.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.tasks.intervals import Interval

Floats = npt.NDArray[np.floating]
Boxes = npt.NDArray[np.float32]
"""(..., 4): left, top, right, bottom, pixels."""

IOU = 0.5
STEPS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)  # thresholds at which models are compared
RECALLS = np.linspace(0, 1, 101)  # at which COCO samples the precision
NEAR_BEST = 0.98  # of the best F1: thresholds that reach it are as good, and their mean is steadier
SIZES = (("tiny", 8.0), ("small", 16.0), ("medium", 32.0), ("large", np.inf))
"""Name and limit of the square root of the area of a box, pixels."""


class Found(NamedTuple):
    """What was found of one class in one image."""

    objects: int
    """That are there."""
    right: tuple[float, ...]
    """Scores of the boxes that are right."""
    wrong: tuple[float, ...]
    """Scores of the others."""


Scores = Mapping[str, Mapping[str, Found]]
"""Image -> class -> what was found. A class without an object and without a box is left out."""


def overlaps(one: Boxes, other: Boxes) -> Floats:
    """IoU of each box of (n, 4) with each of (m, 4): (n, m)."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    both = np.clip(high - low, 0, None).prod(axis=2)
    areas = [np.clip(b[:, 2:] - b[:, :2], 0, None).prod(axis=1) for b in (one, other)]
    found: Floats = both / np.maximum(areas[0][:, None] + areas[1][None] - both, 1e-9)
    return found


def match(found: Boxes, true: Boxes) -> npt.NDArray[np.int64]:
    """Match boxes of one class, the surest first, to objects: index of the object, or -1, (n,)."""
    return assign(overlaps(found, true))


def assign(overlap: Floats) -> npt.NDArray[np.int64]:
    """As `match`, by how much each overlaps each object, (n, m); this is used up."""
    taken = np.full(len(overlap), -1)
    if not overlap.shape[1]:
        return taken
    for number in range(len(overlap)):
        best = int(overlap[number].argmax())
        if overlap[number, best] >= IOU:
            taken[number] = best
            overlap[:, best] = 0
    return taken


def average_precision(
    scores: Scores, name: str, times: npt.NDArray[np.int64] | None = None
) -> Floats:
    """Average precision of a class, (samples,); NaN where no image has it.

    Args:
        times: (samples, N), how often each image counts; once, if not given.
    """
    images = [of.get(name, Found(0, (), ())) for of in scores.values()]
    if times is None:
        times = np.ones((1, len(images)), np.int64)
    score, right, image = _in_order(images)
    objects = times @ np.array([item.objects for item in images], np.int64)
    result = np.full(len(times), np.nan)
    for sample in np.flatnonzero(objects):
        weight = times[sample, image]
        hits = np.cumsum(weight * right)
        all_boxes = np.maximum(np.cumsum(weight), 1e-9)
        # The precision at a recall is the best one at that recall or a higher one.
        precision = np.maximum.accumulate((hits / all_boxes)[::-1])[::-1]
        place = np.searchsorted(hits / objects[sample], RECALLS - 1e-12)
        result[sample] = np.append(precision, 0.0)[place].mean()
    return result


def _in_order(images: Sequence[Found]) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
    """Scores, whether they are right, and the image of all boxes, (D,), the surest first."""
    score = np.array([s for item in images for s in (*item.right, *item.wrong)])
    right = np.array([r for i in images for r in [1.0] * len(i.right) + [0.0] * len(i.wrong)])
    image = np.array([n for n, i in enumerate(images) for _ in (*i.right, *i.wrong)], np.int64)
    order = np.argsort(-score, kind="stable")
    return score[order], right[order], image[order]


def mean_average_precision(
    scores: Scores, names: Sequence[str], times: npt.NDArray[np.int64] | None = None
) -> Floats:
    """Mean of the average precision of the classes that occur, (samples,); 0 if none does."""
    each = np.stack([average_precision(scores, name, times) for name in names])
    occurs = ~np.isnan(each)
    found: Floats = np.where(occurs, each, 0).sum(axis=0) / np.maximum(occurs.sum(axis=0), 1)
    return found


def resample(images: int, samples: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """How often a bootstrap draws each image, (samples, images) (Efron & Tibshirani 1993)."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(images, np.full(images, 1 / images), samples)


def percentiles(values: Floats) -> Interval:
    """The middle 95 % of bootstrapped values."""
    low, high = np.percentile(values, (2.5, 97.5))
    return Interval(float(low), float(high))


class Counts(NamedTuple):
    """Boxes and objects at one threshold."""

    right: int
    wrong: int
    missed: int

    @property
    def precision(self) -> float:
        """Share of the boxes that are right."""
        return self.right / max(1, self.right + self.wrong)

    @property
    def recall(self) -> float:
        """Share of the objects that are found."""
        return self.right / max(1, self.right + self.missed)

    @property
    def f1(self) -> float:
        """Harmonic mean of both."""
        return 2 * self.right / max(1, 2 * self.right + self.wrong + self.missed)


def count(scores: Scores, threshold: float, name: str = "") -> Counts:
    """Count at a threshold, of one class or of all."""
    some = [item for of in scores.values() for key, item in of.items() if name in ("", key)]
    right = sum(score >= threshold for item in some for score in item.right)
    wrong = sum(score >= threshold for item in some for score in item.wrong)
    return Counts(right, wrong, sum(item.objects for item in some) - right)


def best_threshold(scores: Scores) -> float:
    """The threshold with the best F1; 0.5 where nothing is right at any."""
    steps = np.arange(1, 100) / 100
    reached = np.array([count(scores, float(step)).f1 for step in steps])
    if not reached.any():
        return 0.5
    return round(float(steps[reached >= NEAR_BEST * reached.max()].mean()), 3)


def size_of(boxes: Boxes) -> list[str]:
    """Name of the size of each box (n, 4)."""
    edges = np.sqrt(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1))
    limits = [limit for _, limit in SIZES]
    return [SIZES[place][0] for place in np.searchsorted(limits, edges, side="right")]
