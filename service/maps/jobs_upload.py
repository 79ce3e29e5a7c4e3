"""Takes the scene of a request: checks headers, writes it to disk piece by piece, measures it."""

import asyncio
import hashlib
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from fastapi import Request
from starlette.types import Receive

from service.errors import BadRequest, SlowUpload, TooLarge, UnsupportedMedia
from service.http.body import Disconnected
from service.swap.cache import disk_errors

TIFF = "image/tiff"
TAKEN = (TIFF, "application/octet-stream", "application/x-www-form-urlencoded", "")
"""Types of a body; the third is what curl says unless it is told."""
PIECE = 1 << 20  # bytes that are written at once
LINGER = 5.0  # seconds to read the rest of a scene that is too large
TAGS = 4096  # of a TIFF


class UploadLimits(NamedTuple):
    """Limits of a scene."""

    size: int
    """Bytes."""
    seconds: float
    pixels: int
    at_once: int
    """Pixels of the largest scene that is answered at once."""


class Upload(NamedTuple):
    """A scene that lies on disk."""

    size: int
    sha256: str
    height: int
    width: int


async def check_headers(request: Request, limits: UploadLimits) -> None:
    """Refuse by the headers what need not be read. Raises ServiceError."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in TAKEN:
        raise UnsupportedMedia(
            f"content-type: {kind[:64]!a} is not taken, send the GeoTIFF as the bare body, with "
            f"{TIFF}: curl -T scene.tif -X POST .../maps"
        )
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMedia("content-encoding: send the scene as it is, not compressed again")
    length = request.headers.get("content-length")
    if length is not None and int(length) > limits.size:
        if "expect" not in request.headers:  # else the client waits, and has sent nothing
            await _read_rest(request.receive)
        raise _too_large(limits.size)


async def receive_scene(request: Request, path: Path, limits: UploadLimits) -> Upload:
    """Write the body of a request to disk.

    Raises:
        ServiceError: it is over a limit, no GeoTIFF, or the disk is full.
        Disconnected: the client left before it had sent everything.
    """
    try:
        async with asyncio.timeout(limits.seconds):
            with disk_errors(), path.open("wb") as file:
                digest = await _write_body(request, file, limits.size)
    except TimeoutError:
        raise SlowUpload(
            f"the scene took longer than {limits.seconds:g} s: send it again, or in parts"
        ) from None
    height, width = await asyncio.to_thread(read_size, path)
    if height * width > limits.pixels:
        raise TooLarge(
            f"the scene has {width} x {height} pixels, at most {limits.pixels} are mapped here: "
            "cut it into scenes, or map it with python -m service map"
        )
    return Upload(path.stat().st_size, digest, height, width)


async def _write_body(request: Request, file: BinaryIO, most: int) -> str:
    """Write the body piece by piece; its SHA-256."""
    state, receive = request.scope["state"], request.receive
    digest, pieces, held, arrived = hashlib.sha256(), list[bytes](), 0, 0

    def write() -> None:
        for piece in pieces:
            file.write(piece)
            digest.update(piece)

    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        piece, more = message.get("body", b""), message.get("more_body", False)
        if arrived == 0 and piece and piece[:2] not in (b"II", b"MM"):
            raise UnsupportedMedia(
                "the body is no TIFF: send a GeoTIFF, with bands, CRS and transform in it"
            )
        arrived += len(piece)
        state["bytes_in"] = arrived
        if arrived > most:
            if more:
                await _read_rest(receive)
            raise _too_large(most)
        pieces.append(piece)
        held += len(piece)
        if held >= PIECE or not more:
            await asyncio.to_thread(write)
            pieces.clear()
            held = 0
    if arrived == 0:
        raise BadRequest("the body is empty: send a GeoTIFF, as curl -T scene.tif -X POST .../maps")
    await asyncio.to_thread(_sync, file)
    return digest.hexdigest()


def _too_large(most: int) -> TooLarge:
    return TooLarge(
        f"the scene has more than {most} bytes: compress it (gdal_translate -of COG), or cut it "
        "into scenes",
        unread=True,
    )


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


async def _read_rest(receive: Receive) -> None:
    """Read on for a while: a client that still sends would not read the answer."""
    more = True
    try:
        async with asyncio.timeout(LINGER):
            while more:
                message = await receive()
                more = message.get("more_body", False)
    except TimeoutError:
        return


def read_size(path: Path) -> tuple[int, int]:
    """Height and width of a TIFF, from its first directory; GDAL is for another process.

    Raises:
        UnsupportedMedia: it is none, or ends before that.
    """
    try:
        with path.open("rb") as file:
            found = _first_tags(file, (256, 257))
            width, height = found[256], found[257]
    except (struct.error, KeyError, OverflowError, ValueError):
        raise UnsupportedMedia(
            "the body is no TIFF that can be read: convert it (gdal_translate), or send it again "
            "if it was cut off"
        ) from None
    return height, width


def _first_tags(file: BinaryIO, wanted: tuple[int, ...]) -> dict[int, int]:
    """Whole numbers of the first directory, TIFF 6.0 or BigTIFF."""
    order = {b"II": "<", b"MM": ">"}[file.read(2)]

    def read(code: str) -> Any:
        return struct.unpack(order + code, file.read(struct.calcsize(order + code)))

    (version,) = read("H")
    big = {42: False, 43: True}[version]
    (start,) = read("4xQ" if big else "I")
    file.seek(start)
    (count,) = read("Q" if big else "H")
    found = {}
    for _ in range(min(count, TAGS)):
        tag, kind, _, value = read("HHQ8s" if big else "HHI4s")
        if tag in wanted:
            code = {1: "B", 3: "H", 4: "I", 16: "Q"}[kind]
            found[tag] = struct.unpack_from(order + code, value)[0]
    return found
