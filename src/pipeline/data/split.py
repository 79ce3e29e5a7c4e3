"""Which chip goes to training, validation and test.

Chips (or spatial blocks) are ranked by a hash of their content and the seed, and the first ones
are held out. So a chip mostly stays where it is when others are added, and two versions of the
data share most of their test chips: what the gate compares models on.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath

from pipeline.data.chip_table import Row
from pipeline.data.dataset import SPLITS, predefined_split
from pipeline.errors import DataError
from pipeline.params import Preprocess

FEEDBACK = re.compile(r"feedback-[0-9a-f]{16}(?:-([0-9]{14}))?\.npy")
"""Name of a file of `pipeline.sources.feedback`; the last digits are the time of its answer."""


def assign(rows: Sequence[Row], classes: Sequence[str], params: Preprocess) -> list[Row]:
    """Return the rows with their split filled in; copies that would leak are left out.

    Raises:
        DataError: a class has no chip in some split, or the chips lack what the split needs.
    """
    split = "random" if params.split == "auto" else params.split
    rule = {"random": _random, "spatial": _spatial, "predefined": _predefined}[split]
    assigned = without_leaks(rule(rows, params))
    _check_every_class_everywhere(assigned, classes, params)
    return assigned


def _random(rows: Sequence[Row], params: Preprocess) -> list[Row]:
    """Stratify: hold out the same share of every class. Copies of an image stay together."""
    images_of: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        images_of[row.label].add(row.sha256)
    split_of: dict[str, str] = {}
    for images in images_of.values():
        split_of |= hold_out(images, lambda image: 1, params)
    return [row._replace(split=split_of[row.sha256]) for row in rows]


def block(row: Row, size: float) -> str:
    """Name the square of `size` metres that a chip's centre lies in.

    Raises:
        DataError: the chip has no position.
    """
    if row.centre is None:
        raise DataError(
            f"{row.path} has no position, which preprocess.split: spatial needs: "
            f"use GeoTIFFs with a CRS, or set it to random"
        )
    x, y = row.centre
    return f"{row.crs} {x // size:.0f} {y // size:.0f}"


def _spatial(rows: Sequence[Row], params: Preprocess) -> list[Row]:
    """Hold out whole blocks: a test chip beside a training chip looks like it, and flatters.

    Images of feedback have no position, as nobody said where they were taken, and go to training:
    a held-out chip without a block would flatter unseen. Copies of held-out chips are left out of
    training afterwards, as ever.
    """
    placed = [row for row in rows if not only_trains(row)]
    blocks = {row.path: block(row, params.block_size) for row in placed}
    chips_in = Counter(blocks.values())
    split_of = hold_out(chips_in, chips_in.__getitem__, params)
    return [
        row._replace(split=split_of[blocks[row.path]] if row.path in blocks else "train")
        for row in rows
    ]


def only_trains(row: Row) -> bool:
    """Whether a chip is an image of feedback, of which nobody said where it was taken."""
    return row.centre is None and bool(FEEDBACK.fullmatch(PurePosixPath(row.path).name))


def _predefined(rows: Sequence[Row], params: Preprocess) -> list[Row]:
    for row in rows:
        if not predefined_split(row.path):
            raise DataError(
                f"data/{row.path} is in no split, which preprocess.split: predefined needs: "
                f"ingest folders {', '.join(SPLITS)} with the classes below, or set it to random"
            )
    return [row._replace(split=predefined_split(row.path)) for row in rows]


def hold_out(
    groups: Iterable[str], weight: Callable[[str], int], params: Preprocess
) -> dict[str, str]:
    """Assign groups of chips in the order of their hash: test, then validation, then train."""
    order = in_order(groups, params)
    total = sum(weight(group) for group in order)
    test = max(1, round(params.test_fraction * total))
    held_out = test + max(1, round(params.validation_fraction * total))
    split_of, taken = {}, 0
    for group in order:
        split_of[group] = "test" if taken < test else "validation" if taken < held_out else "train"
        taken += weight(group)
    return split_of


def in_order(groups: Iterable[str], params: Preprocess) -> list[str]:
    """Groups by the hash of their name and the seed."""
    return sorted(
        groups, key=lambda group: hashlib.sha256(f"{params.seed} {group}".encode()).digest()
    )


def without_leaks(rows: list[Row]) -> list[Row]:
    """Keep of an image in several splits only the copies in the one that is held out furthest."""
    rank = {split: index for index, split in enumerate(SPLITS)}
    furthest: dict[str, int] = defaultdict(int)
    for row in rows:
        furthest[row.sha256] = max(furthest[row.sha256], rank[row.split])
    return [row for row in rows if rank[row.split] == furthest[row.sha256]]


def _check_every_class_everywhere(
    rows: list[Row], classes: Sequence[str], params: Preprocess
) -> None:
    counts = Counter((row.label, row.split) for row in rows)
    for name in classes:
        missing = [split for split in SPLITS if not counts[name, split]]
        if missing:
            have = sum(counts[name, split] for split in SPLITS)
            cure = {
                "auto": "add images of it; three different ones is the least",
                "random": "add images of it; three different ones is the least",
                "spatial": "use a smaller preprocess.block_size or another preprocess.seed",
                "predefined": "add some to that folder",
            }[params.split]
            raise DataError(
                f"class {name} ({have} chips) has none in {' and '.join(missing)}: {cure}"
            )
