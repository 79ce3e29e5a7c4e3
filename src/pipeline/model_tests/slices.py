"""Parts of the test split: name -> which chips are in it, (N,) bool."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from pipeline.data.dataset import Dataset, at_a_time
from pipeline.data.prepared import Split
from pipeline.errors import ParameterError
from pipeline.model_tests.definition import PATH, Season, Slice

Masks = dict[str, npt.NDArray[np.bool_]]
DATE = re.compile(r"(?<!\d)(?:19|20)\d\d-?(0[1-9]|1[0-2])-?(?:0[1-9]|[12]\d|3[01])(?!\d)")
SEASONS = ("December to February", "March to May", "June to August", "September to November")


class NotApplicable(Exception):
    """These data have no such slices; the message says why."""


def masks(name: str, test: Slice | Season, split: Split, dataset: Dataset) -> Masks:
    """The slices of a test, those of `only` if it names some.

    Raises:
        NotApplicable: the data have nothing of the kind.
        ParameterError: `only` names a slice that is not there, or has no test chip.
    """
    found = RULES[test.by](test, split, dataset)
    for wanted in test.only:
        if wanted not in found:
            raise ParameterError(
                f"{PATH}: tests.{name}.only: {wanted!r} has no test chip, or is no {test.by}: use "
                f"some of {', '.join(found)}"
            )
    return {key: mask for key, mask in found.items() if not test.only or key in test.only}


def _classes(test: Slice | Season, split: Split, dataset: Dataset) -> Masks:
    """Chips that have the class, or an object or a pixel of it."""
    names = split.labels[..., 0] if dataset.has_objects else split.labels
    flat = np.asarray(names).reshape(len(names), -1)
    having = {name: (flat == index).any(axis=1) for index, name in enumerate(dataset.classes)}
    return {name: mask for name, mask in having.items() if mask.any()}


def _groups(test: Slice | Season, split: Split, dataset: Dataset) -> Masks:
    if dataset.labels == "folders":
        raise NotApplicable("images of folders have no group: slice by place")
    return _by_text(row.label if dataset.has_objects else row.path for row in split.rows)


def _places(test: Slice | Season, split: Split, dataset: Dataset) -> Masks:
    assert isinstance(test, Slice)
    if any(row.centre is None for row in split.rows):
        raise NotApplicable("images without a position have no place")
    squares = []
    for row in split.rows:
        x, y = row.centre or (0.0, 0.0)
        squares.append(
            f"{row.crs} {x // test.edge * test.edge:.0f} {y // test.edge * test.edge:.0f}"
        )
    return _by_text(squares)


def _brightness(test: Slice | Season, split: Split, dataset: Dataset) -> Masks:
    assert isinstance(test, Slice)
    step = at_a_time(256, dataset.size)
    parts = (split.chips[n : n + step] for n in range(0, len(split.rows), step))
    means = np.concatenate([part.mean(axis=(1, 2, 3)) for part in parts])
    part_of = np.argsort(np.argsort(means, kind="stable")) * test.parts // len(means)
    names = [f"part {part + 1} of {test.parts}, darkest first" for part in range(test.parts)]
    return {name: part_of == part for part, name in enumerate(names) if (part_of == part).any()}


def _sizes(test: Slice | Season, split: Split, dataset: Dataset) -> Masks:
    if not dataset.has_objects:
        raise NotApplicable("only objects in boxes have a size")
    from pipeline.tasks.matching import SIZES  # of a room that may be deleted

    edges = np.clip(split.labels[..., 3:5] - split.labels[..., 1:3], 0, None).prod(axis=-1) ** 0.5
    largest = np.where(split.labels[..., 0] >= 0, edges, 0).max(axis=1)
    return _by_text(
        next(name for name, limit in SIZES if edge < limit) if edge else "nothing"
        for edge in largest.tolist()
    )


def _dates(test: Slice | Season, split: Split, dataset: Dataset) -> Masks:
    found = [DATE.search(row.path.rpartition("/")[2]) for row in split.rows]
    if not all(found):
        raise NotApplicable("not every image has a date in its name, such as 2025-06-17")
    months = [int(match[1]) for match in found if match]
    if test.by == "month":
        return _by_text(f"month {month:02d}" for month in months)
    return _by_text(SEASONS[month % 12 // 3] for month in months)


def _by_text(names: Iterable[str]) -> Masks:
    rows: dict[str, list[int]] = defaultdict(list)
    count = 0
    for count, name in enumerate(names, 1):
        rows[name].append(count - 1)
    return {name: np.isin(np.arange(count), rows[name]) for name in sorted(rows)}


RULES: dict[str, Callable[[Slice | Season, Split, Dataset], Masks]] = {
    "class": _classes,
    "group": _groups,
    "place": _places,
    "brightness": _brightness,
    "size": _sizes,
    "month": _dates,
    "season": _dates,
}
