"""The schema of model.json: the one thing that passes between training and serving.

A bundle is a folder with exactly two files, and nothing in it executes on load:

    model.onnx   the graph: `chips` (B, bands, H, W) raw -> the outputs of its task
    model.json   the manifest below, with the SHA-256 of model.onnx

| task           | schema | outputs of the graph beside `statistics` (B, bands, 5)              |
|----------------|--------|---------------------------------------------------------------------|
| classification | 1      | `probabilities` (B, classes)                                        |
| segmentation   | 2      | `labels`, `confidence` (B, H, W) uint8; H, W: multiples of `stride` |
| detection      | 2      | `boxes` (B, K, 4), `scores` (B, K), `labels` (B, K) int64; H, W so  |
| instances      | 2      | as detection, and `masks` (B, K, n, n) uint8, cells of the boxes    |

Writers are strict: a manifest that is made with an unknown field is an error. Readers are tolerant:
`parse_manifest` drops the fields that a newer pipeline adds within a schema. Another task is
another subclass of `Bundle`, told apart by `task`, and a row in `Manifest`.
"""

import base64
import zlib
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    import numpy.typing as npt

GRAPH = "model.onnx"
MANIFEST = "model.json"
SHA256 = "^[0-9a-f]{64}$"
NODATA = 255
"""A pixel of a map without an answer; in labels for training, one without a label."""


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
    offset: int = Field(default=0, exclude_if=lambda offset: offset == 0)
    """Digital numbers that are added to a value before `scale` divides it."""
    units: str
    nodata: int | None
    valid_max: int
    resolution: float | None
    """Ground size of a pixel, metres."""
    fit: Literal["", "crop", "pad", "stretch"] = ""
    """How images of another size became chips (contracts.images.Fit); empty: they are refused."""
    multiple: int = Field(default=0, ge=0, le=1024, exclude_if=lambda multiple: multiple == 0)
    """Pixels: images of any size are taken, padded to a multiple of it; 0: of this size alone."""

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


class GoldenChip(Part):
    """One chip with its answer: a server reproduces it before it serves the model."""

    chip: str
    """The array (bands, H, W) as bytes, little-endian, zlib-compressed, base64."""


class Golden(GoldenChip):
    """One chip with its probabilities."""

    probabilities: tuple[float, ...]


class GoldenMap(GoldenChip):
    """One chip with its map."""

    labels: str
    """The classes of its pixels (H, W) uint8, packed as the chip is."""


class GoldenObjects(GoldenChip):
    """One chip with what is found in it, the surest first."""

    boxes: tuple[tuple[float, float, float, float], ...]
    """Left, top, right, bottom, pixels."""
    scores: tuple[float, ...]
    labels: tuple[int, ...]
    """Indices of the classes."""


class GoldenMasks(GoldenObjects):
    """One chip with what is found in it, and the mask of each."""

    masks: str
    """Cells of the boxes (objects, n, n) uint8, packed as the chip is."""


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


class Area(Part):
    """Where and when the images were taken that the model was trained on."""

    west: float = Field(ge=-180, le=180)
    """Degrees, WGS 84; more than `east` where the area crosses the date line."""
    south: float = Field(ge=-90, le=90)
    east: float = Field(ge=-180, le=180)
    north: float = Field(ge=-90, le=90)
    first: str = ""
    """Date of the first image, ISO 8601; empty where the data do not say."""
    last: str = ""


class Bundle(Part):
    """What model.json holds for every task."""

    schema_version: int = Field(alias="schema")
    name: str
    input: Input
    sha256: str = Field(pattern=SHA256)
    training: Training
    statistics: tuple[str, ...]
    """Names along the last axis of the output `statistics`."""
    task: str
    classes: tuple[str, ...]
    reference: Reference


class Classification(Bundle):
    """All of model.json of a classifier: one class a chip."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    task: Literal["classification"]
    classes: tuple[str, ...] = Field(min_length=2, max_length=65536)
    golden: tuple[Golden, ...] = Field(min_length=1)


class Segmentation(Bundle):
    """All of model.json of a model that maps: one class a pixel.

    Input height and width are those of the chips of training; the graph takes any multiple of
    `stride`.
    """

    schema_version: Literal[2] = Field(default=2, alias="schema")
    task: Literal["segmentation"]
    classes: tuple[str, ...] = Field(min_length=2, max_length=NODATA)
    """The value of a pixel of `labels` is the index of its class, or NODATA."""
    colours: tuple[Annotated[str, Field(pattern="^#[0-9a-f]{6}$")], ...]
    """Of each class on a map."""
    stride: int = Field(ge=1, le=1024)
    """Pixels: the origin and the edges of a tile are multiples of it."""
    margin: int = Field(ge=0, le=65536)
    """Pixels around a tile that its answer depends on, a multiple of `stride`."""
    exact: bool
    """Whether tiles with that margin give, pixel by pixel, the map of the scene as a whole."""
    area: Area | None = None
    golden: tuple[GoldenMap, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits_together(self) -> "Segmentation":
        if len(self.colours) != len(self.classes):
            raise ValueError(f"{len(self.colours)} colours for {len(self.classes)} classes")
        if self.margin % self.stride:
            raise ValueError(f"margin {self.margin} is no multiple of stride {self.stride}")
        return self


class Objects(Bundle):
    """What model.json holds of a model that finds objects: a box, a class and a score each.

    Input height and width are those of the chips of training; the graph takes any multiple of
    `input.multiple`.
    """

    schema_version: Literal[2] = Field(default=2, alias="schema")
    classes: tuple[str, ...] = Field(min_length=1, max_length=65536)
    threshold: float = Field(ge=0, le=1)
    """Score from which a box is an object: the best F1 on the validation split."""
    golden: tuple[GoldenObjects, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits_together(self) -> "Objects":
        if not self.input.multiple:
            raise ValueError("input.multiple is 0, wanted what the edges are multiples of")
        for number, golden in enumerate(self.golden):
            if not len(golden.boxes) == len(golden.scores) == len(golden.labels):
                raise ValueError(f"golden chip {number}: not as many boxes as scores and labels")
            if any(not 0 <= label < len(self.classes) for label in golden.labels):
                raise ValueError(f"golden chip {number}: a label has no class")
        return self


class Detection(Objects):
    """All of model.json of a model that finds objects in boxes."""

    task: Literal["detection"]


class Instances(Objects):
    """All of model.json of a model that finds objects in boxes, and a mask of each."""

    task: Literal["instances"]
    golden: tuple[GoldenMasks, ...] = Field(min_length=1)


Manifest = Classification | Segmentation | Detection | Instances
"""model.json of any task."""

MANIFESTS: dict[
    str, type[Classification] | type[Segmentation] | type[Detection] | type[Instances]
] = {
    "classification": Classification,
    "segmentation": Segmentation,
    "detection": Detection,
    "instances": Instances,
}


class _Tag(Part):
    task: Literal["classification", "segmentation", "detection", "instances"]


def pack(array: "npt.NDArray[Any]") -> str:
    """Pack an array into text: little-endian bytes, zlib, base64."""
    content = array.astype(array.dtype.newbyteorder("<")).tobytes()
    return base64.b64encode(zlib.compress(content, 9)).decode()


def parse_manifest(document: bytes) -> Manifest:
    """Read the text of model.json.

    Raises:
        pydantic.ValidationError: it is of another schema or task, or a field cannot be used.
    """
    task = _Tag.model_validate_json(document, extra="ignore").task
    return MANIFESTS[task].model_validate_json(document, extra="ignore")
