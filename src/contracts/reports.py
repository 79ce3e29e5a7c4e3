"""The documents in `reports/` that one package writes and another reads.

    metrics.json     the numbers of a model; here is which of them are better when larger
    drift.json       the alerts that asked for a retraining: delivery writes it, pipeline reads it
    challenge.json   the new model against that of the base: pipeline writes it, delivery reads it

They travel in Git, so a merge request can say anything in them. Readers check types, cut texts and
drop fields that they do not know.
"""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer

DRIFT = Path("reports/drift.json")
CHALLENGE = Path("reports/challenge.json")
LONGEST = 500  # characters of a text
MOST_ALERTS = 50
LARGEST = 2**20  # bytes of a document; 50 alerts have some ten thousands

_SMALLER_IS_BETTER = frozenset(
    ("loss", "logloss", "perplexity", "error", "errors", "mae", "mape", "mse", "rmse", "brier")
    + ("ece", "latency", "duration", "seconds", "ms", "size", "bytes", "mib")
)
"""Words in the names of metrics."""


def larger_is_better(metric: str) -> bool:
    """Whether the larger value of a metric is the better one, by the words of its name."""
    return not _SMALLER_IS_BETTER & set(re.split(r"[^a-z]+", metric.lower()))


def printable(text: str) -> str:
    """A short text without the invisible: marks that turn the direction of writing, for example."""
    return "".join(c if c.isprintable() else " " for c in text[:LONGEST]).strip()


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:  # the first or last day of the calendar, in another zone
        raise ValueError("not a moment of UTC") from None


def _to_seconds(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")


Text = Annotated[str, AfterValidator(printable)]
Moment = Annotated[
    datetime, AfterValidator(_in_utc), PlainSerializer(_to_seconds, when_used="json")
]
Verdict = Literal["better", "no worse", "worse"]


class Part(BaseModel):
    """Frozen; unknown fields are dropped, numbers are finite."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Alert(Part):
    """An alert of Alertmanager that asked for a retraining."""

    alertname: Text
    summary: Text = ""
    labels: dict[Text, Text] = {}
    starts_at: Text = ""
    generator_url: Text = ""


class Drift(Part):
    """All of drift.json: why a retraining was asked for."""

    received: Moment
    status: Text
    """firing | resolved"""
    alerts: tuple[Alert, ...]


class Figures(Part):
    """Champion and challenger on the same chips."""

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
    """All of challenge.json: the new model against the one of the base."""

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
