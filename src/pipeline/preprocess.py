"""Stage: arrays of all chips -> arrays of each split, and the statistics of the training split.

Reads:
    artifacts/raw/                        the output of load
    params.yaml                           the section preprocess

Writes, in artifacts/chips/:
    train.npy, validation.npy, test.npy   (N, bands, height, width), dtype of the data set
    train-labels.npy, ...                 of data with label maps or boxes, as load has them
    manifest.csv                          as of load, with the split and the row in its file
    statistics.json                       mean and standard deviation of each band over the
                                          training split, in digital numbers
    dataset.json                          the bands and classes
"""

import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.bundle import NODATA
from pipeline import paths
from pipeline.arguments import parse_none
from pipeline.data.chip_table import CHIP_TABLE, Row, read_chip_table, write_chip_table
from pipeline.data.dataset import SPLITS, Dataset, at_a_time
from pipeline.data.split import assign
from pipeline.errors import command
from pipeline.files import ArrayWriter, replacing, write_json
from pipeline.params import Preprocess, read_params
from pipeline.progress import track

BATCH = 256  # chips that are in memory at a time, of at most 128 px


@command
def main(arguments: Sequence[str] = ()) -> None:
    """Split `artifacts/raw/` into `artifacts/chips/`."""
    parse_none("preprocess", __doc__, arguments)
    params = read_params().preprocess
    dataset = Dataset.read(paths.RAW)
    chips = np.load(paths.RAW / "chips.npy", mmap_mode="r")
    before = read_chip_table(paths.RAW / CHIP_TABLE)
    with replacing(paths.CHIPS) as folder:
        if dataset.labels == "maps":
            rows = _split_maps(before, dataset, params, folder)
        elif dataset.has_objects:
            rows = _split_boxes(before, dataset, params, folder)
        else:
            rows = assign(before, dataset.classes, params)
        manifest: list[Row] = []
        for split in SPLITS:
            chosen = [row for row in rows if row.split == split]
            _copy(chips, [row.row for row in chosen], folder / f"{split}.npy")
            manifest += [row._replace(row=index) for index, row in enumerate(chosen)]
        train = np.load(folder / "train.npy", mmap_mode="r")
        mean, deviation = band_statistics(train, dataset.nodata)
        write_json(folder / "statistics.json", {"mean": mean, "std": deviation})
        write_chip_table(folder / CHIP_TABLE, manifest)
        dataset.write(folder)
    counts = Counter(row.split for row in rows)
    sizes = ", ".join(f"{counts[split]} {split}" for split in SPLITS)
    left_out = len(before) - len({row.row for row in rows})
    what = "chips without labels" if dataset.labels == "maps" else "copies"
    print(f"preprocess: {sizes}; {left_out} {what} left out")


def _split_maps(before: list[Row], dataset: Dataset, params: Preprocess, folder: Path) -> list[Row]:
    """Write the labels of each split; a chip whose pixels belong to several stands in each."""
    from pipeline.data import blocks

    labels = np.load(paths.RAW / "labels.npy", mmap_mode="r")
    rows: list[Row] = []
    with ExitStack() as stack:
        files = [
            ArrayWriter(folder / f"{split}-labels.npy", labels.shape[1:], "uint8")
            for split in SPLITS
        ]
        writers = [stack.enter_context(file) for file in files]
        for row, ranks in blocks.assign(before, labels, dataset, params):
            for rank, split in enumerate(SPLITS):
                of_split = np.where(ranks == rank, labels[row.row], np.uint8(NODATA))
                if (of_split != NODATA).any():
                    writers[rank].append(of_split[None])
                    rows.append(row._replace(split=split))
    return rows


def _split_boxes(
    before: list[Row], dataset: Dataset, params: Preprocess, folder: Path
) -> list[Row]:
    """Write the boxes of each split."""
    from pipeline.data import groups

    labels = np.load(paths.RAW / "labels.npy", mmap_mode="r")
    rows = groups.assign(before, labels, dataset, params)
    for split in SPLITS:
        with ArrayWriter(folder / f"{split}-labels.npy", labels.shape[1:], "float32") as writer:
            writer.append(labels[[row.row for row in rows if row.split == split]])
    return rows


def _copy(chips: npt.NDArray[Any], rows: Sequence[int], target: Path) -> None:
    with ArrayWriter(target, chips.shape[1:], chips.dtype) as writer:
        step = at_a_time(BATCH, chips.shape[-1])
        starts = range(0, len(rows), step)
        for start in track(starts, target.stem, len(starts)):
            writer.append(chips[rows[start : start + step]])


def band_statistics(chips: npt.NDArray[Any], nodata: int | None) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each band, digital numbers, over pixels that hold data.

    Args:
        chips: (N, bands, height, width).
        nodata: value of a pixel without data, if there is one.
    """
    bands = chips.shape[1]
    count, total, squares = (np.zeros(bands) for _ in range(3))
    step = at_a_time(BATCH, chips.shape[-1])
    for start in range(0, len(chips), step):
        batch = chips[start : start + step].astype(np.float64)
        valid = np.ones(batch.shape, bool) if nodata is None else batch != nodata
        count += valid.sum(axis=(0, 2, 3))
        total += batch.sum(axis=(0, 2, 3), where=valid)
        squares += np.square(batch).sum(axis=(0, 2, 3), where=valid)
    count = np.maximum(count, 1)
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
    # A band that never changes tells nothing; dividing by 1 keeps it harmless.
    deviation[deviation == 0] = 1
    return mean.tolist(), deviation.tolist()


if __name__ == "__main__":
    main(sys.argv[1:])
