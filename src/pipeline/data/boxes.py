"""Images with the boxes of objects, and maybe their masks -> chips with both.

`images/<name>` is an image of any size; `boxes/<name>.json` lists its objects and names its group: a
place, a flight, a patient. What belongs together looks alike, so a group is in one split alone. A
predefined split is one directory above: `train/images/a.tif` and `train/boxes/a.json`.

    {"group": "busan", "objects": [{"class": "ship", "box": [19, 35, 45, 55]}]}

A box is left, top, right, bottom in pixels from the upper left corner. Where the data have masks, an
object has another field, `"mask": {"size": [64, 64], "counts": [...]}`, its pixels as COCO's RLE.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contracts.faults import first_fault
from contracts.masks import Rle, decode_rle
from pipeline.data import masks
from pipeline.data.chip_table import Row
from pipeline.data.dataset import MOST_OBJECTS, Dataset, label
from pipeline.data.images import Chip, decode, digest, fault
from pipeline.errors import DataError

IMAGES, BOXES = "images", "boxes"


class Object(BaseModel):
    """One object of an image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    class_: str = Field(alias="class")
    box: tuple[float, float, float, float]
    mask: Rle | None = Field(default=None, exclude_if=lambda mask: mask is None)


class Objects(BaseModel):
    """All objects of an image: a file of boxes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    group: str = Field(min_length=1)
    objects: tuple[Object, ...]

    def fault(self, dataset: Dataset, high: int, wide: int) -> str | None:
        """Why the boxes cannot be those of an image of this size, or None when they can."""
        for number, item in enumerate(self.objects):
            left, top, right, bottom = item.box
            if item.class_ not in dataset.classes:
                return f"object {number} is {item.class_}, of no class of the data"
            if not np.isfinite(item.box).all() or right <= left or bottom <= top:
                return f"object {number}: the box {list(item.box)} has no area"
            if left < 0 or top < 0 or right > wide or bottom > high:
                return f"object {number}: {list(item.box)} is outside of {wide} x {high} pixels"
            if dataset.labels == "masks":
                if item.mask is None:
                    return f"object {number} has no mask"
                if item.mask.size != (high, wide):
                    of = " x ".join(map(str, reversed(item.mask.size)))
                    return f"object {number}: its mask is of {of} pixels, not {wide} x {high}"
        return None


class Cut(NamedTuple):
    """The chips of an image."""

    chips: npt.NDArray[Any]
    """(N, bands, size, size)."""
    labels: npt.NDArray[np.float32]
    """(N, MOST_OBJECTS, 5): index of the class, left, top, right, bottom; the class is -1 where
    nothing is. With masks (N, MOST_OBJECTS, masks.WIDTH)."""
    rows: list[Row]
    """Of these chips; `Row.label` is the group, and `Row.row` is not set yet."""


def shape(dataset: Dataset) -> tuple[int, int]:
    """Shape of the labels of a chip."""
    return MOST_OBJECTS, masks.WIDTH if dataset.labels == "masks" else 5


def images(names: Iterable[str]) -> list[str]:
    """The images among the files of `data/`."""
    return [name for name in names if label(name) == IMAGES]


def boxes_of(image: str) -> str:
    """The file of boxes of an image: `train/images/a.tif` -> `train/boxes/a.json`."""
    head, _, name = image.rpartition(f"{IMAGES}/")
    return f"{head}{BOXES}/{PurePosixPath(name).stem}.json"


def read_objects(path: Path) -> Objects:
    """Read a file of boxes.

    Raises:
        DataError: it is missing, or is none.
    """
    try:
        return Objects.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"it has no boxes: {path.parent.name}/{path.name} is missing") from None
    except ValidationError as error:
        raise DataError(f"{path.parent.name}/{path.name}: {first_fault(error)}") from None


def read(folder: Path, image: str, dataset: Dataset) -> tuple[Chip, Objects]:
    """Decode an image, of any size, and read its boxes.

    Raises:
        DataError: one of them cannot be used.
    """
    decoded = decode(image, (folder / image).read_bytes())
    if reason := fault(decoded.pixels, dataset, any_size=True):
        raise DataError(reason)
    objects = read_objects(folder / boxes_of(image))
    _, high, wide = decoded.pixels.shape
    if reason := objects.fault(dataset, high, wide):
        raise DataError(reason)
    in_chip = Counter(place(item, dataset.size) for item in objects.objects)
    if max(in_chip.values(), default=0) > MOST_OBJECTS:
        raise DataError(
            f"a chip has more than {MOST_OBJECTS} objects: ingest with a smaller --size"
        )
    return decoded, objects


def place(item: Object, size: int) -> tuple[int, int]:
    """Row and column of the chip that an object lies in: that of its centre."""
    left, top, right, bottom = item.box
    return int((top + bottom) / 2 // size), int((left + right) / 2 // size)


def cut(folder: Path, image: str, dataset: Dataset) -> Cut:
    """Cut an image into chips that touch; beyond its edges they have no data.

    An object belongs to the chip of its centre, and is cut off at its edges.

    Raises:
        DataError: the image or its boxes cannot be used.
    """
    decoded, objects = read(folder, image, dataset)
    bands, high, wide = decoded.pixels.shape
    size = dataset.size
    down, across = -(-high // size), -(-wide // size)
    whole = np.full((bands, down * size, across * size), dataset.nodata or 0, dataset.dtype)
    whole[:, :high, :wide] = decoded.pixels
    squares = whole.reshape(bands, down, size, across, size).transpose(1, 3, 0, 2, 4)
    chips = squares.reshape(-1, bands, size, size)
    labels = np.full((len(chips), *shape(dataset)), -1, np.float32)
    for item in objects.objects:
        row, column = place(item, size)
        of_chip = labels[row * across + column]
        corner = np.array([column, row, column, row]) * size
        box = (np.array(item.box) - corner).clip(0, size)
        free = int((of_chip[:, 0] >= 0).sum())
        of_chip[free, :5] = (dataset.classes.index(item.class_), *box)
        if dataset.labels == "masks":
            of_chip[free, 5:] = _lines(item, box + corner)
    centre = decoded.centre if len(chips) == 1 else None  # of the image, which is the chip
    rows = [
        Row(-1, image, objects.group, digest(chip), decoded.crs if centre else "", centre)
        for chip in chips
    ]
    return Cut(chips, labels, rows)


def _lines(item: Object, box: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """The mask of an object in a part of its box, packed."""
    assert item.mask is not None
    left, right = int(box[0]), int(np.ceil(box[2]))
    pixels = decode_rle(item.mask.counts, item.mask.size, left, right)
    return masks.pack(masks.sample(pixels, box, left))
