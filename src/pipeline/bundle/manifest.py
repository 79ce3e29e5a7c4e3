"""The model bundle: the one door between training and serving.

A folder with exactly two files, and nothing that executes on load:

    model.onnx   the graph: `chips` (B, bands, H, W) raw -> `probabilities`, `statistics`
    model.json   the manifest below, with the SHA-256 of model.onnx

The service has a reader of its own; `tests/bundle/model.json` is the example both must read.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline import paths
from pipeline.errors import BundleError
from pipeline.files import replacing

GRAPH = "model.onnx"
MANIFEST = "model.json"


class Part(BaseModel):
    """Frozen; an unknown field is an error, not a surprise."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Input(Part):
    """What a chip must be."""

    dtype: Literal["uint8", "uint16"]
    bands: tuple[str, ...]
    height: int
    width: int
    scale: float
    """Digital numbers per unit."""
    units: str
    nodata: int | None
    valid_max: int
    resolution: float | None
    """Ground size of a pixel, metres."""


class Histogram(Part):
    """Reference distribution of one signal: `counts[i]` values lie in [edges[i], edges[i+1])."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


class Reference(Part):
    """How unseen data looked when the model was trained; drift is measured against it."""

    samples: int
    signals: dict[str, Histogram]
    """`mean/B02`, `std/B02`, ..., `confidence`."""
    classes: dict[str, int]
    """Predictions per class."""


class Golden(Part):
    """One chip with its answer: what a server must reproduce before it serves the model."""

    chip: str
    """The array (bands, H, W) as bytes, little-endian, zlib-compressed, base64."""
    probabilities: tuple[float, ...]


class Training(Part):
    """Where the model comes from."""

    finished: str
    """UTC, ISO 8601."""
    seconds: float
    hardware: str
    git_revision: str
    """Commit it was trained at; ends in `-dirty` when files differed from it."""
    data_version: str
    """md5 in data.dvc."""
    params: dict[str, dict[str, Any]]
    libraries: dict[str, str]


class Manifest(Part):
    """All of model.json."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    name: str
    task: Literal["classification"]
    classes: tuple[str, ...]
    input: Input
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    training: Training
    statistics: tuple[str, ...]
    """Names along the last axis of the output `statistics`."""
    reference: Reference
    golden: tuple[Golden, ...]


def sha256(content: bytes) -> str:
    """Digest that identifies a model."""
    return hashlib.sha256(content).hexdigest()


def write_bundle(graph: bytes, manifest: Manifest, folder: Path = paths.MODEL) -> None:
    """Write the bundle in one step."""
    document = manifest.model_dump(mode="json", by_alias=True)
    with replacing(folder) as fresh:
        (fresh / GRAPH).write_bytes(graph)
        (fresh / MANIFEST).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def read_bundle(folder: Path = paths.MODEL) -> tuple[bytes, Manifest]:
    """Read a bundle and verify it.

    Raises:
        BundleError: a file is missing or too many, the manifest is of another schema, or the
            graph is not the one that the manifest names.
    """
    if not folder.is_dir():
        raise BundleError(f"{folder}/ is missing: run `dvc repro` to train, or `dvc pull {folder}`")
    found = sorted(item.name for item in folder.iterdir())
    if found != [MANIFEST, GRAPH]:
        raise BundleError(
            f"{folder}/ holds {', '.join(found) or 'nothing'}; a bundle is {MANIFEST} and {GRAPH}, "
            f"no more and no less: train or pull it again"
        )
    if any((folder / name).is_symlink() for name in found):
        raise BundleError(f"{folder}/ holds a symbolic link; a bundle is two plain files")
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{folder / MANIFEST}: {field}: {first['msg']}; train it again") from None
    graph = (folder / GRAPH).read_bytes()
    if (digest := sha256(graph)) != manifest.sha256:
        raise BundleError(
            f"{folder / GRAPH} has SHA-256 {digest[:12]}..., the manifest says "
            f"{manifest.sha256[:12]}...: it was altered or cut off, pull or train it again"
        )
    return graph, manifest
