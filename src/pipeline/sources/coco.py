"""Images with boxes, and maybe masks, in COCO's format: annotations.json and the images beside it.

    python -m pipeline.ingest coco --path ships
    python -m pipeline.ingest coco --path coco --annotations annotations/val.json --images val
    python -m pipeline.ingest coco --path ships --masks

Images that belong together, such as those of a place, are a group, which the split never divides.
`--group port` reads it from the field `port` of each image in the annotations. Without it the group
is the name of the file up to its last number: `busan_017.tif` is of `busan`. `--group image` makes
every image a group of its own.

An image with an annotation that cannot be used is refused as a whole: an object that is there and
has no box would be taught as background. Boxes are cut off at the edges of the image. `--masks`
takes the `segmentation` of each annotation, too, and refuses an image where one has none.
"""

import re
from argparse import ArgumentParser, Namespace
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Self, cast

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from contracts.faults import first_fault
from contracts.images import SUFFIXES
from pipeline.data.boxes import BOXES, IMAGES, Object, Objects
from pipeline.data.dataset import SPLITS, Dataset
from pipeline.data.images import decode
from pipeline.errors import DataError, SourceError
from pipeline.sources import coco_masks
from pipeline.sources.source import AnyFile, File, RefusedFile

SCALES = {"uint8": 255.0, "uint16": 10_000.0}  # full range; Sentinel-2's reflectance x 10,000
NUMBERED = re.compile(r"(.*?[^\d_-])[_-]?\d+")  # busan_017: a name, then a number
EACH = "image"  # --group: every image is a group
LARGEST = 512  # pixels of a chip, if the images are larger


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class _Image(_Part):
    id: int | str
    file_name: str
    width: int | None = None
    height: int | None = None


class _Annotation(_Part):
    id: int | str | None = None
    image_id: int | str
    category_id: int | str
    bbox: tuple[float, float, float, float]
    iscrowd: int = 0
    segmentation: Any = None


class _Category(_Part):
    id: int | str
    name: str


class _Document(_Part):
    images: tuple[_Image, ...]
    annotations: tuple[_Annotation, ...]
    categories: tuple[_Category, ...]
    info: dict[str, Any] = {}


class Coco:
    """Images with boxes.

    Raises:
        SourceError: there are no annotations, they are not COCO's, ids or names repeat, or the
            options do not fit.
    """

    def __init__(
        self,
        path: Path,
        *,
        annotations: str = "annotations.json",
        images: str = "",
        group: str = "",
        bands: tuple[str, ...] = (),
        size: int | None = None,
        masks: bool = False,
        name: str = "",
        licence: str = "not stated",
    ) -> None:
        self._file, self._masks = path / annotations, masks
        document = _read(self._file)
        self._images = _by_id(document, self._file)
        self._classes = {category.id: category.name for category in document.categories}
        self._annotations = defaultdict[int | str, list[_Annotation]](list)
        for annotation in document.annotations:
            self._annotations[annotation.image_id].append(annotation)
        if strange := self._annotations.keys() - self._images.keys():
            raise SourceError(
                f"{self._file} has annotations of the image {min(map(str, strange))}, which it "
                "does not list: add the image, or remove its annotations"
            )
        self._folders = [path / images] if images else [path, path / IMAGES]
        self._names = _names(self._images.values(), self._file)
        self._groups = {id: self._group(image, group) for id, image in self._images.items()}
        _check_groups(Counter(self._groups.values()), group)
        pixels = self._probe()
        count, high, wide = pixels.shape
        named = bands or tuple(map(str, document.info.get("bands", ())))
        if named and len(named) != count:
            raise SourceError(
                f"{len(named)} bands are named, the images have {count}: give the name of each as "
                "--bands, in the order of the files"
            )
        if str(pixels.dtype) not in SCALES:
            raise SourceError(
                f"the images are {pixels.dtype}; wanted uint8 or uint16: convert them"
            )
        try:
            self._dataset = Dataset(
                name=name or path.resolve().name,
                labels="masks" if masks else "boxes",
                classes=tuple(self._classes.values()),
                bands=named or tuple(f"band-{index + 1}" for index in range(count)),
                dtype=cast(Any, str(pixels.dtype)),
                size=size or min(LARGEST, -(-max(high, wide) // 16) * 16),
                scale=SCALES[str(pixels.dtype)],
                units="reflectance" if pixels.dtype == "uint16" else "display value, 0 to 1",
                valid_max=int(np.iinfo(pixels.dtype).max),
                origin=str(document.info.get("description") or f"the folder {path.name}"),
                licence=licence,
            )
        except ValidationError as error:
            raise SourceError(f"{self._file}: {first_fault(error)}") from None

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """Declare where the images and their annotations are."""
        parser.add_argument("--path", type=Path, required=True, help="folder of the data set")
        parser.add_argument(
            "--annotations", default="annotations.json", help="below it (default: %(default)s)"
        )
        parser.add_argument(
            "--images", default="", help="folder of the images below it (default: it, or images)"
        )
        parser.add_argument(
            "--group",
            default="",
            help="field of the images that names what a split must not divide, or `image` for none "
            "(default: the name of the file up to its last number)",
        )
        parser.add_argument(
            "--bands", default="", help="band names in order (default: those of info.bands)"
        )
        parser.add_argument(
            "--size", type=int, help=f"edge of a chip (default: the images', {LARGEST} at most)"
        )
        parser.add_argument(
            "--masks", action="store_true", help="take the masks, too: polygons or RLE"
        )
        parser.add_argument("--name", default="", help="of the data set (default: the folder's)")
        parser.add_argument("--licence", default="not stated", help="of the images")

    @classmethod
    def from_arguments(cls, arguments: Namespace) -> Self:
        """Read the annotations."""
        return cls(
            arguments.path,
            annotations=arguments.annotations,
            images=arguments.images,
            group=arguments.group,
            bands=tuple(filter(None, (band.strip() for band in arguments.bands.split(",")))),
            size=arguments.size,
            masks=arguments.masks,
            name=arguments.name,
            licence=arguments.licence,
        )

    def dataset(self) -> Dataset:
        """Describe the images."""
        return self._dataset

    def files(self) -> Iterator[AnyFile]:
        """Yield each image and its boxes, or why it is refused."""
        for id, image in self._images.items():
            target = f"{IMAGES}/{self._names[id]}"
            try:
                content = self._content(image)
                _, high, wide = decode(image.file_name, content).pixels.shape
                objects = self._objects(image, high, wide)
            except DataError as error:
                yield RefusedFile(target, str(error))
                continue
            yield File(target, content)
            text = objects.model_dump_json(by_alias=True, indent=1)
            stem = PurePosixPath(self._names[id]).stem
            yield File(f"{BOXES}/{stem}.json", f"{text}\n".encode())

    def __len__(self) -> int:
        return 2 * len(self._images)

    def _content(self, image: _Image) -> bytes:
        for folder in self._folders:
            if (found := folder / image.file_name).is_file():
                return found.read_bytes()
        raise DataError(f"the file is not there: wanted {self._folders[0] / image.file_name}")

    def _objects(self, image: _Image, high: int, wide: int) -> Objects:
        """The boxes of an image (high, wide). Raises DataError for the first that is none."""
        if (image.width or wide, image.height or high) != (wide, high):
            raise DataError(
                f"annotated as {image.width} x {image.height} pixels, the file has {wide} x {high}"
            )
        found = []
        for annotation in self._annotations[image.id]:
            left, top, width, height = annotation.bbox
            name = f"annotation {annotation.id}" if annotation.id is not None else "an annotation"
            if annotation.category_id not in self._classes:
                raise DataError(f"{name} has the unknown category {annotation.category_id}")
            if annotation.iscrowd:
                raise DataError(f"{name} is a crowd (iscrowd), whose objects have no boxes")
            if not (np.isfinite(annotation.bbox).all() and width > 0 and height > 0):
                raise DataError(f"{name}: a box of {width:g} x {height:g} pixels has no area")
            right, bottom = min(left + width, wide), min(top + height, high)
            left, top = max(left, 0.0), max(top, 0.0)
            if right <= left or bottom <= top:
                given = ", ".join(f"{value:g}" for value in annotation.bbox)
                raise DataError(f"{name}: the box [{given}] is outside of {wide} x {high} pixels")
            item: dict[str, Any] = {"class": self._classes[annotation.category_id]}
            box = (left, top, right, bottom)
            if self._masks:
                try:
                    item["mask"] = coco_masks.read(annotation.segmentation, box, (high, wide))
                except DataError as error:
                    raise DataError(f"{name}: {error}") from None
            found.append(Object(**item, box=box))
        return Objects(group=self._groups[image.id], objects=tuple(found))

    def _group(self, image: _Image, group: str) -> str:
        stem = PurePosixPath(image.file_name).with_suffix("").as_posix()
        if group == EACH:
            return stem
        if group:
            value = (image.model_extra or {}).get(group)
            if value in (None, ""):
                raise SourceError(
                    f"--group {group}: the image {image.file_name} has no such field in "
                    f"{self._file}: name one that all images have"
                )
            return str(value)
        found = NUMBERED.fullmatch(stem)
        return found[1] if found else stem

    def _probe(self) -> Any:
        first = ""
        for image in self._images.values():
            try:
                return decode(image.file_name, self._content(image)).pixels
            except DataError as error:
                first = first or f"{image.file_name}: {error}"
        raise SourceError(f"no image of {self._file} can be read; the first: {first}")


def _read(path: Path) -> _Document:
    try:
        return _Document.model_validate_json(path.read_bytes())
    except OSError as error:
        raise SourceError(
            f"{path} cannot be read ({error.strerror}): give the folder of the data set as --path, "
            "and the file below it as --annotations"
        ) from None
    except ValidationError as error:
        raise SourceError(
            f"{path} is not COCO's format, or cut off: {first_fault(error, 'the file')}: wanted "
            "images, annotations and categories"
        ) from None


def _by_id(document: _Document, path: Path) -> dict[int | str, _Image]:
    for what, parts in (("image", document.images), ("category", document.categories)):
        times = Counter(part.id for part in parts)
        if twice := [id for id, count in times.items() if count > 1]:
            raise SourceError(
                f"{path}: {times[twice[0]]} of the {what} list have the id {twice[0]}: nobody "
                "knows which one an annotation means, number them anew"
            )
    if not document.images:
        raise SourceError(f"{path} lists no image")
    return {image.id: image for image in document.images}


def _names(images: Any, path: Path) -> dict[int | str, str]:
    """Name of each image in `data/`, which is flat."""
    found: dict[int | str, str] = {}
    for image in images:
        place = PurePosixPath(image.file_name)
        if place.is_absolute() or ".." in place.parts or place.suffix.lower() not in SUFFIXES:
            raise SourceError(
                f"{path}: file_name {image.file_name!r}: wanted a path below the folder that ends "
                f"in {', '.join(SUFFIXES)}"
            )
        found[image.id] = "_".join(place.parts)
    stems = Counter(PurePosixPath(name).stem for name in found.values())
    if twice := [stem for stem, count in stems.items() if count > 1]:
        raise SourceError(f"{path}: {stems[twice[0]]} images are called {twice[0]}: rename them")
    return found


def _check_groups(groups: Counter[str], group: str) -> None:
    if len(groups) < len(SPLITS):
        raise SourceError(
            f"the images are of {len(groups)} groups ({', '.join(sorted(groups)[:3])}), and "
            f"{', '.join(SPLITS)} need one each: name another field as --group, or --group {EACH} "
            "where every image stands for itself"
        )
