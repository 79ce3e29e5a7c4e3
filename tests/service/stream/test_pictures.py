"""Pictures of a stream: the image that was answered, with the objects that were found in it."""

import base64
import io
from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson
from PIL import Image as Pillow

from contracts.frames import Frame
from service.prediction import Image, Predicted
from service.stream.frames import Waiting
from service.stream.records import Pictures
from tests.make import harbours, images
from tests.make.bundles import BANDS

OBJECT = {"class": "ship", "score": 0.9, "box": [8.0, 8.0, 12.0, 12.0]}
FRAME = Frame("camera", 7, datetime.now(UTC), False, "", "", "")


def drawn(answer: dict[str, Any]) -> Pillow.Image:
    """The picture of an answer to one frame."""
    content = images.npy(harbours.water((8, 8)))
    message: Any = None  # nothing of it is drawn
    waiting = Waiting(message, "0" * 16, FRAME, Image(content, "", "0" * 16, 0.0), None)
    answered = [(waiting, Predicted(orjson.dumps(answer), "local"))]
    (record,) = Pictures("annotated", 10).draw(answered, BANDS, 0, 1.0)
    assert record.value is not None
    event = orjson.loads(record.value)
    assert event["answer"] == answer and event["sequence"] == 7
    return Pillow.open(io.BytesIO(base64.b64decode(event["picture"].partition(",")[2])))


def test_objects_are_drawn_into_the_picture_of_a_frame() -> None:
    boxes = drawn({"objects": [OBJECT], "counts": {"ship": 1}})
    none = drawn({"objects": [], "counts": {"ship": 0}})
    assert boxes.size == none.size == (512, 512)
    assert (np.asarray(boxes) != np.asarray(none)).any()


def test_the_picture_of_a_class_is_the_image_alone() -> None:
    assert drawn({"class": "Forest", "probability": 0.9}).size == (harbours.CHIP, harbours.CHIP)
