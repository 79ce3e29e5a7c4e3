"""What a person chooses, on the command line."""

from argparse import ArgumentParser, Namespace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, Self

from pipeline.errors import SourceError
from pipeline.sources.sentinel2.area import Area, read_area, read_dates
from pipeline.sources.sentinel2.assets import check_bands
from pipeline.sources.sentinel2.catalogues import CATALOGUES
from pipeline.sources.sentinel2.labels import Labels, read_labels
from pipeline.sources.sentinel2.radiometry import ADDED

RESOLUTIONS = (10, 20, 60)  # metres


class Options(NamedTuple):
    """Where, when and what."""

    area: Area
    dates: tuple[datetime, datetime]
    bands: tuple[str, ...]
    clouds: float = 20
    """Per cent, of the whole scene in the catalogue and of the area in the pixels."""
    labels: Labels | None = None
    resolution: float = 10
    """Metres."""
    resample: str = ""
    """For bands of other resolutions; empty: they are refused."""
    offset: int | None = None
    whole: bool = False
    """Whole scenes, not cut to the area."""
    size: int = 64
    """Of a chip, pixels."""
    most: int = 100
    """Scenes."""
    name: str = "sentinel2"
    into: Path | None = None
    cache: Path = Path("artifacts/downloads")

    @classmethod
    def read(cls, arguments: Namespace) -> Self:
        """Check the options of the command line.

        Raises:
            SourceError: one of them cannot be used.
        """
        if not 0 <= arguments.clouds <= 100:
            raise SourceError(f"--clouds is {arguments.clouds:g}; choose 0 to 100 per cent")
        if not 8 <= arguments.size <= 1024:
            raise SourceError(f"--size is {arguments.size}; choose 8 to 1024 pixels")
        given = (arguments.classes, arguments.label_field, arguments.layer)
        read: dict[str, Any] = {
            "area": read_area(arguments.area),
            "dates": read_dates(arguments.dates),
            "bands": check_bands(arguments.bands),
            "labels": read_labels(arguments.labels, *given) if arguments.labels else None,
        }
        others = {name: getattr(arguments, name) for name in cls._fields if name not in read}
        return cls(**read, **others)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare them, and the catalogue."""
    add, default = parser.add_argument, Options._field_defaults
    add(
        "--area",
        required=True,
        help="GeoJSON file, or west,south,east,north in degrees; --area=-1.2,... with a minus",
    )
    add("--dates", required=True, help="2025-05/2025-09, 2025-06-17 or 2025")
    add("--clouds", type=float, default=20, help="at most, per cent (default: %(default)s)")
    add("--bands", default="B02,B03,B04,B08", help="in this order (default: %(default)s)")
    names = ", ".join(CATALOGUES)
    add("--catalogue", default="earth-search", help=f"{names}, or the address of a STAC API")
    add("--collection", default="", help="of the catalogue (default: its level 2A)")
    kinds = "GeoTIFF on the scenes' grid, GeoJSON or GeoPackage; may be repeated"
    add("--labels", type=Path, action="append", default=[], help=f"classes of places: {kinds}")
    add("--classes", default="", help="1=forest,2=water or forest,water (default: all)")
    add("--label-field", default="", help="column of the polygons with the class")
    add("--layer", default="", help="of the GeoPackage")
    add("--resolution", type=int, choices=RESOLUTIONS, default=10, help="metres (default: 10)")
    add("--resample", choices=("nearest", "bilinear"), default="", help="take other bands too")
    add("--offset", type=int, choices=(0, -ADDED), help="where the catalogue is wrong")
    add("--whole", action="store_true", help="whole scenes, not cut to the area")
    add("--size", type=int, default=64, help="of a chip, pixels (default: %(default)s)")
    add("--most", type=int, default=100, help="scenes (default: %(default)s)")
    add("--name", default="sentinel2", help="of the data set (default: %(default)s)")
    add("--into", type=Path, help="a folder for the scenes; data/ stays as it is")
    add("--cache", type=Path, default=default["cache"], help="for downloads (%(default)s)")
