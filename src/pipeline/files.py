"""Writing outputs so that a failure leaves the previous ones as they were."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `folder` when the block ends well."""
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        yield fresh
        if folder.exists():
            shutil.rmtree(folder)
        fresh.replace(folder)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a file in one step: readers see the old text or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write JSON, indented, in one step. NaN and infinity are refused: JSON has none."""
    write_text(path, json.dumps(document, indent=2, allow_nan=False) + "\n")


class ArrayWriter:
    """Writes a `.npy` file row by row, without knowing how many there will be.

    Plain writes, no memory map: a full disk is then an `OSError` and not a killed process.
    """

    def __init__(self, path: Path, row_shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self._file: BinaryIO = path.open("wb")
        self._row_shape = row_shape
        self._dtype = np.dtype(dtype)
        self.rows = 0
        self._write_header()

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Append rows, (N, *row_shape)."""
        assert rows.shape[1:] == self._row_shape and rows.dtype == self._dtype
        self._file.write(np.ascontiguousarray(rows).tobytes())
        self.rows += len(rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._file:
            if kind is None:
                # NumPy pads the header so that the first dimension can grow in place.
                self._file.seek(0)
                self._write_header()
                self._file.flush()
                os.fsync(self._file.fileno())

    def _write_header(self) -> None:
        np.lib.format.write_array_header_1_0(
            self._file,
            {
                "descr": np.lib.format.dtype_to_descr(self._dtype),
                "fortran_order": False,
                "shape": (self.rows, *self._row_shape),
            },
        )
