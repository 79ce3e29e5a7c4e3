"""The schema of model.json: the one thing that passes between training and serving.

A bundle is a folder with exactly two files, and nothing in it executes on load:

    model.onnx   the graph: `chips` (B, bands, H, W) raw -> `probabilities`, `statistics`
    model.json   the manifest below, with the SHA-256 of model.onnx

Writers are strict: a manifest that is made with an unknown field is an error. Readers are tolerant:
`parse_manifest` drops the fields that a newer pipeline adds within a schema. Another task is
another subclass of `Bundle`, told apart by `task`; an older schema, once there is one, is converted
here.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

GRAPH = "model.onnx"
MANIFEST = "model.json"
SHA256 = "^[0-9a-f]{64}$"


class Part(BaseModel):
    """Frozen; an unknown field is an error, not a surprise."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Input(Part):
    """What a chip must be."""

    dtype: Literal["uint8", "uint16"]
    bands: tuple[str, ...] = Field(min_length=1, max_length=4096)
    height: int = Field(ge=1, le=65536)
    width: int = Field(ge=1, le=65536)
    scale: float
    """Digital numbers per unit."""
    units: str
    nodata: int | None
    valid_max: int
    resolution: float | None
    """Ground size of a pixel, metres."""
    fit: Literal["", "crop", "pad", "stretch"] = ""
    """How images of another size became chips (contracts.images.Fit); empty: they are refused."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Bands, height, width."""
        return len(self.bands), self.height, self.width


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
    """One chip with its probabilities: a server reproduces them before it serves the model."""

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
    """Commit it was trained at; ends in `-dirty` when inputs of the training differed from it."""
    data_version: str
    """md5 in data.dvc."""
    params: Any
    """params.yaml by section."""
    libraries: dict[str, str]

    @property
    def min_accuracy(self) -> float | None:
        """The gate's floor of the accuracy, 0 to 1; None when the manifest does not state one."""
        gate = self.params.get("gate") if isinstance(self.params, dict) else None
        floor = gate.get("min_accuracy") if isinstance(gate, dict) else None
        if isinstance(floor, bool) or not isinstance(floor, int | float):
            return None
        return float(floor) if 0 <= floor <= 1 else None


class Bundle(Part):
    """What model.json holds for every task."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    name: str
    input: Input
    sha256: str = Field(pattern=SHA256)
    training: Training
    statistics: tuple[str, ...]
    """Names along the last axis of the output `statistics`."""


class Classification(Bundle):
    """All of model.json of a classifier."""

    task: Literal["classification"]
    classes: tuple[str, ...] = Field(min_length=2, max_length=65536)
    reference: Reference
    golden: tuple[Golden, ...] = Field(min_length=1)


Manifest = Classification
"""The union of the tasks, by `task`; one so far."""


def parse_manifest(document: bytes) -> Manifest:
    """Read the text of model.json.

    Raises:
        pydantic.ValidationError: it is of another schema, or a field cannot be used.
    """
    return Classification.model_validate_json(document, extra="ignore")
