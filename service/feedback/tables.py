"""Schema of the database of predictions and labels. Times are microseconds since 1970, UTC.

`migrations/` creates these tables; a test compares the two. `number` only grows, in the order in
which predictions arrive: exports page by it.
"""

from datetime import datetime
from enum import IntEnum

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
)

REVISIONS = ("0001", "0002", "0003")  # known to this code; the last one is current
HEAD = REVISIONS[-1]

MICROSECONDS = 1_000_000

LONG = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers only INTEGER keys by itself

metadata = MetaData(
    naming_convention={
        "ix": "%(table_name)s_%(column_0_name)s",
        "uq": "%(table_name)s_%(column_0_name)s_unique",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "pk": "%(table_name)s_pkey",
    }
)

models = Table(
    "models",
    metadata,
    Column("id", LONG, primary_key=True),
    # SHA-256 of all other columns: a tag can come to name another model.
    Column("digest", String(64), nullable=False, unique=True),
    Column("tag", Text, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("classes", Text, nullable=False),  # JSON, in the order of the model
    Column("floor", Float),  # accuracy that the gate required
    Column("dtype", Text, nullable=False),
    Column("shape", Text, nullable=False),  # JSON: bands, height, width
    sqlite_autoincrement=True,
)

predictions = Table(
    "predictions",
    metadata,
    Column("number", LONG, primary_key=True),
    Column("request_id", String(64), nullable=False, unique=True),
    Column("predicted_at", BigInteger, nullable=False, index=True),
    Column("model", ForeignKey("models.id"), nullable=False),
    Column("predicted", Text, nullable=False),
    Column("probability", Float, nullable=False),
    Column("rule", Text),  # of the traffic, by which the model was chosen
    Column("propensity", Float),  # how likely that choice was
    Column("objects", Text),  # JSON of a FoundObjects; null where the answer is one class
    sqlite_autoincrement=True,
)

images = Table(
    "images",
    metadata,
    Column("number", ForeignKey("predictions.number", ondelete="CASCADE"), primary_key=True),
    Column("kind", SmallInteger, nullable=False),  # a Kind; the smallest is deleted first
    Column("size", Integer, nullable=False),  # bytes of the content
    Column("content", LargeBinary, nullable=False),  # zlib of NPY (bands, height, width)
    Index("images_kind", "kind", "number", "size"),
)

feedback = Table(
    "feedback",
    metadata,
    Column("number", ForeignKey("predictions.number", ondelete="CASCADE"), primary_key=True),
    Column("label", Text),  # null where objects are the label
    Column("answered_at", BigInteger, nullable=False, index=True),  # time of the current label
    Column("answers", Integer, nullable=False),  # 1, and one more for each correction
    Column("objects", Text),  # JSON: [class, box] of all that are there
    Column("found", Integer),  # of a Verdict, as the next two
    Column("missed", Integer),
    Column("false", Integer),
)


class Kind(IntEnum):
    """Why an image is stored. Images that teach least are deleted first."""

    CERTAIN = 0
    CONFIRMED = 1
    UNCERTAIN = 2
    CORRECTED = 3


def micro(moment: datetime) -> int:
    """Convert a time to microseconds since 1970."""
    return round(moment.timestamp() * MICROSECONDS)
