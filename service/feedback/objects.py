"""What a model found in an image, and what people say is there: by boxes.

A box that was found is right if it overlaps an object of its class that no surer box has taken by
IOU or more (intersection over union), as `pipeline/tasks/matching.py` counts the test images.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from service.errors import Unprocessable
from service.schemas import MOST_OBJECTS

IOU = 0.5
LISTED = 5000  # objects after which a page of predictions ends: a longer one holds others up
NAMED = 20  # classes that a refusal lists

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, pixels from the upper left corner."""


class Object(NamedTuple):
    """An object that is there."""

    class_: int
    """Index of its class."""
    box: Box


class FoundObject(NamedTuple):
    """An object that a model found."""

    class_: int
    box: Box
    score: float


class FoundObjects(NamedTuple):
    """All that a model found in an image of this size, the surest first."""

    height: int
    width: int
    objects: tuple[FoundObject, ...]

    @classmethod
    def of_answer(
        cls, answered: Iterable[Mapping[str, Any]], classes: Sequence[str], size: tuple[int, int]
    ) -> "FoundObjects":
        """Take the field `objects` of an answer, for an image of a height and width."""
        found = [
            FoundObject(classes.index(item["class"]), tuple(item["box"]), item["score"])
            for item in answered
        ]
        return cls(*size, tuple(found[:MOST_OBJECTS]))

    def to_json(self) -> str:
        """Write it as JSON, without names."""
        return json.dumps(self, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "FoundObjects":
        """Read it. Raises ValueError, TypeError."""
        height, width, objects = json.loads(text)
        found = [FoundObject(class_, _box(box), score) for class_, box, score in objects]
        return cls(height, width, tuple(found))


class Verdict(NamedTuple):
    """What was found, against what is there."""

    found: int
    """Objects with a box that is right."""
    missed: int
    """Objects without one."""
    false: int
    """Boxes of nothing."""

    @property
    def correct(self) -> bool:
        """Whether nothing is missed and nothing false."""
        return not (self.missed or self.false)


def compare(found: FoundObjects, true: Sequence[Object]) -> Verdict:
    """Match boxes, the surest first, to objects."""
    overlap = overlaps(found.objects, true)  # (D, N)
    right = 0
    for row in overlap:
        if row.max(initial=0.0) >= IOU:
            right += 1
            overlap[:, row.argmax()] = 0
    return Verdict(right, len(true) - right, len(found.objects) - right)


def overlaps(
    found: Sequence[FoundObject], true: Sequence[Object]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Intersection over union of each of D boxes with each of N objects, (D, N); 0 if of another
    class."""
    one = np.array([item.box for item in found], np.float64).reshape(-1, 1, 4)
    other = np.array([item.box for item in true], np.float64).reshape(1, -1, 4)
    low, high = np.maximum(one, other)[..., :2], np.minimum(one, other)[..., 2:]
    both = np.clip(high - low, 0, None).prod(axis=2)
    areas = sum(np.clip(box[..., 2:] - box[..., :2], 0, None).prod(axis=2) for box in (one, other))
    same = np.equal.outer([item.class_ for item in found], [item.class_ for item in true])
    result: np.ndarray[Any, np.dtype[np.float64]] = same * both / np.maximum(areas - both, 1e-9)
    return result


def check(
    named: Sequence[tuple[str, Box]], classes: Sequence[str], found: FoundObjects
) -> list[Object]:
    """Take what people say is there, in an order of its own.

    Raises:
        Unprocessable: an object is of no class of the model, has no area, is outside of the image
            or is listed twice.
    """
    true: list[Object] = []
    for number, (name, box) in enumerate(named):
        left, top, right, bottom = box
        if name not in classes:
            refusal = no_class(name, classes)
        elif not (left < right and top < bottom):
            refusal = f"the box {list(box)} has no area; give left, top, right, bottom"
        elif left < 0 or top < 0 or right > found.width or bottom > found.height:
            refusal = f"{list(box)} is outside of the image, {found.width} x {found.height} pixels"
        elif (item := Object(classes.index(name), box)) in true:
            refusal = f"it is the same as object {true.index(item)}; list each one once"
        else:
            true.append(item)
            continue
        raise Unprocessable(f"objects: {number}: {refusal}")
    return sorted(true)


def no_class(label: str, classes: Sequence[str]) -> str:
    """Say that a label is no class, and which ones there are."""
    named = ", ".join(classes[:NAMED])
    more = f" and {len(classes) - NAMED} more" if len(classes) > NAMED else ""
    return (
        f"{label[:100]!a} is not a class of the model that predicted; choose one of {named}{more}"
    )


def _box(values: Sequence[float]) -> Box:
    left, top, right, bottom = values
    return left, top, right, bottom
