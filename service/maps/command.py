"""`python -m service map SCENE.tif -o MAP.tif`: maps a scene without a server."""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.console import Progress, ends_with_a_sentence
from service.errors import Unavailable

# rasterio, which these need, is an extra.
if TYPE_CHECKING:
    from service.maps.make import Made

MISSING = (
    "maps need rasterio, which is not installed: install the extra (pip install 'conveyor[maps]', "
    "or pip install 'rasterio>=1.4,<2')"
)


def add_to(commands: Any) -> None:
    """Add the command `map` to those of `python -m service`."""
    line = commands.add_parser(
        "map",
        help="map a scene (GeoTIFF) with a segmentation model",
        description="Map a scene into MAP.tif, a cloud-optimized GeoTIFF with the class and the "
        "confidence of each pixel, and MAP.json, its STAC item. Started again after it was "
        "stopped, it goes on. docs/maps.md has the details.",
    )
    line.add_argument("scene", type=Path, metavar="SCENE.tif")
    line.add_argument("-o", "--output", type=Path, required=True, metavar="MAP.tif")
    line.add_argument("--bundle", type=Path, default=Path("model"), help="default: model/")
    line.add_argument("--workers", type=int, default=0, help="processes; default: one a core")
    line.add_argument("--tile", type=int, help="pixels, at most; default: 768")
    line.add_argument(
        "--bands",
        type=lambda text: tuple(text.split(",")),
        default=(),
        help="names of the file's bands in their order, as B02,B03,-,B08; - is not needed",
    )
    line.add_argument("--offset", type=int, help="added to each number: 0, or -1000")
    line.add_argument("--item", type=Path, help="STAC item of the scene; default: beside it")
    line.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> None:
    """Make the map that the command line asks for."""
    with ends_with_a_sentence():
        made, seconds = _run(chosen)
    _report(made, chosen.output, seconds)


def _run(chosen: argparse.Namespace) -> tuple["Made", float]:
    try:
        import rasterio  # noqa: F401
    except ImportError:
        raise Unavailable(MISSING) from None
    from service.maps.make import TILE, Options, make_map

    tile = TILE if chosen.tile is None else chosen.tile
    options = Options(chosen.workers, tile, chosen.bands, chosen.offset, chosen.item)
    started = time.monotonic()
    made = make_map(chosen.scene, chosen.output, chosen.bundle, options, Progress("tiles"))
    return made, time.monotonic() - started


def _report(made: "Made", target: Path, seconds: float) -> None:
    properties = made.item["properties"]
    rows, columns = properties["proj:shape"]
    print(f"{target}: {columns} x {rows} pixels in {seconds:.1f} s; its item is {made.item_path}")
    areas = properties["map:square_kilometres"]
    for name, area in sorted(areas.items(), key=lambda item: -item[1]):
        print(f"  {area:12,.2f} km2  {name}")
    print(f"  mean confidence {properties['map:confidence']:.0%}")
    for warning in made.warnings:
        print(f"warning: {warning}")
