"""The alert payload of a trigger, parsed as untrusted data.

GitLab passes the body of the request that triggered a pipeline to the jobs as a file, whose path is
`TRIGGER_PAYLOAD`, and adds `id`, `ref` and `variables`. Whoever has the trigger's token can write
the body. So it must be Alertmanager's webhook (version 4) in strict JSON; known fields are kept as
short printable text, others are dropped; and texts in Git and GitLab are fixed words with names
that match a pattern.
"""

import json
import re
import stat
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contracts.reports import LARGEST, LONGEST, MOST_ALERTS, Alert, Drift
from delivery.errors import DeliveryError, TagError
from delivery.tags import parse_version

VARIABLE = "TRIGGER_PAYLOAD"
LABELS = (
    "alertname",
    "severity",
    "owner",
    "namespace",
    "tag",
    "signal",
    "measure",
    "class",
    "reason",
)
"""Labels that are kept, as the rules in monitoring/ name them."""

NAME = re.compile(r"[A-Za-z][A-Za-z0-9]{0,63}")
"""Names of alerts that may appear in texts."""

_OWN = {"id", "ref", "variables", "inputs"}
"""GitLab's own fields, the whole payload of a trigger without a body."""


class EvidenceError(DeliveryError):
    """The payload of the trigger is invalid."""


class Evidence(Drift):
    """The content of `reports/drift.json`, with words for Git and GitLab."""

    @property
    def asks(self) -> bool:
        """Whether an alert requests a retraining."""
        return bool(self.alerts)

    @property
    def names(self) -> list[str]:
        """Names of the alerts that match the pattern, each once."""
        return [name for name in dict.fromkeys(self._alertnames()) if NAME.fullmatch(name)]

    @property
    def version(self) -> str:
        """The version that drifted, `landcover@v1.2.0`; empty if no alert names one."""
        for tag in (alert.labels.get("tag", "") for alert in self.alerts):
            with suppress(TagError):
                if len(tag) <= 64:
                    return parse_version(tag).tag
        return ""

    @property
    def drift(self) -> str:
        """`drift of landcover@v1.2.0`; safe in every text."""
        return f"drift of {self.version}" if self.version else "drift"

    def _alertnames(self) -> list[str]:
        return [alert.alertname for alert in self.alerts]


class _Alert(BaseModel):
    """An alert as Alertmanager sends it."""

    model_config = ConfigDict(strict=True)
    status: Literal["firing", "resolved"]
    labels: dict[str, str]
    annotations: dict[str, str] = {}
    starts_at: str = Field("", alias="startsAt")
    generator_url: str = Field("", alias="generatorURL")

    @property
    def counts(self) -> bool:
        """Whether it fires and requests a retraining."""
        return self.status == "firing" and self.labels.get("retrain") == "true"

    def taken(self) -> Alert:
        """The part that is kept."""
        kept = {name: self.labels[name] for name in LABELS if name in self.labels}
        url = clean(self.generator_url)
        return Alert(
            alertname=clean(self.labels.get("alertname", "")),
            summary=clean(self.annotations.get("summary", "")),
            labels={name: clean(value) for name, value in kept.items()},
            starts_at=clean(self.starts_at),
            generator_url=url if re.fullmatch(r"https?://\S+", url) else "",
        )


class _Webhook(BaseModel):
    """Alertmanager's webhook."""

    model_config = ConfigDict(strict=True)
    version: Literal["4"]
    status: Literal["firing", "resolved"]
    alerts: list[_Alert]


def read_payload(path: Path) -> bytes:
    """Read the payload.

    Whoever triggers a pipeline may set its variables, including this one, so it must name a plain
    file.

    Raises:
        EvidenceError: the file is missing, not a plain file, or too large.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe waits, and a device has no end
            raise EvidenceError(f"{VARIABLE}: it is not a plain file")
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except (OSError, ValueError):
        raise EvidenceError(f"{VARIABLE}: the file cannot be read") from None
    if len(content) > LARGEST:
        raise EvidenceError(f"{VARIABLE}: more than {LARGEST >> 20} MiB: the payload is ignored")
    return content


def read_evidence(payload: bytes, now: datetime | None = None) -> Evidence | None:
    """Parse the payload; None for a trigger without a body, such as a person's `curl`.

    Raises:
        EvidenceError: it is not strict JSON, not Alertmanager's, or it sets variables.
    """
    document = _strict(payload)
    if not isinstance(document, dict):
        raise EvidenceError(f"{VARIABLE}: not a JSON object, so not Alertmanager's")
    if document.get("variables"):
        raise EvidenceError(f"{VARIABLE}: it sets variables; a trigger that retrains sets none")
    if not document.keys() - _OWN:
        return None
    try:
        webhook = _Webhook.model_validate(document)
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"][:3]))[:64]
        raise EvidenceError(
            f"{VARIABLE}: not a webhook of Alertmanager in version 4, look at {place!a}"
        ) from None
    alerts = [alert.taken() for alert in webhook.alerts if alert.counts]
    return Evidence(
        received=now or datetime.now(UTC), status=webhook.status, alerts=tuple(alerts[:MOST_ALERTS])
    )


def clean(text: str) -> str:
    """One short line of printable characters: no control characters, no direction marks."""
    letters = (letter if letter.isprintable() else " " for letter in text[: 2 * LONGEST])
    return " ".join("".join(letters).split())[:LONGEST]


def _strict(payload: bytes) -> Any:
    """Parse strict JSON, without Python's extensions.

    Raises:
        EvidenceError: it is invalid; the message does not quote it.
    """
    try:
        return json.loads(
            payload.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_number
        )
    except (ValueError, RecursionError):
        raise EvidenceError(f"{VARIABLE}: not strict JSON, so not Alertmanager's") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        raise ValueError("a key stands twice")
    return document


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is not a number of JSON")
