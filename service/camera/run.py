"""Sends the frames of a source, and says how it goes."""

import argparse
import os
import re
import sys
import time
from collections.abc import Iterable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import httpx

from contracts.frames import IN_BAND, NAME, headers_of
from service import kafka
from service.camera.capture import Live, Shot, is_live, read_file, read_folder
from service.errors import ServiceError, TooLarge, Unprocessable
from service.settings import Settings

if TYPE_CHECKING:  # an extra, which --to does without
    from confluent_kafka import KafkaError

EVERY = 5.0  # seconds between two lines about how it goes
AHEAD = 8  # frames of a live source that may wait for the broker; then new ones are dropped
QUALITY = 92  # of a JPEG
KEY = "CONVEYOR_API_KEY"  # variable of the environment; never printed
OCTETS = {"content-type": "application/octet-stream"}
WITHIN = 10.0  # seconds that a service may take


class Sink(Protocol):
    """Where frames go."""

    def send(self, content: bytes, sequence: int, shot: Shot) -> bool:
        """Send one; False: it was left out, as others wait."""

    def finish(self) -> None:
        """Wait until everything has arrived."""

    def close(self) -> None:
        """Give up what has not arrived."""


class Topic:
    """The topic of frames."""

    def __init__(
        self, settings: Settings, chosen: argparse.Namespace, name: str, live: bool
    ) -> None:
        """Connect lazily."""
        self._producer = kafka.producer(settings)
        self._topic = settings.stream_frames
        self._name, self._live = name, live
        kind = "image/png" if chosen.png else "image/jpeg"
        if Path(chosen.source).is_dir():
            kind = "application/octet-stream"
        self._more = {"content_type": kind}
        self._more |= {"live": "1"} if live else {}
        self._more |= {"fit": chosen.fit} if chosen.fit else {}
        self._lost = ""  # why the broker, or the client, gave a frame up

    def send(self, content: bytes, sequence: int, shot: Shot) -> bool:
        """Send one; of a file all are waited for."""
        if len(content) > IN_BAND:
            raise TooLarge(
                f"a frame has {len(content)} bytes, at most {IN_BAND} travel in a topic: add --size"
            )
        if self._live and len(self._producer) >= AHEAD:
            self._producer.poll(0)
            return False
        headers: Any = headers_of(self._name, sequence, shot.captured_at, **self._more)
        from confluent_kafka import KafkaException

        key = self._name.encode()
        while True:
            try:
                self._producer.produce(
                    self._topic, content, key, headers=headers, on_delivery=self._delivered
                )
                break
            except BufferError:  # the broker is slow, or away
                self._producer.poll(1.0)
            except KafkaException as error:
                raise _refused(error.args[0].str()) from None
        self._producer.poll(0)
        self._check()
        return True

    def finish(self) -> None:
        """Wait until everything has arrived. Raises ServiceError where a frame did not."""
        while self._producer.flush(1.0) and not self._live:
            continue
        self._check()

    def close(self) -> None:
        """Give up what has not arrived."""
        if left := len(self._producer):
            self._producer.purge()
            print(f"{left} frames have not arrived", file=sys.stderr, flush=True)

    def _delivered(self, error: "KafkaError | None", _: object) -> None:
        if error is not None:
            self._lost = error.str()

    def _check(self) -> None:
        lost, self._lost = self._lost, ""
        if lost:
            raise _refused(lost)


def _refused(why: str) -> ServiceError:
    return ServiceError(
        f"a frame did not arrive: {why[:200]}: check the topic, its limits and the rights of "
        "SERVICE_STREAM_CLIENT (docs/stream.md)"
    )


class Service:
    """`POST /predict` of a service, one frame after the other."""

    def __init__(self, url: str, chosen: argparse.Namespace, live: bool) -> None:
        """Connect lazily."""
        if not re.fullmatch(r"https?://[^/\s]\S*", url):
            raise Unprocessable(
                f"--to {url!a}: write the address of a service, as http://host:8000"
            )
        key = os.environ.get(KEY, "")
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(headers=headers, timeout=WITHIN)
        self._url = f"{url.rstrip('/')}/predict"
        self._fit = {"fit": chosen.fit} if chosen.fit else {}
        self._live = live
        self._said = ""

    def send(self, content: bytes, sequence: int, shot: Shot) -> bool:
        """Send one, and print an answer that differs from the one before; of a file all go on."""
        while True:
            try:
                answer = self._client.post(
                    self._url, params=self._fit, content=content, headers=OCTETS
                )
            except httpx.HTTPError:
                answer = None
            if answer is not None and answer.status_code == 200:
                self._say(f"{sequence}: {_seen(answer.json())}")
                return True
            if answer is not None and answer.status_code != 503:
                raise Unprocessable(f"--to: the service refuses a frame: {answer.text[:300]}")
            self._say(f"{sequence}: the service does not answer, or has too much to do")
            if self._live:
                return False
            time.sleep(1)

    def _say(self, text: str) -> None:
        what = text.partition(": ")[2]
        if what != self._said:
            print(text, flush=True)
        self._said = what

    def finish(self) -> None:
        """Every frame was answered."""

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def _seen(answer: dict[str, Any]) -> str:
    """The class of an answer; of found objects how many of each there are."""
    if "counts" in answer:
        return ", ".join(f"{n} {name}" for name, n in answer["counts"].items() if n) or "nothing"
    return str(answer["class"])


def send_frames(chosen: argparse.Namespace, settings: Settings) -> None:
    """Send frames until the source ends.

    Raises:
        ServiceError, UnsafeSettings: it cannot be read, or they cannot be sent.
    """
    live = chosen.live or is_live(chosen.source)
    name = chosen.name or ("camera" if is_live(chosen.source) else Path(chosen.source).stem)
    if not NAME.fullmatch(name):
        raise Unprocessable(f"--name {name!a}: use letters, digits and . _ : / @ # -")
    camera, shots = _open(chosen, live)
    sink: Sink = (
        Service(chosen.to, chosen, live) if chosen.to else Topic(settings, chosen, name, live)
    )
    sent = left_out = 0
    began = said = time.monotonic()
    with closing(sink), closing(camera) if camera else nullcontext():
        for sequence, shot in enumerate(shots):
            if sink.send(_encode(shot, chosen), sequence, shot):
                sent += 1
            else:
                left_out += 1
            if (now := time.monotonic()) - said >= EVERY:
                said = now
                _say(sent, left_out, now - began, camera)
        sink.finish()
    _say(sent, left_out, time.monotonic() - began, camera)


def _open(chosen: argparse.Namespace, live: bool) -> tuple[Live | None, Iterable[Shot]]:
    """The frames of a source; a live one is its own reader."""
    if (folder := Path(chosen.source)).is_dir():
        return None, read_folder(folder, chosen.rate, chosen.loop)
    if live:
        camera = Live(chosen.source, chosen.rate, is_live(chosen.source) or chosen.loop)
        return camera, camera
    return None, read_file(chosen.source, chosen.rate, chosen.loop)


def _encode(shot: Shot, chosen: argparse.Namespace) -> bytes:
    if shot.pixels is None:
        return shot.content
    pixels: Any = shot.pixels
    if chosen.size and pixels.shape[1::-1] != chosen.size:
        pixels = cv2.resize(pixels, chosen.size, interpolation=cv2.INTER_AREA)
    options = [] if chosen.png else [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    good, content = cv2.imencode(".png" if chosen.png else ".jpg", pixels, options)
    if not good:
        raise ServiceError("OpenCV cannot encode a frame")
    return bytes(content)


def _say(sent: int, left_out: int, seconds: float, camera: Live | None) -> None:
    text = f"{sent} frames sent, {sent / max(seconds, 1e-9):.1f} a second"
    if camera is not None:
        text += f", {camera.dropped + left_out} left out, {camera.reconnected} times reconnected"
    print(text, file=sys.stderr, flush=True)
