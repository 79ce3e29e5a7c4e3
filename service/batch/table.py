"""The table of answers: its columns by task, and Parquet parts that become one file."""

import io
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from contracts.bundle import Manifest
from service.batch.sources import Item
from service.errors import BundleRefused

ROWS = 1 << 16  # of a row group of the finished table
SHOWN = 10  # bad files in the summary


class Columns(NamedTuple):
    """What a task answers, as columns."""

    numbers: tuple[str, ...]
    """Fields of the answer that are one number."""
    mapping: str
    """The field with a number of each class."""
    prefix: str
    """Of its columns."""
    lists: pa.DataType | None = None
    """An object, where an answer has a list of them; its class is then that of the surest one."""


OBJECT = (("class", pa.string()), ("score", pa.float64()), ("box", pa.list_(pa.float64())))
MASK = pa.struct([("size", pa.list_(pa.int64())), ("counts", pa.list_(pa.int64()))])
TASKS = {
    "classification": Columns(("probability",), "probabilities", "probability_"),
    "segmentation": Columns(("confidence", "nodata"), "shares", "share_"),
    "detection": Columns(("threshold",), "counts", "count_", pa.struct(OBJECT)),
    "instances": Columns(
        ("threshold",),
        "counts",
        "count_",
        pa.struct([*OBJECT, ("area", pa.int64()), ("mask", MASK)]),
    ),
}

Row = dict[str, Any] | str
"""Fields of an answer, or why there is none."""


class Summary(NamedTuple):
    """What became of the files."""

    rows: int
    bad: list[tuple[str, str]]
    """Path and reason of the first bad files."""
    reasons: Counter[str]
    """Bad files by their reason."""
    classes: Counter[str]

    @property
    def failed(self) -> int:
        """Files without an answer."""
        return self.reasons.total()


class Layout:
    """The columns of one model."""

    def __init__(self, manifest: Manifest, tag: str) -> None:
        """Lay out the table of a model.

        Raises:
            BundleRefused: the task has no columns yet.
        """
        if manifest.task not in TASKS:
            raise BundleRefused(
                f"a batch has no columns for the task {manifest.task}: use a model of "
                f"{' or '.join(TASKS)}"
            )
        self._columns = TASKS[manifest.task]
        self._classes = manifest.classes
        self._model = (tag, manifest.sha256)
        numbers = [pa.field(name, pa.float64()) for name in self._columns.numbers]
        # As the graph gives them: nothing is rounded.
        each = [pa.field(self._columns.prefix + name, pa.float32()) for name in self._classes]
        of = self._columns.lists
        lists = [pa.field("objects", pa.list_(of))] if of else []
        texts = [pa.field(name, pa.string()) for name in ("model_tag", "model_sha256", "error")]
        start = [pa.field("path", pa.string()), pa.field("class", pa.string())]
        self.schema = pa.schema([*start, *numbers, *each, *lists, *texts])

    def part(self, items: Sequence[Item], rows: Sequence[Row]) -> bytes:
        """Write the rows of some images as Parquet."""
        nothing = dict.fromkeys(("class", *self._columns.numbers)) | {
            self._columns.mapping: dict.fromkeys(self._classes)
        }
        known = [nothing if isinstance(row, str) else row for row in rows]
        each = [row[self._columns.mapping] for row in known]
        count = len(items)
        columns: list[Any] = [[as_text(item.path) for item in items]]
        if self._columns.lists:
            surest: list[dict[str, Any]] = [
                next(iter(row.get("objects") or ()), {}) for row in known
            ]
            columns += [[item.get("class") for item in surest]]
        else:
            columns += [[row["class"] for row in known]]
        columns += [[row[name] for row in known] for name in self._columns.numbers]
        columns += [[numbers[name] for numbers in each] for name in self._classes]
        if self._columns.lists:
            columns += [[row.get("objects") for row in known]]
        columns += [[text] * count for text in self._model]
        columns += [[row if isinstance(row, str) else None for row in rows]]
        arrays = [
            pa.array(values, field.type) for values, field in zip(columns, self.schema, strict=True)
        ]
        content = io.BytesIO()
        table = pa.Table.from_arrays(arrays, schema=self.schema)
        pq.write_table(table, content, compression="none", use_dictionary=["class"])
        return content.getvalue()

    def write(self, parts: Sequence[Path], target: Path) -> Summary:
        """Write parts one after the other into one file, and to the disk.

        Raises:
            OSError: the disk is full, or fails.
        """
        rows, bad = 0, list[tuple[str, str]]()
        reasons, classes = Counter[str](), Counter[str]()
        texts = ["class", "model_tag", "model_sha256", "error"]
        options = {"compression": "zstd", "use_dictionary": texts}
        with target.open("wb") as file:
            with pq.ParquetWriter(file, self.schema, **options) as writer:
                for table in _grouped(parts):
                    writer.write_table(table, ROWS)
                    rows += len(table)
                    failed = table.filter(table["error"].is_valid())
                    reasons.update(failed["error"].to_pylist())
                    first = failed.slice(0, SHOWN - len(bad))
                    bad += zip(first["path"].to_pylist(), first["error"].to_pylist(), strict=True)
                    classes.update(table["class"].drop_null().to_pylist())
            file.flush()
            os.fsync(file.fileno())
        return Summary(rows, bad, reasons, classes)


def is_whole(part: Path, rows: int) -> bool:
    """Whether a part was finished, and is readable."""
    try:
        return bool(pq.read_metadata(part).num_rows == rows)
    except (OSError, pa.ArrowException):
        return False


def as_text(path: str) -> str:
    """A file's name as Unicode: bytes that are none are shown as \\x.."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _grouped(parts: Sequence[Path]) -> Iterator[pa.Table]:
    held: list[pa.Table] = []
    for part in parts:
        held.append(pq.read_table(part, use_threads=False))
        if sum(map(len, held)) >= ROWS:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)
