"""Frames of a source: all of a file or folder; of what is live the newest, through outages."""

import logging
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from contracts.images import SUFFIXES
from service.errors import NotFound, Unprocessable

LONGEST_PAUSE = 10.0  # seconds between two tries to connect
PARTING = 2.0  # seconds that a source may take to end; one that is being connected takes 30

Pixels = npt.NDArray[np.uint8]

log = logging.getLogger("service.camera")


class Shot(NamedTuple):
    """One picture and when it was taken."""

    captured_at: datetime
    pixels: Pixels | None
    """(height, width, 3), blue first, as OpenCV has it."""
    content: bytes = b""
    """Of an image file, which travels as it is."""


class Clock:
    """Spaces frames evenly: at most so many a second."""

    def __init__(self, rate: float) -> None:
        """0 is as fast as they come."""
        self._pause = 1 / rate if rate else 0.0
        self._next = time.monotonic()

    def wait(self) -> None:
        """Wait for the time of the next frame. Time that was lost is not made up for."""
        now = time.monotonic()
        if self._next > now:
            time.sleep(self._next - now)
        self._next = max(self._next + self._pause, now)


def is_live(source: str) -> bool:
    """Whether it goes on while nobody reads: a device or a stream."""
    return source.isdigit() or "://" in source


def read_file(path: str, rate: float, loop: bool) -> Iterator[Shot]:
    """Every frame of a file, `rate` a second; 0 is the file's own rate.

    Raises:
        NotFound, Unprocessable: there is no such file, or no video in it.
    """
    if not Path(path).is_file():
        raise NotFound(
            f"SOURCE {path}: there is no such file; a device is a number, a stream a URL"
        )
    first = True
    while first or loop:
        capture = cv2.VideoCapture(path)
        try:
            clock = Clock(rate or _rate(capture))
            empty = True
            while (pixels := _next(capture)) is not None:
                empty = False
                clock.wait()
                yield Shot(datetime.now(UTC), pixels)
            if empty:
                raise Unprocessable(f"SOURCE {path}: OpenCV finds no frame in it")
        finally:
            capture.release()
        first = False


def read_folder(folder: Path, rate: float, loop: bool) -> Iterator[Shot]:
    """Every image file of a folder as it is, by name, `rate` a second; 0 is as fast as it goes.

    Raises:
        NotFound: there is none.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise NotFound(f"SOURCE {folder}: no image in it: {', '.join(SUFFIXES)} are sent")
    clock, first = Clock(rate), True
    while first or loop:
        for path in paths:
            clock.wait()
            yield Shot(datetime.now(UTC), None, path.read_bytes())
        first = False


class Live:
    """Reads a live source in a thread of its own, and keeps the newest frame alone."""

    def __init__(self, source: str, rate: float, loop: bool = True) -> None:
        """Connect, and connect again for as long as it runs; a file ends unless it loops."""
        self._source = int(source) if source.isdigit() else source
        self._clock = Clock(rate)
        self._loop = loop
        self._newest: Shot | None = None
        self._changed = threading.Condition()
        self._ended = False
        self._closed = threading.Event()
        self.dropped = 0
        self.reconnected = 0
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __iter__(self) -> Iterator[Shot]:
        """The newest frame, each once, until the source ends for good."""
        self._thread.start()
        while True:
            self._clock.wait()
            with self._changed:
                self._changed.wait_for(lambda: self._newest is not None or self._ended)
                shot, self._newest = self._newest, None
            if shot is None:
                return
            yield shot

    def close(self) -> None:
        """Read and connect no more; the thread may still wait for the source."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(PARTING)

    def _read(self) -> None:
        pause = 0.5
        try:
            while True:
                capture = cv2.VideoCapture(self._source)
                clock = Clock(0 if is_live(str(self._source)) else _rate(capture))
                while not self._closed.is_set() and (pixels := _next(capture)) is not None:
                    pause = 0.5
                    clock.wait()
                    self._put(Shot(datetime.now(UTC), pixels))
                capture.release()
                if not self._loop or self._closed.is_set():
                    return
                self.reconnected += 1
                log.warning("the source is away: it is tried again in %g s", pause)
                self._closed.wait(pause)
                pause = min(LONGEST_PAUSE, 2 * pause)
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify()

    def _put(self, shot: Shot) -> None:
        with self._changed:
            self.dropped += self._newest is not None
            self._newest = shot
            self._changed.notify()


def _rate(capture: Any) -> float:
    """Frames a second that a file names; some name nonsense."""
    return min(240.0, max(0.0, float(capture.get(cv2.CAP_PROP_FPS))))


def _next(capture: Any) -> Pixels | None:
    good, pixels = capture.read() if capture.isOpened() else (False, None)
    return pixels if good else None
