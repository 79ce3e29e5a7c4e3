"""Stage: raw files -> a few large arrays and a manifest.

Opens and checks every file of `data/`. Files that cannot be used are left out and listed with
their reason; too many of them fail the stage.

Reads:
    data/               one directory a class, or images with label maps or boxes; dataset.json
    params.yaml         the section load

Writes, in artifacts/raw/:
    chips.npy           (N, bands, height, width), dtype of the data set; made to be memory-mapped
    labels.npy          (N, height, width), uint8: of data with label maps; with boxes
                        (N, MOST_OBJECTS, 5), float32: class, left, top, right, bottom; with
                        masks their lines, too (pipeline.data.masks)
    manifest.csv        the usable chips: row in chips.npy, path, label, sha256 of the pixels, crs
                        and centre (x, y in its units)
    dataset.json        the bands and classes
and reports/data.json   counts of chips, and the files that were left out
"""

import multiprocessing
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from contracts.bundle import NODATA
from contracts.images import as_chip
from pipeline import paths
from pipeline.arguments import parse_none
from pipeline.data.chip_table import CHIP_TABLE, Row, write_chip_table
from pipeline.data.dataset import Dataset, at_a_time, image_files, label
from pipeline.data.images import decode, digest, fault
from pipeline.errors import DataError, command
from pipeline.files import ArrayWriter, replacing, write_json
from pipeline.params import read_params
from pipeline.progress import track

BATCH = 128  # files a task of a worker, of at most 128 px
SHOWN_FAULTS = 3


@command
def main(arguments: Sequence[str] = ()) -> None:
    """Load `data/` into `artifacts/raw/` and `reports/data.json`."""
    parse_none("load", __doc__, arguments)
    params = read_params().load
    dataset = Dataset.read(paths.DATA)
    names = list(image_files(paths.DATA))
    if not names:
        raise DataError(
            f"{paths.DATA}/ holds no image: get the data with `dvc pull data.dvc`, "
            f"or bring your own with `python -m pipeline.ingest`"
        )
    with replacing(paths.RAW) as folder:
        if dataset.labels == "maps":
            names, rows, faults, counts = _load_maps(names, dataset, folder)
        elif dataset.has_objects:
            names, rows, faults, counts = _load_boxes(names, dataset, folder)
        else:
            rows, faults = _load(names, dataset, folder / "chips.npy")
            rows = _without_contradictions(rows, faults)
            counts = Counter(row.label for row in rows)
        report = _report(dataset, names, rows, faults, counts)
        write_json(paths.DATA_REPORT, report)
        _check(dataset, counts, faults, len(names), params.max_bad_fraction)
        write_chip_table(folder / CHIP_TABLE, rows)
        dataset.write(folder)
    print(
        f"load: {len(rows)} chips of {len(dataset.classes)} classes, {len(faults)} quarantined, "
        f"{report['duplicates']} duplicates"
    )


def _load_maps(
    names: list[str], dataset: Dataset, folder: Path
) -> tuple[list[str], list[Row], dict[str, str], Counter[str]]:
    """Cut all scenes into chips; return scenes, rows, faults and the pixels of each class."""
    from pipeline.data import maps

    scenes = maps.scenes(names)
    rows: list[Row] = []
    faults: dict[str, str] = {}
    counts: Counter[str] = Counter()
    square = (dataset.size, dataset.size)
    with (
        ArrayWriter(folder / "chips.npy", dataset.shape, dataset.dtype) as chips,
        ArrayWriter(folder / "labels.npy", square, "uint8") as labels,
    ):
        for name in track(scenes, "load", len(scenes)):
            if reason := maps.scene_fault(paths.DATA, name, dataset):
                faults[name] = reason
                continue
            for strip in maps.cut(paths.DATA, name, dataset):
                rows += [row._replace(row=len(rows) + i) for i, row in enumerate(strip.rows)]
                chips.append(strip.chips)
                labels.append(strip.labels)
                values, pixels = np.unique(strip.labels, return_counts=True)
                known = zip(values.tolist(), pixels.tolist(), strict=True)
                counts.update({dataset.classes[v]: n for v, n in known if v != NODATA})
    return scenes, rows, faults, counts


def _load_boxes(
    names: list[str], dataset: Dataset, folder: Path
) -> tuple[list[str], list[Row], dict[str, str], Counter[str]]:
    """Cut all images into chips; return images, rows, faults and the objects of each class."""
    from pipeline.data import boxes

    images = boxes.images(names)
    rows: list[Row] = []
    faults: dict[str, str] = {}
    counts: Counter[str] = Counter()
    with (
        ArrayWriter(folder / "chips.npy", dataset.shape, dataset.dtype) as chips,
        ArrayWriter(folder / "labels.npy", boxes.shape(dataset), "float32") as labels,
    ):
        for name in track(images, "load", len(images)):
            try:
                found = boxes.cut(paths.DATA, name, dataset)
            except DataError as error:
                faults[name] = str(error)
                continue
            rows += [row._replace(row=len(rows) + i) for i, row in enumerate(found.rows)]
            chips.append(found.chips)
            labels.append(found.labels)
            named = found.labels[..., 0]
            counts.update(dataset.classes[int(index)] for index in named[named >= 0])
    return images, rows, faults, counts


class Decoded(NamedTuple):
    """What a worker makes of one file."""

    path: str
    fault: str | None = None
    sha256: str = ""
    crs: str = ""
    centre: tuple[float, float] | None = None


def _load(names: list[str], dataset: Dataset, target: Path) -> tuple[list[Row], dict[str, str]]:
    """Decode all files into `target`; return the rows of the good and the faults of the bad."""
    rows: list[Row] = []
    faults: dict[str, str] = {}
    with ArrayWriter(target, dataset.shape, dataset.dtype) as chips:
        for files, pixels in _decode_all(names, dataset):
            for file in files:
                if file.fault:
                    faults[file.path] = file.fault
                    continue
                rows.append(
                    Row(
                        row=len(rows),
                        path=file.path,
                        label=label(file.path),
                        sha256=file.sha256,
                        crs=file.crs,
                        centre=file.centre,
                    )
                )
            chips.append(pixels)
    return rows, faults


def _decode_all(
    names: list[str], dataset: Dataset
) -> Iterator[tuple[list[Decoded], npt.NDArray[Any]]]:
    """Decode on all cores, in the order of `names`."""
    step = at_a_time(BATCH, dataset.size)
    batches = [names[start : start + step] for start in range(0, len(names), step)]
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as workers:
        results = workers.map(_decode_batch, batches, [dataset] * len(batches))
        yield from track(results, "load", len(batches))


def _decode_batch(names: list[str], dataset: Dataset) -> tuple[list[Decoded], npt.NDArray[Any]]:
    """Decode some files: a record for each, and the pixels of the good ones, (N, B, H, W)."""
    records, arrays = [], []
    for name in names:
        record, pixels = _decode_file(name, dataset)
        records.append(record)
        if pixels is not None:
            arrays.append(pixels)
    if not arrays:
        return records, np.empty((0, *dataset.shape), dataset.dtype)
    return records, np.stack(arrays)


def _decode_file(name: str, dataset: Dataset) -> tuple[Decoded, npt.NDArray[Any] | None]:
    if label(name) not in dataset.classes:
        return Decoded(name, "not in a directory of a class"), None
    try:
        content = (paths.DATA / name).read_bytes()
        chip = decode(name, content)
    except DataError as error:
        return Decoded(name, str(error)), None
    pixels = as_chip(chip.pixels, content, dataset)
    if reason := fault(pixels, dataset):
        return Decoded(name, reason), None
    return Decoded(name, None, digest(pixels), chip.crs, chip.centre), pixels


def _without_contradictions(rows: list[Row], faults: dict[str, str]) -> list[Row]:
    """Quarantine every copy of an image under two labels: nobody knows which is right."""
    copies: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        copies[row.sha256].append(row)
    for same in copies.values():
        if len({row.label for row in same}) > 1:
            for row in same:
                other = next(o for o in same if o.label != row.label)
                faults[row.path] = f"the same image stands under another label as {other.path}"
    return [row for row in rows if row.path not in faults]


def _report(
    dataset: Dataset,
    names: list[str],
    rows: list[Row],
    faults: dict[str, str],
    counts: Counter[str],
) -> dict[str, Any]:
    """Describe the data set and its faults, as `reports/data.json`."""
    return {
        "name": dataset.name,
        "files": len(names),
        "chips": len(rows),
        "duplicates": len(rows) - len({row.sha256 for row in rows}),
        "classes": {
            name: counts[name] for name in dataset.classes
        },  # chips, pixels of maps, or objects
        "bad_fraction": len(faults) / len(names),
        "passed_over": dataset.passed_over,
        "quarantine": [{"path": path, "reason": faults[path]} for path in sorted(faults)],
    }


def _check(
    dataset: Dataset, counts: Counter[str], faults: dict[str, str], files: int, allowed: float
) -> None:
    if not files:
        raise DataError(f"{paths.DATA}/ has no images/<name>: ingest images with maps or boxes")
    if len(faults) > allowed * files:
        worst = "; ".join(f"{path}: {faults[path]}" for path in sorted(faults)[:SHOWN_FAULTS])
        raise DataError(
            f"{len(faults)} of {files} files are bad ({len(faults) / files:.1%}), "
            f"load.max_bad_fraction allows {allowed:.1%}: {worst}; "
            f"all of them stand in {paths.DATA_REPORT}: mend or remove them, or raise the limit"
        )
    unit = {"folders": "chip", "maps": "pixel"}.get(dataset.labels, "object")
    if len(counts) < 2 and not dataset.has_objects:
        raise DataError(
            f"{paths.DATA}/ has {len(counts)} class with usable {unit}s, wanted two or more: "
            f"add images of another class and ingest them"
        )
    if empty := [name for name in dataset.classes if not counts[name]]:
        raise DataError(
            f"no usable {unit} of {', '.join(empty)}: add some, or ingest without the class"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
