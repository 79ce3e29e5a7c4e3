"""What a model found in an image, and what people say is there: by boxes.

A box that was found is right if it overlaps an object of its class that no surer box has taken by
IOU or more (intersection over union), as `pipeline/tasks/matching.py` counts the test images.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from service.errors import Unprocessable
from service.schemas import MOST_OBJECTS

IOU = 0.5
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
    free = list(true)
    for item in found.objects:
        same = [one for one in free if one.class_ == item.class_]
        best = max(same, key=lambda one: overlap(one.box, item.box), default=None)
        if best is not None and overlap(best.box, item.box) >= IOU:
            free.remove(best)
    right = len(true) - len(free)
    return Verdict(right, len(free), len(found.objects) - right)


def overlap(one: Box, other: Box) -> float:
    """Intersection over union, 0 to 1."""
    left, top = max(one[0], other[0]), max(one[1], other[1])
    both = _area((left, top, min(one[2], other[2]), min(one[3], other[3])))
    return both / max(_area(one) + _area(other) - both, 1e-9)


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


def _area(box: Box) -> float:
    left, top, right, bottom = box
    return max(0.0, right - left) * max(0.0, bottom - top)
