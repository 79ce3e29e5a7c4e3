"""Which image with boxes goes to training, validation and test: by groups that are not divided.

Images of a place, a flight or a patient look alike: a split between them would test on what it has
trained on.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.data.chip_table import Row
from pipeline.data.dataset import SPLITS, Dataset, predefined_split
from pipeline.data.split import in_order, only_trains, without_leaks
from pipeline.errors import DataError
from pipeline.params import Preprocess


def assign(
    rows: Sequence[Row], labels: npt.NDArray[np.float32], dataset: Dataset, params: Preprocess
) -> list[Row]:
    """Return the rows with their split filled in; copies that would leak are left out.

    Raises:
        DataError: a split has no group, or no object of a class.
    """
    rule = {"auto": _by_group, "random": _by_image, "predefined": _predefined}.get(params.split)
    if rule is None:
        raise DataError(
            "preprocess.split: spatial is for chips with a class and for label maps: images with "
            "boxes are split by their group, set it to auto"
        )
    assigned = without_leaks(rule(rows, params))
    for index, name in enumerate(dataset.classes):
        counts = Counter[str]()
        for row in assigned:
            counts[row.split] += int((labels[row.row][:, 0] == index).sum())
        if missing := [split for split in SPLITS if not counts[split]]:
            raise DataError(
                f"class {name} ({counts.total()} objects) has none in {' and '.join(missing)}: use "
                "another preprocess.seed, add images, or ingest without the class"
            )
    return assigned


def _by_group(rows: Sequence[Row], params: Preprocess) -> list[Row]:
    """Hold out whole groups, by the hash of their name: at least one for each split.

    Images of feedback go to training: they may show any of the places.
    """
    placed = [row for row in rows if not only_trains(row)]
    chips_in = Counter(row.label for row in placed)
    if len(chips_in) < len(SPLITS):
        raise DataError(
            f"the images are of {len(chips_in)} groups ({', '.join(sorted(chips_in))}), and "
            f"{', '.join(SPLITS)} need one each: name smaller groups when you ingest (--group), "
            "or set preprocess.split to random or predefined"
        )
    order = in_order(chips_in, params)
    split_of = dict.fromkeys(order, "train")
    for split, share in (
        ("test", params.test_fraction),
        ("validation", params.validation_fraction),
    ):
        left = [group for group in order if split_of[group] == "train"]
        taken, others = 0, 1 + (split == "test")  # groups that the other splits need
        for group in left[: len(left) - others]:
            if taken and taken >= share * len(placed):
                break
            split_of[group] = split
            taken += chips_in[group]
    return [
        row._replace(split="train" if only_trains(row) else split_of[row.label]) for row in rows
    ]


def _by_image(rows: Sequence[Row], params: Preprocess) -> list[Row]:
    """Hold out images, whatever their group: flatters. To compare with."""
    return _by_group([row._replace(label=row.path) for row in rows], params)


def _predefined(rows: Sequence[Row], params: Preprocess) -> list[Row]:
    for row in rows:
        if not predefined_split(row.path):
            raise DataError(
                f"data/{row.path} is in no split, which preprocess.split: predefined needs: ingest "
                f"folders {', '.join(SPLITS)} with images and boxes below, or set it to auto"
            )
    return [row._replace(split=predefined_split(row.path)) for row in rows]
