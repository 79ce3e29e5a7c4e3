"""A message of the topic -> an image to predict, or the reason why it is none."""

import errno
import hashlib
import os
import stat
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple, cast

from contracts import frames
from contracts.images import FITS, Fit
from service import s3
from service.errors import (
    BadRequest,
    Forbidden,
    NotFound,
    ServiceError,
    TooLarge,
    Unavailable,
    Unprocessable,
    UnsupportedMedia,
)
from service.files import reason
from service.prediction import Image

if TYPE_CHECKING:
    from confluent_kafka import Message

AHEAD = timedelta(seconds=60)  # that the clock of a camera may be ahead
S3 = "s3://"
# Errors of a disk or of this process that pass; every other one is the fault of the reference.
PASSING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class Waiting(NamedTuple):
    """A message, read: a frame with its image, or why it has none."""

    message: "Message"
    id: str
    """Of the prediction. The same whenever the message is read, so that readers drop repeats."""
    frame: frames.Frame | None
    image: Image | None
    """None until a reference is fetched, too."""
    refused: ServiceError | None


def prediction_id(message: "Message") -> str:
    """16 hexadecimal digits that name this message for good; a topic made anew has other times."""
    place = (message.topic(), message.partition(), message.offset(), message.timestamp()[1])
    return hashlib.blake2b(repr(place).encode(), digest_size=8).hexdigest()


def read(message: "Message", now: datetime | None = None) -> Waiting:
    """Read a message. Nothing of it is trusted, and nothing is raised."""
    name = prediction_id(message)
    try:
        frame = _frame(message, now or datetime.now(UTC))
    except ServiceError as error:
        return Waiting(message, name, None, None, error)
    content = message.value() or b""
    if frame.reference:
        return Waiting(message, name, frame, None, None)
    return Waiting(message, name, frame, image_of(frame, content, name), None)


def image_of(frame: frames.Frame, content: bytes, name: str) -> Image:
    """The image of a frame, whose `fit` was checked."""
    fit = "stretch" if frame.fit == "resize" else frame.fit  # as /predict calls it, too
    return Image(content, cast(Fit, fit), name, perf_counter())


def _frame(message: "Message", now: datetime) -> frames.Frame:
    headers = frames.texts(message.headers())
    try:
        frame = frames.read_frame(headers)
    except ValueError as error:
        raise BadRequest(str(error)) from None
    if frame.captured_at > now + AHEAD:
        raise Unprocessable(
            f"captured_at is {(frame.captured_at - now).total_seconds():.0f} s in the future: set "
            "the clock of the source"
        )
    codec = headers.get(frames.CONTENT_TYPE, "application/octet-stream")
    if codec not in frames.CODECS:
        raise UnsupportedMedia(
            f"content-type is {codec[:64]!a}: send one of {', '.join(frames.CODECS)}"
        )
    if frame.fit not in ("", "resize", *FITS):
        raise Unprocessable(f"fit is {frame.fit[:64]!a}: use one of {', '.join(FITS)}, or none")
    size = len(message.value() or b"")
    if size > frames.IN_BAND:
        raise TooLarge(
            f"the frame has {size} bytes, at most {frames.IN_BAND} travel in a topic: store it, "
            "and send the header `reference`"
        )
    if frame.reference and size:
        raise BadRequest("the frame has a reference and bytes: send one of them")
    return frame


def fetch(reference: str, below: Sequence[str], limit: int) -> bytes:
    """Fetch an image that lies elsewhere, at most `limit` bytes.

    Raises:
        Unavailable: not now; the frame has to wait.
        ServiceError: it must not be read, or is not there.
    """
    if reference.startswith(S3):
        plain = not {"", ".", ".."} & set(reference.removeprefix(S3).split("/"))
        if not plain or not any(
            reference.startswith(prefix) for prefix in below if prefix.startswith(S3)
        ):
            raise Forbidden(_outside(reference))
        return s3.fetch_one(reference.removeprefix(S3), limit)
    return _read_file(reference, below, limit)


def _read_file(reference: str, below: Sequence[str], limit: int) -> bytes:
    try:
        path = Path(reference.removeprefix("file://")).resolve(strict=True)
        folders = [Path(item).resolve() for item in below if not item.startswith(S3)]
        # Links are followed before the comparison: none leads out of the folders.
        if not any(path.is_relative_to(folder) for folder in folders):
            raise Forbidden(_outside(reference))
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        with open(handle, "rb") as file:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise Unprocessable("the reference is not a plain file")
            if found.st_size > limit:
                raise TooLarge(f"the file has {found.st_size} bytes, at most {limit} are taken")
            return file.read(limit)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"the reference {reference[:200]!a} is not there") from None
    except PermissionError:
        raise Unprocessable("the reference must not be read by this worker") from None
    except (ValueError, RuntimeError):  # a NUL, or links in a circle
        raise Unprocessable(f"the reference {reference[:200]!a} is no path") from None
    except OSError as error:
        why = f"the reference cannot be read: {reason(error)}"
        raise (Unavailable(why) if error.errno in PASSING else Unprocessable(why)) from None


def _outside(reference: str) -> str:
    return (
        f"the reference {reference[:200]!a} is outside of SERVICE_STREAM_REFERENCES: store frames "
        "below one of its prefixes"
    )
