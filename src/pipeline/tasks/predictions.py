"""`reports/predictions.csv`: what a model predicted for each test chip.

It is kept in Git. So the gate and the report can compare two models on the very chips that neither
was trained on, at any revision, without a remote and without running the old model again.
"""

import csv
import io
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pipeline.errors import DataError

COLUMNS = ("chip", "label", "predicted", "confidence")


class Prediction(NamedTuple):
    """The prediction for one chip."""

    chip: str
    """First 16 hexadecimal digits of the SHA-256 of its pixels."""
    label: str
    predicted: str
    confidence: float


def rows(predictions: Iterable[Prediction]) -> Iterator[tuple[str, ...]]:
    """The rows of the table, ordered by chip so that versions diff well."""
    for item in sorted(predictions):
        yield item.chip, item.label, item.predicted, f"{item.confidence:.4f}"


def parse_table(text: str, origin: str) -> dict[str, Prediction]:
    """Read the table: chip -> prediction.

    Raises:
        DataError: it is not such a table; `origin` says where it came from.
    """
    try:
        records = [
            Prediction(r["chip"], r["label"], r["predicted"], float(r["confidence"]))
            for r in csv.DictReader(io.StringIO(text))
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{origin} is not a table of predictions ({type(error).__name__}: {error}): "
            f"make it again with `dvc repro evaluate`"
        ) from None
    return {record.chip: record for record in records}
