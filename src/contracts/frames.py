"""Frames in a Kafka topic: what travels beside the bytes of an image. docs/stream.md shows it.

The key of a message is its source, so that the frames of one source keep their order.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

SOURCE, SEQUENCE, CAPTURED = "source", "sequence", "captured_at"
CONTENT_TYPE, LIVE, FIT, MODEL = "content-type", "live", "fit", "model"
REFERENCE, TRACE, ID = "reference", "traceparent", "id"
DEAD = "dead-"
"""Begins the headers that a dead letter has beside those of its frame."""

IN_BAND = 1_000_000
"""Bytes that an image in a topic may have; a larger one lies where REFERENCE says."""
CODECS = {
    "image/tiff": "TIFF",
    "image/png": "PNG",
    "image/jpeg": "JPEG",
    "application/x-npy": "NPY",
    "application/octet-stream": "any of these",
}
"""Values of CONTENT_TYPE. The bytes decide in any case; another value is refused unread."""
NAME = re.compile(r"[A-Za-z0-9._:/@#-]{1,128}")
LARGEST = (1 << 63) - 1  # sequence number

Value = str | bytes | None
Headers = Mapping[str, Value] | Sequence[tuple[str, Value]] | None


def check_brokers(text: str) -> str:
    """Kafka's brokers, `host:port` with commas between, as they are.

    Raises:
        ValueError: one of them is no host with a port.
    """
    for broker in text.split(","):
        host, _, port = broker.rpartition(":")
        there = re.fullmatch(r"\[[^\]\s]+\]|[^:\s/]+", host)
        if not (there and re.fullmatch(r"[0-9]{1,5}", port) and 0 < int(port) < 65536):
            raise ValueError(f"{text[:64]!a} names no brokers: write kafka-1:9092,kafka-2:9092")
    return text


class Frame(NamedTuple):
    """The headers of a frame, read."""

    source: str
    sequence: int
    captured_at: datetime
    live: bool
    """Of several that wait, only the newest of its source is answered."""
    fit: str
    model: str
    reference: str


def headers_of(
    source: str, sequence: int, captured_at: datetime, **more: str
) -> list[tuple[str, bytes]]:
    """Write the headers of a frame; `more` by their names, with `_` for `-`."""
    found = {SOURCE: source, SEQUENCE: str(sequence), CAPTURED: captured_at.isoformat()}
    found |= {name.replace("_", "-"): value for name, value in more.items()}
    return [(name, value.encode()) for name, value in found.items()]


def texts(headers: Headers) -> dict[str, str]:
    """Headers by name, the last of each; bytes that are no text become question marks."""
    found = {}
    for name, value in headers.items() if isinstance(headers, Mapping) else headers or ():
        value = value or b""
        found[name] = value if isinstance(value, str) else value.decode("utf-8", "replace")
    return found


def read_frame(headers: Mapping[str, str]) -> Frame:
    """Read the headers of a frame.

    Raises:
        ValueError: one is missing, or has a value that is not taken; name, value, cure.
    """
    for name in (SOURCE, SEQUENCE, CAPTURED):
        if not headers.get(name):
            raise ValueError(f"the header `{name}` is missing: send source, sequence, captured_at")
    if not NAME.fullmatch(headers[SOURCE]):
        raise ValueError(f"source is {headers[SOURCE][:64]!a}: use 1 to 128 of A-Z a-z 0-9 . _ : /")
    number = headers[SEQUENCE]
    if not (number.isascii() and number.isdigit() and len(number) < 20 and int(number) <= LARGEST):
        raise ValueError(f"sequence is {number[:64]!a}: send a whole number from 0 on")
    try:
        captured_at = datetime.fromisoformat(headers[CAPTURED])
    except ValueError:
        captured_at = datetime.min
    if captured_at.tzinfo is None:
        raise ValueError(
            f"captured_at is {headers[CAPTURED][:64]!a}: send a time with its zone, such as "
            "2026-11-29T12:00:00.125Z"
        )
    return Frame(
        headers[SOURCE],
        int(number),
        captured_at.astimezone(UTC),
        headers.get(LIVE, "") in ("1", "true"),
        headers.get(FIT, ""),
        headers.get(MODEL, ""),
        headers.get(REFERENCE, ""),
    )
