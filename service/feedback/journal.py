"""Files between the request path and the database: appended to by one process, read by all.

A file holds frames: magic, CRC-32 of all that follows, kind, lengths of the text and the image,
text, image (little-endian). A frame of kind MODEL describes a model; a PREDICTION names it by the
CRC-32 of its text. One write a frame, so that what a process has written outlives it; what is torn
or damaged is skipped, up to the next frame that is whole. It is not synchronised with the disk: a
power cut can take the last seconds.

The process that appends to a file holds a lock on it (flock). A file without one is closed for
good, by a rotation or by a death, and can be imported and deleted. One that the database refuses is
set aside under another name: it takes no room of the others, and only the newest few are kept.
"""

import errno
import fcntl
import json
import os
import struct
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

FOLDER = "spool"
SUFFIX = ".spool"
REFUSED = ".refused"  # of a file that the database can not take; kept for a person to look at
REFUSED_KEPT = 4
LIMIT = 64 << 20  # bytes that all files together may have
LARGE = 4 << 20  # bytes from which on a file is closed, however many there are
TRIES = 3

MAGIC = b"\xc5CVY"
HEAD = struct.Struct("<4sI")
BODY = struct.Struct("<BII")
PREDICTION_TEXT = struct.Struct("<IIdq")  # CRC-32 of the model, class, probability, microseconds
MODEL, PREDICTION = 1, 2


class JournalFull(Exception):
    """The files together have as many bytes as they may."""


class ModelRecord(NamedTuple):
    """What has to be known of a model to take answers about its predictions."""

    tag: str
    sha256: str
    classes: tuple[str, ...]
    floor: float | None
    """Accuracy that the gate asked for, 0 to 1."""
    dtype: str
    shape: tuple[int, ...]
    """Bands, height, width of a chip."""

    def text(self) -> bytes:
        """As JSON: the same for the same model."""
        return json.dumps(self, separators=(",", ":")).encode()


class PredictionRecord(NamedTuple):
    """One prediction."""

    request_id: str
    model: ModelRecord
    best: int
    """Index of the class."""
    probability: float
    moment: int
    """Microseconds since 1970, UTC."""
    chip: bytes
    """(bands, height, width), C order; empty where it is not kept."""


class JournalContents(NamedTuple):
    """What one file holds."""

    found: list[PredictionRecord]
    damaged: int
    """Places where something can not be read."""


class Journal:
    """The files of this process."""

    def __init__(self, folder: Path, limit: int = LIMIT) -> None:
        """Write below a folder, which is made when it is first needed."""
        self.folder = folder
        self.limit = limit
        self.used = 0  # bytes of all files when last measured
        self._fresh = 0  # bytes written since
        self._descriptor: int | None = None
        self._path: Path | None = None
        self._size = 0
        self._model: ModelRecord | None = None
        self._key = 0
        self._closed: list[Path] = []

    def room(self, share: float = 1.0) -> bool:
        """Whether less than a share of the limit is used."""
        return self.used + self._fresh < share * self.limit

    def append(self, seen: PredictionRecord) -> None:
        """Write one prediction; all of it or nothing.

        Raises:
            SpoolFull: there is no room.
            OSError: the disk does not take it.
        """
        if not self.room():
            raise JournalFull
        if self._descriptor is None:
            self._open()
        pieces = []
        if seen.model is not self._model:
            text = seen.model.text()
            self._key = zlib.crc32(text)
            pieces = [*frame(MODEL, text)]
        numbers = PREDICTION_TEXT.pack(self._key, seen.best, seen.probability, seen.moment)
        pieces += frame(PREDICTION, numbers + seen.request_id.encode(), seen.chip)
        self._write(pieces)
        self._model = seen.model

    def rotate(self, force: bool = False) -> None:
        """Close the file, so that it is imported. While imports lag, files stay few and large."""
        self._closed = [path for path in self._closed if path.exists()]
        if self._descriptor is None or self._path is None:
            return
        if force or not self._closed or self._size > LARGE:
            os.close(self._descriptor)
            self._closed.append(self._path)
            self._descriptor = None

    def pending(self) -> bool:
        """Whether a closed file of this process waits to be imported."""
        return any(path.exists() for path in self._closed)

    def measure(self) -> None:
        """Look how much room all files take, of all processes; not what was refused."""
        used = 0
        with suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.endswith(SUFFIX):
                    with suppress(FileNotFoundError):
                        used += entry.stat().st_size
        self.used, self._fresh = used, 0

    def _open(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for _ in range(TRIES):
            path = self.folder / f"{time.time_ns()}-{os.getpid()}{SUFFIX}"
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            descriptor = os.open(path, flags, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # somebody took it for one that was left behind
                os.close(descriptor)
                continue
            if os.fstat(descriptor).st_nlink:
                self._descriptor, self._path = descriptor, path
                self._size, self._model = 0, None
                return
            os.close(descriptor)
        raise BlockingIOError("other processes lock every new file")

    def _write(self, pieces: list[bytes]) -> None:
        assert self._descriptor is not None
        size = sum(map(len, pieces))
        try:
            written = os.writev(self._descriptor, pieces)
        except OSError:
            self._discard()
            raise
        if written != size:
            self._discard()
            raise OSError(errno.ENOSPC, "the disk took a part of it")
        self._size += size
        self._fresh += size

    def _discard(self) -> None:
        """Take back a part of a frame; a file that holds nothing goes."""
        assert self._descriptor is not None and self._path is not None
        with suppress(OSError):
            if self._size:
                os.ftruncate(self._descriptor, self._size)
            else:
                self._path.unlink()
                os.close(self._descriptor)
                self._descriptor = None


def frame(kind: int, text: bytes, image: bytes = b"") -> list[bytes]:
    """Frame a text and an image: the pieces to write."""
    body = BODY.pack(kind, len(text), len(image)) + text
    return [HEAD.pack(MAGIC, zlib.crc32(image, zlib.crc32(body))) + body, image]


def read(data: bytes) -> JournalContents:
    """Read what a file holds, in the order in which it was written."""
    found: list[PredictionRecord] = []
    models: dict[int, ModelRecord] = {}
    at = damaged = 0
    while at < len(data):
        whole = _frame_at(data, at)
        if whole is not None:
            kind, text, image, at = whole
            try:
                damaged += not _take_frame(kind, text, image, models, found)
            except (ValueError, TypeError, struct.error):  # whole, and not what it should be
                damaged += 1
            continue
        after = data.find(MAGIC, at + 1)
        at = after if after >= 0 else len(data)
        damaged += 1
    return JournalContents(found, damaged)


def _take_frame(
    kind: int,
    text: bytes,
    image: bytes,
    models: dict[int, ModelRecord],
    found: list[PredictionRecord],
) -> bool:
    """Add what a frame says; whether it could be understood."""
    if kind == MODEL:
        models[zlib.crc32(text)] = _parse_model(text)
        return True
    if kind != PREDICTION:  # of a newer version
        return False
    key, best, probability, moment = PREDICTION_TEXT.unpack_from(text)
    if (model := models.get(key)) is None:
        return False
    request_id = text[PREDICTION_TEXT.size :].decode()
    found.append(PredictionRecord(request_id, model, best, probability, moment, image))
    return True


def _frame_at(data: bytes, at: int) -> tuple[int, bytes, bytes, int] | None:
    """Kind, text and image of the frame at a place, and where it ends; None when it is not one."""
    start = at + HEAD.size
    if len(data) < start + BODY.size:
        return None
    magic, checksum = HEAD.unpack_from(data, at)
    kind, text_size, image_size = BODY.unpack_from(data, start)
    text_end = start + BODY.size + text_size
    end = text_end + image_size
    if magic != MAGIC or end > len(data) or zlib.crc32(memoryview(data)[start:end]) != checksum:
        return None
    return kind, data[start + BODY.size : text_end], data[text_end:end], end


def _parse_model(text: bytes) -> ModelRecord:
    tag, sha256, classes, floor, dtype, shape = json.loads(text)
    return ModelRecord(tag, sha256, tuple(classes), floor, dtype, tuple(shape))


def files(folder: Path) -> list[Path]:
    """All files, the oldest first."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def find(folder: Path, request_id: str) -> PredictionRecord | None:
    """Look for a prediction that has not been imported yet, also in files that are written to."""
    wanted = request_id.encode()
    for path in files(folder):
        with suppress(OSError):  # imported meanwhile, or one that nobody can read
            data = path.read_bytes()
            if wanted in data:
                for seen in read(data).found:
                    if seen.request_id == request_id:
                        return seen
    return None


def refuse(path: Path) -> None:
    """Set a file aside that the database can not take."""
    path.rename(path.with_suffix(REFUSED))
    forget_refused(path.parent)


def forget_refused(folder: Path, before: float = 0.0) -> None:
    """Delete what was refused but for the newest few, and what is older (seconds since 1970)."""
    for age, path in enumerate(sorted(folder.glob(f"*{REFUSED}"), reverse=True)):
        with suppress(FileNotFoundError):
            if age >= REFUSED_KEPT or path.stat().st_mtime < before:
                path.unlink()


def take(path: Path) -> int | None:
    """Lock a file, as long as the descriptor is open; None while another process has it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return descriptor
