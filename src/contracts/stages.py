"""Which commit holds a stage, from the tags that assign it and take it back.

GTO orders by time in whole seconds, so that two assignments within one second may swap. The counter
in a tag's name gives the order here; a tag without one, as a person makes it, counts by its time.
"""

from collections.abc import Iterable
from typing import NamedTuple

from contracts.tags import Assignment


class StageTag(NamedTuple):
    """A tag that assigns the stage, or takes the assignment of its own commit back."""

    assignment: Assignment
    cancels: bool
    commit: str
    when: float
    """Unix time of the tag."""


def in_order(tags: Iterable[StageTag]) -> list[StageTag]:
    """Oldest first: by counter; a tag without one follows the tags that are older than it."""
    tags = list(tags)
    counted = [tag for tag in tags if tag.assignment.counter]
    ordered = sorted(counted, key=lambda tag: (tag.assignment.counter, tag.cancels))
    for tag in sorted(tags, key=lambda tag: (tag.when, tag.cancels)):
        if not tag.assignment.counter:
            earlier = (place for place, it in enumerate(ordered, 1) if it.when <= tag.when)
            ordered.insert(max(earlier, default=0), tag)
    return ordered


def holder(tags: Iterable[StageTag]) -> str | None:
    """The commit that holds a stage after these tags of it; None for none."""
    held: dict[str, None] = {}
    for tag in in_order(tags):
        held.pop(tag.commit, None)
        if not tag.cancels:
            held[tag.commit] = None
    return next(reversed(held), None)
