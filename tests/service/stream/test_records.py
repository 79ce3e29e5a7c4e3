"""What a worker sends: pictures at their rate, with objects drawn; headers of dead letters."""

import base64
import io
import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
from confluent_kafka import Message
from PIL import Image

from contracts.frames import headers_of, texts
from service.errors import TooLarge, Unprocessable
from service.prediction import Predicted
from service.stream import frames
from service.stream.records import LARGEST, Pictures, dead_letter, draw, fitting
from tests.make.bundles import BANDS, make_chip
from tests.make.images import npy

CHIP = npy(make_chip(1))
CLASSIFIED = json.dumps({"class": "River", "probability": 0.5}).encode()


def waiting(content: bytes = CHIP, **more: str) -> frames.Waiting:
    headers: Any = list(headers_of("quay", 1, datetime.now(UTC), **more))
    place: dict[str, Any] = {"topic": "frames", "partition": 0, "offset": 1, "timestamp": (1, 5)}
    return frames.read(Message(key=b"quay", value=content, headers=headers, **place))


def decoded(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def test_pictures_come_at_their_rate_whatever_comes() -> None:
    pair = (waiting(), Predicted(CLASSIFIED, "local"))
    assert Pictures("annotated", 0).draw([pair], BANDS, 0, 0) == []
    pictures = Pictures("annotated", 0.01)
    assert len(pictures.draw([pair], BANDS, 3, 9.5)) == 1
    assert pictures.draw([pair], BANDS, 3, 9.5) == []
    [record] = Pictures("annotated", 100).draw([pair, pair], BANDS, 3, 9.5)
    event = json.loads(record.value or b"")
    assert (event["lag"], event["rate"], event["answer"]["class"]) == (3, 9.5, "River")
    assert decoded(event["picture"]).size == (64, 64)


def test_objects_are_drawn_into_the_picture() -> None:
    objects = [{"class": "ship", "score": 0.9, "box": [8, 8, 40, 40]}]
    found = json.dumps({"objects": objects, "counts": {"ship": 1}}).encode()
    nothing = json.dumps({"objects": [], "counts": {"ship": 0}}).encode()
    with_box, without = (np.array(decoded(draw(CHIP, it, BANDS))) for it in (found, nothing))
    assert with_box.shape == without.shape and (with_box != without).any()


def test_a_picture_too_large_for_a_topic_is_left_out() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (3, 600, 600), np.uint8)
    assert draw(npy(noise), CLASSIFIED, ("red", "green", "blue")) == ""
    assert draw(npy(make_chip(1, size=640)), CLASSIFIED, BANDS) == ""
    assert draw(b"garbage", CLASSIFIED, BANDS) == ""


def test_an_answer_too_large_for_a_topic_says_so_instead() -> None:
    small, large = (Predicted(b"0" * count, "local") for count in (LARGEST, LARGEST + 1))
    refusal = Unprocessable("bad")
    assert fitting(small) is small and fitting(refusal) is refusal
    found = fitting(large)
    assert isinstance(found, TooLarge) and "the answer has 950001 bytes" in found.detail


def test_a_dead_letter_repeats_headers_of_a_bounded_size_and_names_the_cure() -> None:
    error = Unprocessable("70 x 64 pixels: add ?fit=resize to have it resampled")
    found = texts(dead_letter("dead", waiting(), error).headers)
    assert found["source"] == "quay" and "add the header `fit: stretch`" in found["dead-reason"]
    large = texts(dead_letter("dead", waiting(model="x" * 50_000), error).headers)
    assert "source" not in large and large["dead-kind"] == "Unprocessable"
