"""The table of chips that load and preprocess write beside their arrays: one row a chip."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

CHIP_TABLE = "manifest.csv"  # its name in artifacts/raw/ and artifacts/chips/
COLUMNS = ("row", "split", "path", "label", "sha256", "crs", "x", "y")


class Row(NamedTuple):
    """One chip."""

    row: int
    """Its place in the array file: `chips.npy`, or the file of its split."""
    path: str
    """Below `data/`."""
    label: str
    sha256: str
    """Of the pixels."""
    crs: str = ""
    centre: tuple[float, float] | None = None
    """x, y in the units of `crs`."""
    split: str = ""
    """train, validation or test; empty before preprocess."""


def write_chip_table(path: Path, rows: Iterable[Row]) -> None:
    """Write the table as CSV."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            x, y = row.centre if row.centre else ("", "")
            writer.writerow((row.row, row.split, row.path, row.label, row.sha256, row.crs, x, y))


def read_chip_table(path: Path) -> list[Row]:
    """Read the table."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Row(
                row=int(record["row"]),
                path=record["path"],
                label=record["label"],
                sha256=record["sha256"],
                crs=record["crs"],
                centre=(float(record["x"]), float(record["y"])) if record["x"] else None,
                split=record["split"],
            )
            for record in csv.DictReader(file)
        ]
