"""Simulated scenes with label maps, by the simulator of the sample: for segmentation.

A scene is a mosaic of tiles, each divided into parcels as heirs divide land. A parcel has one land
cover; a road or a river may cross the tile. What the simulator lays out it also writes into the
label map, so that every pixel has a true class.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from typing import Self

import numpy as np
import numpy.typing as npt
from rasterio.io import MemoryFile
from rasterio.transform import from_origin

from pipeline.data.dataset import Dataset
from pipeline.data.maps import IMAGES, LABELS
from pipeline.errors import SourceError
from pipeline.sources import painters
from pipeline.sources.scene import GRID, Array, Scene, mix
from pipeline.sources.source import File
from pipeline.sources.spectra import BANDS
from pipeline.sources.synthetic import (
    CORNER,
    CRS,
    RESOLUTION,
    SIZE,
    geotiff,
    observe,
    simulated,
)

TILES = (6, 10)  # of a scene, rows by columns
MOST = 99  # scenes
CLASSES = ("Cropland", "Forest", "Grassland", "BuiltUp", "Water", "Road")
COLOURS = ("#e6b84c", "#1b7a3d", "#9fd36a", "#c8553d", "#3a7fc1", "#4d4d4d")
COVERS: tuple[tuple[str, Callable[[Scene], Array]], ...] = (
    ("Cropland", painters.annual_crop),
    ("Cropland", painters.permanent_crop),
    ("Forest", painters.forest),
    ("Forest", painters.forest),
    ("Grassland", painters.pasture),
    ("Grassland", painters.herbaceous),
    ("BuiltUp", painters.residential),
    ("BuiltUp", painters.industrial),
    ("Water", lambda scene: painters.water(scene, scene.draw(0, 0.7))),
)
PARCELS = (2, 6)  # of a tile
LINE = 0.35  # share of the tiles that a road or a river crosses


class SyntheticScenes:
    """Simulated scenes of 6.4 km x 3.84 km: the same bytes for the same seed.

    Raises:
        SourceError: an option is out of range.
    """

    def __init__(self, scenes: int = 4, seed: int = 0, tiles: tuple[int, int] = TILES) -> None:
        if not 1 <= scenes <= MOST:
            raise SourceError(f"--scenes is {scenes}; choose 1 to {MOST}")
        if seed < 0:
            raise SourceError(f"--seed is {seed}; choose 0 or more")
        self._scenes, self._seed, self._tiles = scenes, seed, tiles

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """Declare how many scenes, and which."""
        parser.add_argument("--scenes", type=int, default=4, help="1 to 99 (default: %(default)s)")
        parser.add_argument(
            "--seed", type=int, default=0, help="another seed, another country (default: 0)"
        )

    @classmethod
    def from_arguments(cls, arguments: Namespace) -> Self:
        """Build the simulator."""
        return cls(arguments.scenes, arguments.seed)

    def dataset(self) -> Dataset:
        """Describe the scenes."""
        return simulated(
            "landcover-scenes", CLASSES, "synthetic_scenes", labels="maps", colours=COLOURS
        )

    def files(self) -> Iterator[File]:
        """Yield the image and the labels of each scene, side by side from west to east."""
        wide = self._tiles[1] * SIZE * RESOLUTION
        for number in range(self._scenes):
            west, north = CORNER[0] + number * wide, CORNER[1]
            pixels, labels = self._scene(number)
            yield File(f"{IMAGES}/scene-{number:02d}.tif", geotiff(pixels, west, north, BANDS))
            yield File(f"{LABELS}/scene-{number:02d}.tif", _label_map(labels, west, north))

    def __len__(self) -> int:
        return 2 * self._scenes

    def _scene(self, number: int) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint8]]:
        """Pixels (4, H, W) and labels (H, W)."""
        rng = np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(number,)))
        vigour = rng.uniform(0.3, 0.9)
        rows, columns = self._tiles
        tiles = [[_tile(Scene(rng, vigour)) for _ in range(columns)] for _ in range(rows)]
        ground = np.block([[tile[0] for tile in line] for line in tiles])
        cells = np.block([[tile[1] for tile in line] for line in tiles])
        # A pixel is two by two cells: the class of most of them, of the first one in a tie.
        high, wide = cells.shape[0] // 2, cells.shape[1] // 2
        four = cells.reshape(high, 2, wide, 2).transpose(0, 2, 1, 3).reshape(high, wide, 4)
        votes = np.stack([(four == index).sum(axis=2) for index in range(len(CLASSES))])
        return observe(ground, rng), votes.argmax(axis=0).astype(np.uint8)


def _tile(scene: Scene) -> tuple[Array, npt.NDArray[np.uint8]]:
    """Ground (4, GRID, GRID) reflectance, and the classes of its cells (GRID, GRID)."""
    parcels = scene.parcels(int(scene.draw(*PARCELS)))
    ground = np.zeros((len(BANDS), GRID, GRID), np.float32)
    labels = np.zeros((GRID, GRID), np.uint8)
    for parcel in range(parcels.max() + 1):
        name, paint = COVERS[scene.rng.integers(len(COVERS))]
        inside = parcels == parcel
        ground = np.where(inside, paint(scene), ground)
        labels[inside] = CLASSES.index(name)
    if scene.chance(LINE):
        name, material = ("Road", "asphalt") if scene.chance(0.5) else ("Water", "turbid water")
        _, across = scene.axes(bend=scene.draw(5, 30))
        half = scene.draw(12, 30) if name == "Road" else scene.draw(15, 60)
        inside = np.abs(across + scene.draw(-120, 120)) < half
        ground = mix(ground, scene.material(material), inside.astype(np.float32))
        labels[inside] = CLASSES.index(name)
    return ground, labels


def _label_map(labels: npt.NDArray[np.uint8], west: float, north: float) -> bytes:
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff",
            width=labels.shape[1],
            height=labels.shape[0],
            count=1,
            dtype="uint8",
            nodata=255,
            crs=CRS,
            transform=from_origin(west, north, RESOLUTION, RESOLUTION),
            compress="deflate",
        ) as raster:
            raster.write(labels, 1)
        content: bytes = memory.read()
    return content
