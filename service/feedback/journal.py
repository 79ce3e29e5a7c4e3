"""Append-only journal of predictions: files between the request path and the database.

A file holds frames: magic, CRC-32 of all that follows, kind, lengths of the text and the image,
text, image (little-endian). A frame of kind MODEL describes a model; a PREDICTION names it by the
CRC-32 of its text. A ROUTED one says more: why that model answered, and an OBJECTS one that and
what was found. Each frame is one write, so a frame survives the death of its process. Readers skip
torn and damaged bytes up to the next whole frame. Files are not synchronised with the disk: a power
cut can lose the last seconds.

A process holds a lock (flock) on the file to which it appends. A file without a lock was closed by
a rotation, or its process died: it can be imported and deleted. A file that the database refuses is
renamed: it no longer counts towards the limit, and only the newest few are kept.
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

from service.feedback.objects import FoundObjects

FOLDER = "spool"
SUFFIX = ".spool"
REFUSED = ".refused"  # of a file that the database refused; kept for inspection
REFUSED_KEPT = 4
LIMIT = 64 << 20  # bytes that all files together may have
LARGE = 4 << 20  # bytes above which a file is closed even while imports lag
TRIES = 3

MAGIC = b"\xc5CVY"
HEAD = struct.Struct("<4sI")
BODY = struct.Struct("<BII")
PREDICTION_TEXT = struct.Struct("<IIdq")  # CRC-32 of the model, class, probability, microseconds
ROUTED_TEXT = struct.Struct("<dB")  # propensity, bytes of the name of the rule
OBJECTS_TEXT = struct.Struct("<I")  # bytes of the JSON of the objects
MODEL, PREDICTION, ROUTED, OBJECTS = 1, 2, 3, 4


class JournalFull(Exception):
    """The files together have reached their limit."""


class ModelRecord(NamedTuple):
    """Facts of a model that labels of its predictions are checked and counted against."""

    tag: str
    sha256: str
    classes: tuple[str, ...]
    floor: float | None
    """Accuracy that the gate asked for, 0 to 1."""
    dtype: str
    shape: tuple[int, ...]
    """Bands, height, width of a chip."""

    def to_json(self) -> bytes:
        """Write it as JSON, the same for the same model."""
        return json.dumps(self, separators=(",", ":")).encode()


class Routed(NamedTuple):
    """Why a model answered: rules of the traffic chose it."""

    rule: str
    """Their name, ASCII, 63 letters at most."""
    propensity: float
    """How likely they were to choose it, 0 to 1."""


UNROUTED = Routed("", 0.0)
"""No rules chose: in a frame that has room for them."""


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
    routed: Routed | None = None
    found: FoundObjects | None = None
    """Of a model that finds objects."""


class JournalContents(NamedTuple):
    """Predictions read from one file."""

    predictions: list[PredictionRecord]
    damaged: int
    """Places with unreadable bytes."""


class Journal:
    """Writes the journal files of this process."""

    def __init__(self, folder: Path, limit: int = LIMIT) -> None:
        """Write below a folder, created with the first prediction."""
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

    def has_room(self, share: float = 1.0) -> bool:
        """Return whether the files use less than a share of the limit."""
        return self.used + self._fresh < share * self.limit

    def append_prediction(self, seen: PredictionRecord) -> None:
        """Append one prediction, whole or not at all.

        Raises:
            JournalFull: the files have reached their limit.
            OSError: the disk is full or fails.
        """
        if not self.has_room():
            raise JournalFull
        if self._descriptor is None:
            self._open()
        pieces = []
        if seen.model is not self._model:
            text = seen.model.to_json()
            self._key = zlib.crc32(text)
            pieces = [*encode_frame(MODEL, text)]
        numbers = PREDICTION_TEXT.pack(self._key, seen.best, seen.probability, seen.moment)
        kind = PREDICTION
        if seen.routed is not None or seen.found is not None:
            kind, (rule, propensity) = ROUTED, seen.routed or UNROUTED
            numbers += ROUTED_TEXT.pack(propensity, len(rule.encode())) + rule.encode()
        if seen.found is not None:
            kind, objects = OBJECTS, seen.found.to_json().encode()
            numbers += OBJECTS_TEXT.pack(len(objects)) + objects
        pieces += encode_frame(kind, numbers + seen.request_id.encode(), seen.chip)
        self._write(pieces)
        self._model = seen.model

    def rotate_file(self, force: bool = False) -> None:
        """Close the file for the importer. While imports lag, files stay few and large."""
        self._closed = [path for path in self._closed if path.exists()]
        if self._descriptor is None or self._path is None:
            return
        if force or not self._closed or self._size > LARGE:
            os.close(self._descriptor)
            self._closed.append(self._path)
            self._descriptor = None

    def has_pending_files(self) -> bool:
        """Return whether a closed file of this process waits for the importer."""
        return any(path.exists() for path in self._closed)

    def measure_size(self) -> None:
        """Sum the bytes of the files of all processes, without refused ones."""
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
            except BlockingIOError:  # an importer locked the new file first
                os.close(descriptor)
                continue
            if os.fstat(descriptor).st_nlink:
                self._descriptor, self._path = descriptor, path
                self._size, self._model = 0, None
                return
            os.close(descriptor)
        raise BlockingIOError("other processes locked every new file")

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
        """Truncate a partly written frame; delete the file if it holds no other."""
        assert self._descriptor is not None and self._path is not None
        with suppress(OSError):
            if self._size:
                os.ftruncate(self._descriptor, self._size)
            else:
                self._path.unlink()
                os.close(self._descriptor)
                self._descriptor = None


def encode_frame(kind: int, text: bytes, image: bytes = b"") -> list[bytes]:
    """Encode a text and an image as a frame: the pieces to write."""
    body = BODY.pack(kind, len(text), len(image)) + text
    return [HEAD.pack(MAGIC, zlib.crc32(image, zlib.crc32(body))) + body, image]


def read_frames(data: bytes) -> JournalContents:
    """Read the predictions of a file, in the order in which they were written."""
    found: list[PredictionRecord] = []
    models: dict[int, ModelRecord] = {}
    at = damaged = 0
    while at < len(data):
        whole = _frame_at(data, at)
        if whole is not None:
            kind, text, image, at = whole
            try:
                damaged += not _take_frame(kind, text, image, models, found)
            except (ValueError, TypeError, struct.error):  # a whole frame with invalid content
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
    """Add the model or prediction of a frame; return whether the frame is known."""
    if kind == MODEL:
        models[zlib.crc32(text)] = _parse_model(text)
        return True
    if kind not in (PREDICTION, ROUTED, OBJECTS):  # of a newer version
        return False
    key, best, probability, moment = PREDICTION_TEXT.unpack_from(text)
    if (model := models.get(key)) is None:
        return False
    routed, objects, start = None, None, PREDICTION_TEXT.size
    if kind != PREDICTION:
        propensity, length = ROUTED_TEXT.unpack_from(text, start)
        start += ROUTED_TEXT.size + length
        routed = Routed(text[start - length : start].decode(), propensity) if length else None
    if kind == OBJECTS:
        (length,) = OBJECTS_TEXT.unpack_from(text, start)
        start += OBJECTS_TEXT.size + length
        objects = FoundObjects.from_json(text[start - length : start].decode())
    request_id = text[start:].decode()
    facts = (request_id, model, best, probability, moment, image)
    found.append(PredictionRecord(*facts, routed, objects))
    return True


def _frame_at(data: bytes, at: int) -> tuple[int, bytes, bytes, int] | None:
    """Return kind, text, image and end of the frame at a position; None without a whole frame."""
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


def journal_files(folder: Path) -> list[Path]:
    """List all files, the oldest first."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def find_prediction(folder: Path, request_id: str) -> PredictionRecord | None:
    """Find a prediction that was not imported yet, also in files that still grow."""
    wanted = request_id.encode()
    for path in journal_files(folder):
        with suppress(OSError):  # imported meanwhile, or unreadable
            data = path.read_bytes()
            if wanted in data:
                for seen in read_frames(data).predictions:
                    if seen.request_id == request_id:
                        return seen
    return None


def set_aside(path: Path) -> None:
    """Rename a file that the database refused."""
    path.rename(path.with_suffix(REFUSED))
    prune_refused(path.parent)


def prune_refused(folder: Path, before: float = 0.0) -> None:
    """Delete refused files except the newest few, and those from before a time (since 1970)."""
    for age, path in enumerate(sorted(folder.glob(f"*{REFUSED}"), reverse=True)):
        with suppress(FileNotFoundError):
            if age >= REFUSED_KEPT or path.stat().st_mtime < before:
                path.unlink()


def lock_file(path: Path) -> int | None:
    """Lock a file until its descriptor is closed; None while another process holds the lock."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return descriptor
