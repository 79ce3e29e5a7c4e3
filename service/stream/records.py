"""What a worker sends: answers, dead letters, and pictures for `/live`."""

import base64
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import orjson

from contracts import frames
from contracts.images import Buffer
from service.errors import ServiceError, TooLarge
from service.inference.decode import read_image
from service.inference.drawing import annotated
from service.inference.preview import true_colour
from service.prediction import Predicted, Route
from service.stream.frames import Waiting

if TYPE_CHECKING:
    from confluent_kafka import Message

MOST_HEADERS = 16_384  # bytes of a frame's own headers that a dead letter repeats
PNG, JPEG = "image/png", "image/jpeg"
PICTURE = 1 << 20  # values of an image that is drawn
LARGEST = 950_000  # bytes of an answer, with its picture; a message of a topic has a million

TIMES = f"{frames.DEAD}times"

Headers = list[tuple[str, str | bytes | None]]


class Record(NamedTuple):
    """A message to send."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers


def fitting(found: Predicted | ServiceError) -> Predicted | ServiceError:
    """An answer that a topic takes; of a larger one, as of masks in a large image, why it does not.

    The broker would refuse it, and the worker would meet its frame for ever.
    """
    if isinstance(found, Predicted) and len(found.body) > LARGEST:
        return TooLarge(
            f"the answer has {len(found.body)} bytes, at most {LARGEST} go into a topic: send "
            "parts of the image as frames of their own"
        )
    return found


def answer(topic: str, one: Waiting, found: Predicted, route: Route | None = None) -> Record:
    """The answer to a frame: the JSON of `/predict`, what leads back to the frame, and the arm."""
    assert one.frame is not None
    headers: Headers = []
    headers += frames.headers_of(
        one.frame.source, one.frame.sequence, one.frame.captured_at, id=one.id, model=found.tag
    )
    own = frames.texts(one.message.headers())
    if trace := own.get(frames.TRACE):
        headers.append((frames.TRACE, trace.encode()))
    if route:  # without the tag of the model, which is there
        headers += [(name.decode().removeprefix("x-"), text) for name, text in route.headers[1:]]
    return Record(topic, one.frame.source.encode(), found.body, headers)


def dead_letter(topic: str, one: Waiting, error: ServiceError) -> Record:
    """A frame that was not answered, with the reason; a replay sends it again as it was."""
    message = one.message
    value, own = message.value(), plain_headers(message)
    headers = own if sum(len(name) + len(text or b"") for name, text in own) <= MOST_HEADERS else []
    about = {
        "reason": error.detail.replace("?fit=resize", "the header `fit: stretch`"),
        "kind": type(error).__name__,
        "topic": str(message.topic()),
        "partition": str(message.partition()),
        "offset": str(message.offset()),
        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "times": str(int(_times(message)) + 1),
    }
    if value is not None and len(value) > frames.IN_BAND:
        about["left-out"] = str(len(value))
        value = None
    key = message.key()
    return Record(
        topic,
        key if isinstance(key, bytes) and len(key) <= MOST_HEADERS else None,
        value,
        [*headers, *((frames.DEAD + name, text.encode()) for name, text in about.items())],
    )


def plain_headers(message: "Message") -> Headers:
    """The headers that a frame had before it died."""
    found = message.headers() or ()
    pairs = found.items() if isinstance(found, dict) else found
    return [(name, value) for name, value in pairs if not name.startswith(frames.DEAD)]


def headers_again(message: "Message") -> Headers:
    """The headers of a frame that is sent again: its own, and how often it has died."""
    return [*plain_headers(message), (TIMES, _times(message).encode())]


def _times(message: "Message") -> str:
    found = frames.texts(message.headers()).get(TIMES, "")
    return found if found.isascii() and found.isdigit() and len(found) < 6 else "0"


class Pictures:
    """Now and then an answer with the picture that it is for, a bounded number a second."""

    def __init__(self, topic: str, each_second: float) -> None:
        """Send none where `each_second` is 0."""
        self._topic = topic
        self._pause = 1 / each_second if each_second else 0.0
        self._next = 0.0

    def draw(
        self,
        answered: Sequence[tuple[Waiting, Predicted]],
        bands: Sequence[str],
        lag: float,
        rate: float,
    ) -> list[Record]:
        """The newest answer with its picture, if it is time for one and it can be drawn."""
        now = time.monotonic()
        # Half a pause early is in time: frames do not come to the millisecond.
        if not self._pause or now < self._next - self._pause / 2 or not answered:
            return []
        one, found = answered[-1]
        assert one.frame is not None and one.image is not None
        picture = draw(one.image.content, found.body, bands)
        if not picture:
            return []
        self._next = max(self._next, now) + self._pause
        value = {
            "id": one.id,
            "source": one.frame.source,
            "sequence": one.frame.sequence,
            "captured_at": one.frame.captured_at.isoformat(),
            "answered_at": datetime.now(UTC).isoformat(),
            "lag": lag,
            "rate": rate,
            "answer": orjson.Fragment(found.body),
            "picture": picture,
        }
        return [Record(self._topic, one.frame.source.encode(), orjson.dumps(value), [])]


def draw(content: Buffer, body: bytes, bands: Sequence[str]) -> str:
    """The picture of an image, with its objects drawn, as a data URL; empty if it is too large."""
    answer = orjson.loads(body)
    try:
        pixels = read_image(content, PICTURE)
    except ServiceError:  # too large to be drawn in passing
        return ""
    kind = PNG
    if "objects" in answer:  # drawn large
        kind, encoded = JPEG, annotated(pixels, bands, answer, JPEG)
    else:
        encoded = true_colour(pixels, bands)
    url = f"data:{kind};base64,{base64.b64encode(encoded).decode()}"
    return url if len(url) + len(body) <= LARGEST else ""
