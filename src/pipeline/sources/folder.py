"""Your own images: one directory per class, JPEG, PNG, GeoTIFF or NPY, any number of bands.

`<path>/<class>/<file>`, or with a split of your own `<path>/{train,validation,test}/<class>/<file>`
(then set `preprocess.split: predefined`).
"""

from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self, cast

import numpy as np

from pipeline.data.dataset import Dataset, label
from pipeline.data.images import SUFFIXES, decode
from pipeline.errors import DataError, SourceError
from pipeline.sources.source import File

PROBE = 50  # files that are opened to detect bands, size and dtype
SCALES = {"uint8": 255.0, "uint16": 10_000.0}  # full range; Sentinel-2's reflectance x 10,000


class Folder:
    """A directory tree of labelled images.

    Most of the probed files decide the bands, size and dtype of the chips; ingest reports every
    file that differs.

    Raises:
        SourceError: no folder, no images, or options that do not fit the images.
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
    ) -> None:
        if not path.is_dir():
            raise SourceError(f"{path} is not a folder: give a folder with one directory per class")
        self._path = path
        self._files = sorted(
            item
            for item in path.rglob("*")
            if item.is_file() and item.suffix.lower() in SUFFIXES and self._label(item)
        )
        if not self._files:
            raise SourceError(
                f"{path} holds no images in class directories; "
                f"wanted {path}/<class>/<file> ending in {', '.join(SUFFIXES)}"
            )
        self._dataset = self._describe(name or path.resolve().name, bands, scale, units, licence)

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """Declare the folder, and the facts that the images do not contain."""
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

    @classmethod
    def from_arguments(cls, arguments: Namespace) -> Self:
        """Open the folder."""
        return cls(
            arguments.path,
            name=arguments.name,
            bands=tuple(filter(None, arguments.bands.split(","))),
            scale=arguments.scale,
            units=arguments.units,
            licence=arguments.licence,
        )

    def dataset(self) -> Dataset:
        """Describe the images."""
        return self._dataset

    def files(self) -> Iterator[File]:
        """Yield the images, ordered by path."""
        for item in self._files:
            yield File(item.relative_to(self._path).as_posix(), item.read_bytes())

    def __len__(self) -> int:
        return len(self._files)

    def _label(self, item: Path) -> str:
        return label(item.relative_to(self._path).as_posix())

    def _describe(
        self, name: str, bands: tuple[str, ...], scale: float | None, units: str, licence: str
    ) -> Dataset:
        (count, size), dtype = self._probe()
        if bands and len(bands) != count:
            raise SourceError(f"--bands names {len(bands)} bands, the images have {count}")
        if dtype not in SCALES:
            raise SourceError(f"the images are {dtype}; wanted uint8 or uint16: convert them first")
        return Dataset(
            name=name,
            classes=tuple(sorted({self._label(item) for item in self._files})),
            bands=bands or tuple(f"band-{index + 1}" for index in range(count)),
            dtype=cast(Any, dtype),
            size=size,
            scale=SCALES[dtype] if scale is None else scale,
            units=units or ("reflectance" if dtype == "uint16" else "display value, 0 to 1"),
            valid_max=int(np.iinfo(dtype).max),
            origin=f"the folder {name}",
            licence=licence,
        )

    def _probe(self) -> tuple[tuple[int, int], str]:
        """Detect ((bands, size), dtype) of most files."""
        seen: Counter[tuple[tuple[int, int], str]] = Counter()
        step = max(1, len(self._files) // PROBE)
        for item in self._files[::step]:
            try:
                pixels = decode(item.name, item.read_bytes()).pixels
            except DataError:
                continue  # ingest reports it
            seen[(pixels.shape[0], pixels.shape[1]), str(pixels.dtype)] += 1
        if not seen:
            raise SourceError(f"{self._path}: none of the images can be read")
        return seen.most_common(1)[0][0]
