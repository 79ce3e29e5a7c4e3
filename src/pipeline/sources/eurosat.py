"""EuroSAT: 27,000 labelled Sentinel-2 chips of ten classes (Helber et al. 2019).

Two official archives, https://zenodo.org/records/7711810: RGB as JPEG (3 bands, uint8) and
multispectral as GeoTIFF (13 bands, uint16). Either is read from a local zip or folder, or fetched.
"""

import re
import zipfile
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Self

from pipeline.data.dataset import Dataset
from pipeline.errors import SourceError
from pipeline.sources.download import download
from pipeline.sources.source import File

CLASSES = (
    "AnnualCrop",
    "Forest",
    "HerbaceousVegetation",
    "Highway",
    "Industrial",
    "Pasture",
    "PermanentCrop",
    "Residential",
    "River",
    "SeaLake",
)
ORIGIN = "EuroSAT, Helber et al. 2019, doi:10.1109/JSTARS.2019.2918242; Copernicus Sentinel data"
MAX_FILE = 4 * 2**20  # bytes; a 13-band chip of EuroSAT has 107 KB


class Archive(NamedTuple):
    """One of the official archives; size and MD5 as published on its Zenodo page."""

    url: str
    size: int
    md5: str


ARCHIVES = {
    "rgb": Archive(
        "https://zenodo.org/records/7711810/files/EuroSAT_RGB.zip",
        94_658_721,
        "f46e308c4d50d4bf32fedad2d3d62f3b",
    ),
    "ms": Archive(
        "https://zenodo.org/records/7711810/files/EuroSAT_MS.zip",
        2_065_402_329,
        "091174add3c8e680a49244acf185b9f0",
    ),
}

DATASETS = {
    ".jpg": Dataset(
        name="eurosat-rgb",
        classes=CLASSES,
        bands=("B04", "B03", "B02"),
        dtype="uint8",
        size=64,
        scale=255.0,
        units="display value, 0 to 1",
        valid_max=255,
        resolution=10.0,
        origin=ORIGIN,
        licence="MIT",
    ),
    ".tif": Dataset(
        name="eurosat-ms",
        classes=CLASSES,
        # Order of the archive: B8A comes last.
        bands=tuple("B01 B02 B03 B04 B05 B06 B07 B08 B09 B10 B11 B12 B8A".split()),
        dtype="uint16",
        size=64,
        scale=10_000.0,
        units="reflectance",
        valid_max=65_535,
        resolution=10.0,
        origin=ORIGIN,
        licence="MIT",
    ),
}

# <Class>/<Class>_<n>.<suffix> at the end of the path, whatever folders stand before it.
MEMBER = re.compile(rf"(?:^|/)({'|'.join(CLASSES)})/(\1_\d+(\.jpg|\.tif))$")


class EuroSAT:
    """EuroSAT from a zip file or a folder.

    Raises: SourceError: the path is missing, holds no EuroSAT or both variants, or is an unsafe
    archive.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise SourceError(
                f"{path} does not exist: give the archive or its folder with --path, "
                f"or let it be fetched with --download rgb"
            )
        self._path = path
        self._members = sorted(_members(path))
        suffixes = {member.suffix for member in self._members}
        if len(suffixes) != 1:
            found = "no EuroSAT image" if not suffixes else "both .jpg and .tif images"
            raise SourceError(
                f"{path} holds {found}; wanted <Class>/<Class>_<n>.jpg (RGB) or .tif (13 bands)"
            )
        self._suffix = suffixes.pop()

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """Declare where the archive is, or which one to fetch."""
        where = parser.add_mutually_exclusive_group(required=True)
        where.add_argument("--path", type=Path, help="EuroSAT_RGB.zip, EuroSAT_MS.zip or a folder")
        where.add_argument(
            "--download", choices=sorted(ARCHIVES), help="fetch it: rgb is 95 MB, ms is 2.1 GB"
        )
        parser.add_argument(
            "--cache",
            type=Path,
            default=Path("artifacts/downloads"),
            help="where fetched archives are kept (default: %(default)s)",
        )

    @classmethod
    def from_arguments(cls, arguments: Namespace) -> Self:
        """Open the archive, after fetching it with --download."""
        if arguments.download is None:
            return cls(arguments.path)
        archive = ARCHIVES[arguments.download]
        target = arguments.cache / PurePosixPath(archive.url).name
        return cls(download(archive.url, target, archive.size, archive.md5))

    def dataset(self) -> Dataset:
        """Describe the variant; only with classes that the archive has."""
        present = {PurePosixPath(member.target).parts[0] for member in self._members}
        whole = DATASETS[self._suffix]
        return whole.model_copy(
            update={"classes": tuple(name for name in whole.classes if name in present)}
        )

    def files(self) -> Iterator[File]:
        """Yield the images, ordered by path."""
        if self._path.is_dir():
            for member in self._members:
                yield File(member.target, (self._path / member.name).read_bytes())
            return
        with zipfile.ZipFile(self._path) as archive:
            for member in self._members:
                yield File(member.target, _read(archive, member.name))

    def __len__(self) -> int:
        return len(self._members)


class _Member(NamedTuple):
    target: str  # <Class>/<file>, as it goes to data/
    name: str  # inside the archive or folder
    suffix: str


def _members(path: Path) -> Iterator[_Member]:
    for name in _names(path):
        if match := MEMBER.search(name):
            yield _Member(f"{match[1]}/{match[2]}", name, match[3])


def _names(path: Path) -> list[str]:
    if path.is_dir():
        return [item.relative_to(path).as_posix() for item in path.rglob("*") if item.is_file()]
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except zipfile.BadZipFile as error:
        raise SourceError(f"{path} is not a zip file ({error}): fetch it again") from None
    for entry in entries:
        # Nothing is extracted to paths of the archive; but an archive with such paths is not the
        # official one.
        pure = PurePosixPath(entry.filename.replace("\\", "/"))
        if pure.is_absolute() or ".." in pure.parts:
            raise SourceError(f"{path}: member {entry.filename!r} points outside of the archive")
        if entry.file_size > MAX_FILE and MEMBER.search(entry.filename):
            raise SourceError(
                f"{path}: member {entry.filename!r} has {entry.file_size} bytes, "
                f"wanted at most {MAX_FILE}"
            )
    return [entry.filename for entry in entries]


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
        raise SourceError(f"{archive.filename}: member {name!r} is damaged: {error}") from None
