"""What a data set is: the description that travels with the files as `data/dataset.json`.

An adapter writes it once at ingest; every later stage reads it, so that bands, classes and units
are stated in one place and never in code.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from contracts.faults import first_fault
from pipeline.errors import DataError

FILE_NAME = "dataset.json"
Maps = npt.NDArray[np.uint8]
"""(N, height, width): index of the class of each pixel, or contracts.bundle.NODATA."""
SPLITS = ("train", "validation", "test")
MOST_OBJECTS = 100  # of a chip: as many as COCO counts of an image
PIXELS_AT_A_TIME = 256 * 128 * 128
Kind = Literal["folders", "maps", "boxes", "masks"]
"""How images are labelled; see `Dataset.labels`."""


def _unless(default: Any) -> Any:
    """A field that is written only if it differs: the same data keep the version they had."""
    return Field(default, exclude_if=lambda value: value == default)


class Dataset(BaseModel):
    """A set of labelled images of one type, from which square chips of one shape are made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    labels: Kind = _unless("folders")
    """Folders: an image is a chip, and its directory is its class. Maps: `images/<name>.tif` is cut
    into chips, and `labels/<name>.tif`, on the same grid, has the class of every pixel. Boxes: so
    is `images/<name>`, and `boxes/<name>.json` lists its objects. Masks: each of them has one."""
    classes: tuple[str, ...] = Field(min_length=1)
    bands: tuple[str, ...] = Field(min_length=1)
    """Band names in the order of the arrays, for example B02, B03, B04, B08."""
    dtype: Literal["uint8", "uint16"]
    size: int = Field(ge=8, le=1024)
    """Height and width of a chip, pixels."""
    scale: float = Field(gt=0, allow_inf_nan=False)
    """Digital numbers per unit: `(value + offset) / scale` is in `units`."""
    offset: int = _unless(0)
    units: str
    nodata: int | None = None
    """Digital number of a pixel without data, where the source has one."""
    valid_max: int
    """Largest digital number that can be real; more than that is a broken file."""
    resolution: float | None = None
    """Ground size of a pixel, metres."""
    origin: str
    """Where the data come from, in a sentence, with a reference."""
    licence: str
    fit: Literal["", "crop", "pad", "stretch"] = _unless("")
    """How images of another size become chips (contracts.images.Fit); empty: they are faults."""
    colours: tuple[str, ...] = _unless(())
    """Of each class on a map, `#rrggbb`; empty: the pipeline chooses."""
    dates: tuple[str, ...] = _unless(())
    """Of the first and of the last image, ISO 8601; empty where the source does not say."""
    passed_over: dict[str, int] = _unless({})
    """Files that the source did not take, counted by reason."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Bands, height, width of a chip."""
        return len(self.bands), self.size, self.size

    @property
    def has_objects(self) -> bool:
        """Whether the labels are lists of objects, with masks or with boxes alone."""
        return self.labels in ("boxes", "masks")

    @model_validator(mode="after")
    def _names_are_unique(self) -> "Dataset":
        for field, names in (("classes", self.classes), ("bands", self.bands)):
            if len(set(names)) != len(names):
                raise ValueError(f"{field} repeats a name: {', '.join(names)}")
        return self

    def write(self, folder: Path) -> None:
        """Write `dataset.json` into `folder`."""
        (folder / FILE_NAME).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Dataset":
        """Read `dataset.json` of `folder`.

        Raises:
            DataError: the file is not there, or does not describe a data set.
        """
        path = folder / FILE_NAME
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise DataError(
                f"{path} is missing: get the data with `dvc pull data.dvc`, or bring your own with "
                f"`python -m pipeline.ingest folder --path ...`"
            ) from None
        except ValidationError as error:
            raise DataError(
                f"{path}: {first_fault(error)}; write it anew with `python -m pipeline.ingest`"
            ) from None


def at_a_time(most: int, size: int) -> int:
    """Number of chips of a size that are in memory at a time: `most`, of large ones fewer."""
    return max(1, min(most, PIXELS_AT_A_TIME // size**2))


def label(path: str) -> str:
    """First directory of a file of `data/`, below the predefined split if there is one: its class.

    Of data with label maps or boxes it is the kind of the file: images, labels, items or boxes.
    """
    *folders, _ = PurePosixPath(path).parts
    if len(folders) == 2 and folders[0] in SPLITS:
        folders = folders[1:]
    return folders[0] if len(folders) == 1 else ""


def predefined_split(path: str) -> str:
    """Split that the directories of a file name, or nothing."""
    parts = PurePosixPath(path).parts
    return parts[0] if len(parts) == 3 and parts[0] in SPLITS else ""


def image_files(folder: Path) -> Iterator[str]:
    """Yield the files of `data/` but its description, ordered by path, relative to `folder`."""
    for item in sorted(folder.rglob("*")):
        if item.is_file() and item.name != FILE_NAME:
            yield item.relative_to(folder).as_posix()
