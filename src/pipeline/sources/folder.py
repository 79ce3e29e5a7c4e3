"""Your own images: one directory per class, JPEG, PNG, GeoTIFF or NPY, any number of bands.

`<path>/<class>/<file>`, or with a split of your own `<path>/<split>/<class>/<file>` (then set
`preprocess.split: predefined`); a split may be called train, training, val, valid, validation, dev,
test or testing, in any case. Directories below a class are part of it. Links are followed.

`--size 128 --fit crop` takes images of any size.
"""

import os
import unicodedata
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Self, cast

import numpy as np
from pydantic import ValidationError

from contracts.faults import wanted
from contracts.images import FITS, SUFFIXES, Fit, is_grey
from pipeline.data.dataset import Dataset, label
from pipeline.data.images import decode
from pipeline.errors import DataError, SourceError
from pipeline.progress import CONSOLE
from pipeline.sources.source import File

RGB = 3  # bands
PROBE = 50  # files that are opened to detect bands, size and dtype
SCALES = {"uint8": 255.0, "uint16": 10_000.0}  # full range; Sentinel-2's reflectance x 10,000
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
SYSTEM = ("Thumbs.db", "desktop.ini", "__MACOSX")  # hidden, as names that begin with a dot
NO_CLASS = "not in the directory of a class"


class Found(NamedTuple):
    """The files of a folder."""

    images: dict[str, Path]
    """Path in `data/` -> the file."""
    passed_over: Counter[str]
    """Number of other files, by reason."""


class Folder:
    """A directory tree of labelled images.

    Most of the probed files decide the bands, size and dtype of the chips; ingest reports every
    file that differs. Grey pictures are read as RGB where one of them has colours, or three bands
    are named.

    Raises:
        SourceError: no folder, a class without images, a folder that cannot be read, or options
            that do not fit the images.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str = "",
        bands: tuple[str, ...] = (),
        scale: float | None = None,
        units: str = "",
        licence: str = "not stated",
        size: int | None = None,
        fit: Fit = "",
    ) -> None:
        if not path.is_dir():
            raise SourceError(f"{path} is not a folder: give a folder with one directory per class")
        if size is not None and not fit:
            raise SourceError(f"--size {size} also needs --fit: one of {', '.join(FITS)}")
        self._path = path
        with CONSOLE.status(f"looking for images in {path}"):
            self._found = find_images(path)
        if not self._found.images:
            raise SourceError(
                f"{path} holds no images in class directories; wanted {path}/<class>/<file> "
                f"ending in {', '.join(SUFFIXES)}{_listed(self._found.passed_over)}"
            )
        bands = tuple(filter(None, (band.strip() for band in bands)))
        (count, probed), dtype = self._probe(len(bands))
        if bands and len(bands) != count:
            raise SourceError(f"--bands names {len(bands)} bands, the images have {count}")
        if dtype not in SCALES:
            raise SourceError(f"the images are {dtype}; wanted uint8 or uint16: convert them first")
        name = name or path.resolve().name
        try:
            self._dataset = Dataset(
                name=name,
                classes=tuple(sorted({label(item) for item in self._found.images})),
                bands=bands or tuple(f"band-{index + 1}" for index in range(count)),
                dtype=cast(Any, dtype),
                size=size or probed,
                scale=SCALES[dtype] if scale is None else scale,
                units=units or ("reflectance" if dtype == "uint16" else "display value, 0 to 1"),
                valid_max=int(np.iinfo(dtype).max),
                origin=f"the folder {name}",
                licence=licence,
                fit=fit,
                passed_over=dict(sorted(self._found.passed_over.items())),
            )
        except ValidationError as error:
            raise SourceError(_cure(error)) from None

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """Declare where the images are, and what cannot be read from them."""
        parser.add_argument(
            "--path", type=Path, required=True, help="folder with one directory a class"
        )
        parser.add_argument("--name", default="", help="of the data set (default: the folder's)")
        parser.add_argument("--bands", default="", help="band names in order: B02,B03,B04,B08")
        parser.add_argument(
            "--scale",
            type=float,
            help="value / scale = unit (default: 255 for uint8, 10000 for uint16)",
        )
        parser.add_argument("--units", default="", help="unit of the scaled values")
        parser.add_argument("--licence", default="not stated", help="of the images")
        parser.add_argument(
            "--size", type=int, help="height and width of a chip, pixels (default: the images')"
        )
        parser.add_argument(
            "--fit",
            choices=FITS,
            default="",
            help="take images of any size: the middle (crop), with a border (pad), or without "
            "their proportions (stretch); `/predict` does the same",
        )

    @classmethod
    def from_arguments(cls, arguments: Namespace) -> Self:
        """Open the folder."""
        return cls(
            arguments.path,
            name=arguments.name,
            bands=tuple(arguments.bands.split(",")),
            scale=arguments.scale,
            units=arguments.units,
            licence=arguments.licence,
            size=arguments.size,
            fit=arguments.fit,
        )

    def dataset(self) -> Dataset:
        """Describe the images."""
        return self._dataset

    def files(self) -> Iterator[File]:
        """Yield the images, ordered by path.

        Raises:
            SourceError: a file cannot be read.
        """
        for path, item in self._found.images.items():
            yield File(path, _read(item))

    def __len__(self) -> int:
        return len(self._found.images)

    def _probe(self, named: int) -> tuple[tuple[int, int], str]:
        """Find what most of the files are: ((bands, shorter side), dtype)."""
        seen: Counter[tuple[tuple[int, int], str]] = Counter()
        grey: Counter[tuple[tuple[int, int], str]] = Counter()
        first = ""
        images = list(self._found.images.values())
        for item in images[:: max(1, len(images) // PROBE)]:
            try:
                content = _read(item)
                pixels = decode(item.name, content).pixels
            except DataError as error:
                first = first or f"{item}: {error}"
                continue  # ingest reports it
            kinds = grey if is_grey(pixels, content) else seen
            kinds[(pixels.shape[0], min(pixels.shape[1:])), str(pixels.dtype)] += 1
        has_colours = named == RGB or any(
            (count, dtype) == (RGB, "uint8") for (count, _), dtype in seen
        )
        for ((_, side), dtype), times in grey.items():
            seen[(RGB if has_colours else 1, side), dtype] += times
        if not seen:
            raise SourceError(f"none of the images in {self._path} can be read; the first: {first}")
        return seen.most_common(1)[0][0]


def find_images(folder: Path) -> Found:
    """Find the images below a folder, and count the files that are not taken.

    Raises:
        SourceError: a class has no image, splits and classes are mixed, a folder cannot be read, or
            two files would get the same name.
    """
    root = _root(folder)
    found = Found({}, Counter())
    tops = _folders(root, found.passed_over)
    splits = _splits(tops)
    for top in tops:
        if top in splits:
            for group in _folders(top, found.passed_over):
                _take(group, (splits[top],), found)
        else:
            _take(top, (), found)
    return Found(dict(sorted(found.images.items())), found.passed_over)


def _root(folder: Path) -> Path:
    """Where the classes or splits lie: archives often have a folder around everything."""
    while True:
        passed_over: Counter[str] = Counter()
        folders = _folders(folder, passed_over)
        only = folders[0] if len(folders) == 1 and not passed_over[NO_CLASS] else None
        if only is None or only.name.lower() in SPLIT_NAMES or not _folders(only, Counter()):
            return folder
        folder = only


def _splits(tops: list[Path]) -> dict[Path, str]:
    """Directory -> its split, if the directories are splits; otherwise they are classes."""
    named = {top: SPLIT_NAMES[top.name.lower()] for top in tops if top.name.lower() in SPLIT_NAMES}
    parents = sorted(top.name for top in named if _folders(top, Counter()))
    if parents and len(named) == len(tops):
        return named
    if len(parents) > 1:
        others = ", ".join(top.name for top in tops if top not in named)
        raise SourceError(
            f"{', '.join(parents)} look like splits, {others} beside them does not: move one of "
            "them away"
        )
    return {}


def _folders(folder: Path, passed_over: Counter[str]) -> list[Path]:
    """The folders in a folder; the files in it are in no class, and counted."""
    entries = _entries(folder)
    folders = [item for item in entries if item.is_dir() and not _is_hidden(item)]
    passed_over.update(_reason(item) or NO_CLASS for item in entries if item not in folders)
    return folders


def _take(group: Path, prefix: tuple[str, ...], found: Found) -> None:
    """Add the images of a class, of all directories below it."""
    name = unicodedata.normalize("NFC", group.name)
    passed_over: Counter[str] = Counter()
    taken = 0
    for item in _walk(group, {os.path.realpath(group)}):
        if reason := _reason(item):
            passed_over[reason] += 1
            continue
        # Below a class `data/` is flat, so that a path says what it is.
        file = "_".join(item.relative_to(group).parts)
        path = PurePosixPath(*prefix, name, file).as_posix()
        if path in found.images:
            raise SourceError(f"{item} and {found.images[path]} are both {path}: rename one")
        found.images[path] = item
        taken += 1
    found.passed_over.update(passed_over)
    if not taken and not passed_over:
        raise SourceError(f"the class {name} is empty: add images, or remove the folder {group}")
    if not taken:
        raise SourceError(
            f"the class {name} has no image that is taken{_listed(passed_over)}: convert its "
            f"files to {', '.join(SUFFIXES)}, or remove the folder {group}"
        )


def _walk(folder: Path, above: set[str]) -> Iterator[Path]:
    """Yield the files below a folder; of a hidden folder, and of a link in a circle, itself."""
    for item in _entries(folder):
        if item.is_dir() and not _is_hidden(item):
            place = os.path.realpath(item)
            if place not in above:
                yield from _walk(item, {*above, place})
                continue
        yield item


def _entries(folder: Path) -> list[Path]:
    try:
        items = sorted(folder.iterdir())
    except OSError as error:
        raise SourceError(
            f"{folder} cannot be read ({error.strerror}): let this user read it, or move it away"
        ) from None
    for item in items:
        if not _is_unicode(item.name):  # neither JSON nor DVC can write it
            raise SourceError(
                f"the name {os.fsencode(item.name)!r} in {os.fsencode(folder)!r} is not UTF-8: "
                "rename it (convmv renames all)"
            )
    return items


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_hidden(item: Path) -> bool:
    return item.name.startswith(".") or item.name in SYSTEM


def _reason(item: Path) -> str | None:
    """Why a file is not taken; None if it is."""
    if _is_hidden(item):
        return "hidden"
    if item.is_dir():
        return "a link to a folder around it"
    if item.is_symlink() and not item.exists():
        return "a broken link"
    if not item.is_file():
        return "not a file"
    suffix = item.suffix.lower()
    return None if suffix in SUFFIXES else f"ends in {suffix or 'nothing'}"


def _read(item: Path) -> bytes:
    try:
        return item.read_bytes()
    except OSError as error:
        raise SourceError(
            f"{item} cannot be read ({error.strerror}): let this user read it"
        ) from None


def _listed(passed_over: Counter[str]) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(passed_over.items()))
    return f" ({reasons})" if reasons else ""


def _cure(error: ValidationError) -> str:
    """The first fault of a description, with the option that sets it."""
    fault = error.errors()[0]
    match fault["loc"]:
        case ("size",):
            return f"chips of {fault['input']} px, {wanted(fault)}: give --size and --fit"
        case ("scale",):
            return f"--scale {fault['input']:g}: {wanted(fault)}"
        case (field, *_):
            return f"{field}: {wanted(fault)}"
    return f"--bands: {wanted(fault)}"
