"""Reads and verifies the model bundle, whose schema is `contracts.bundle`."""

import base64
import hashlib
import os
import stat
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from contracts import bundle as schema
from contracts.bundle import GRAPH, MANIFEST, Input, Manifest
from contracts.faults import first_fault
from service.errors import BundleRefused

MAX_MANIFEST = 16 << 20  # bytes; golden chips are most of it
MAX_GRAPH = 2 << 30  # bytes; what protobuf can hold

Array = npt.NDArray[Any]


class Bundle(NamedTuple):
    """A verified bundle in memory."""

    manifest: Manifest
    graph: bytes
    document: bytes
    """model.json as it is."""


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle and verify it.

    Raises:
        BundleRefused: a file is missing, surplus, not a plain file, too large or of another schema,
            or the graph does not have the digest in the manifest.
    """
    try:
        found = sorted(item.name for item in folder.iterdir())
    except OSError:
        raise BundleRefused(
            "the model bundle is missing: train one with `dvc repro`, or get it with `dvc pull`"
        ) from None
    if found != [MANIFEST, GRAPH]:
        raise BundleRefused(
            f"the bundle holds {', '.join(found[:5]) or 'nothing'}; "
            f"wanted {MANIFEST} and {GRAPH}, no more and no less: train or pull it again"
        )
    document = _read_plain(folder / MANIFEST, MAX_MANIFEST)
    graph = _read_plain(folder / GRAPH, MAX_GRAPH)
    manifest = parse_manifest(document)
    if (digest := hashlib.sha256(graph).hexdigest()) != manifest.sha256:
        raise BundleRefused(
            f"{GRAPH} has SHA-256 {digest[:12]}..., {MANIFEST} says {manifest.sha256[:12]}...: "
            "it was altered or cut off, pull or train it again"
        )
    return Bundle(manifest, graph, document)


def parse_manifest(document: bytes) -> Manifest:
    """Read the text of model.json.

    Raises:
        BundleRefused: it has another schema, or an invalid field.
    """
    try:
        return schema.parse_manifest(document)
    except ValidationError as error:
        fault = first_fault(error, "the file")
        raise BundleRefused(f"{MANIFEST}: {fault}; train it again") from None


def _read_plain(path: Path, limit: int) -> bytes:
    try:
        # Links are followed: `cache.type symlink` of DVC lays a bundle out so.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise BundleRefused(f"{path.name} cannot be read: {error.strerror}") from None
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise BundleRefused(f"{path.name} is not a plain file")
    with open(handle, "rb") as file:
        if status.st_size > limit:
            raise BundleRefused(f"{path.name} has {status.st_size} bytes, at most {limit} are read")
        return file.read()


def decode_chip(text: str, wanted: Input) -> Array:
    """Unpack a golden chip: base64 of zlib of little-endian bytes -> (bands, height, width).

    Raises:
        BundleRefused: it is not such a chip.
    """
    return unpack(text, wanted.dtype, wanted.shape)


def unpack(text: str, dtype: str, shape: tuple[int, ...]) -> Array:
    """Unpack an array: base64 of zlib of little-endian bytes.

    Raises:
        BundleRefused: it is not such an array.
    """
    size = np.dtype(dtype).itemsize * int(np.prod(shape))
    try:
        unpack = zlib.decompressobj()
        content = unpack.decompress(base64.b64decode(text, validate=True), size + 1)
    except (ValueError, zlib.error) as error:  # ValueError: not base64, or not even ASCII
        raise BundleRefused(f"{MANIFEST}: golden: {error}; train it again") from None
    if len(content) != size:
        raise BundleRefused(f"{MANIFEST}: golden: {len(content)} bytes, wanted {size}")
    little = np.dtype(dtype).newbyteorder("<")
    return np.frombuffer(content, little).astype(dtype).reshape(shape)
