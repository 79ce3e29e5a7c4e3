"""What retraining leaves in `reports/` for the report: why it began, and what came of it.

    reports/drift.json       the alerts that asked for it, as delivery wrote them down
    reports/challenge.json   the model of the base against the new one; `pipeline.challenge`

Both travel in Git, so a merge request can say anything in them: they are read with checked types,
and their texts are for `markdown.code` only.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import DataError

DRIFT = Path("reports/drift.json")
CHALLENGE = Path("reports/challenge.json")
MOST_ALERTS = 50
LONGEST = 500  # letters of a text
LARGEST = 2**20  # bytes of either file; 50 alerts have some ten thousands


def _printable(text: str) -> str:
    """Cut, and without the invisible: marks that turn the direction of writing, for example."""
    return "".join(c if c.isprintable() else " " for c in text[:LONGEST]).strip()


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:  # the first or last day of the calendar, in another zone
        raise ValueError("no moment of UTC") from None


Verdict = Literal["better", "no worse", "worse"]
Text = Annotated[str, AfterValidator(_printable)]


class Part(BaseModel):
    """Frozen; fields that nobody asked for are dropped, numbers are finite."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Alert(Part):
    """One alert of Alertmanager."""

    alertname: Text
    summary: Text = ""
    labels: dict[Text, Text] = {}
    starts_at: Text = ""


class Drift(Part):
    """All of drift.json."""

    received: Annotated[datetime, AfterValidator(_in_utc)]
    status: Text
    alerts: tuple[Alert, ...]


class Figures(Part):
    """Champion and challenger on the same chips; `pipeline.evaluation.comparison.Comparison`."""

    chips: int = Field(ge=1)
    champion: float = Field(ge=0, le=1)
    """Accuracy."""
    challenger: float = Field(ge=0, le=1)
    low: float
    """95 % interval of challenger minus champion."""
    high: float
    fixed: int
    """Chips that only the challenger gets right."""
    broken: int
    """Chips that only the champion gets right."""


class Challenge(Part):
    """All of challenge.json."""

    against: Text
    """Revision of the champion, as it was named."""
    champion: Text | None
    """SHA-256 of the bundle; None when that revision has no model."""
    challenger: Text
    pinned: Figures | None
    """On chips that are in the test split of both."""
    new: Figures | None
    """On test chips that the champion's data do not hold."""
    verdict: Verdict | None
    """None when they could not be compared."""
    note: Text
    """What there is to know besides; empty when there is nothing."""


Document = TypeVar("Document", bound=Part)


def read_drift(text: str | None = None) -> Drift | None:
    """Read drift.json, or `text` in its place; None when it is not there.

    Raises:
        DataError: it is something else.
    """
    found = _parse(Drift, DRIFT, text)
    return found and found.model_copy(update={"alerts": found.alerts[:MOST_ALERTS]})


def read_challenge() -> Challenge | None:
    """Read challenge.json; None when it is not there.

    Raises:
        DataError: it is something else.
    """
    return _parse(Challenge, CHALLENGE)


def new_drift(before: str | None) -> Drift | None:
    """The drift that this change answers: drift.json where it is newer than that of the base.

    Args:
        before: drift.json of the base; None when there was none.

    Raises:
        DataError: drift.json is something else.
    """
    now = read_drift()
    if now is None or before is None:
        return now
    try:
        base = read_drift(before)
    except DataError:
        return now
    return now if base is None or now.received > base.received else None


def _parse(kind: type[Document], path: Path, text: str | None = None) -> Document | None:
    try:
        content = _read(path) if text is None else text.encode()
        return kind.model_validate_json(content)
    except FileNotFoundError:
        return None
    except OSError as error:  # a folder, for example: Git can bring that, too
        reason = error.strerror or type(error).__name__
        raise DataError(f"{path}: {reason}; delete it, or write it anew") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"][:4]) or "the document"
        raise DataError(
            f"{path}: {_printable(field)}: {first['msg'][:LONGEST]}; delete it, or write it anew"
        ) from None


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise DataError(f"{path}: more than {LARGEST} bytes; delete it, or write it anew")
    return content
