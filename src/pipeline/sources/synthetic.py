"""The sample data: ten EuroSAT classes, simulated, so that the template runs before any download.

A chip is made as a satellite would see it. A painter (`painters.py`) lays out the ground of its
class on a 5 m grid: parcels, rows, roads, roofs and shores of materials with known spectra
(`spectra.py`), mixed linearly. Then `observe` looks at it through haze, the blur of the optics and
the noise of the detector.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from rasterio.io import MemoryFile
from rasterio.transform import from_origin
from scipy.ndimage import gaussian_filter
from scipy.optimize import linear_sum_assignment

from pipeline.data.dataset import Dataset
from pipeline.errors import SourceError
from pipeline.sources.painters import CLASSES, paint
from pipeline.sources.scene import Array, Scene
from pipeline.sources.source import File
from pipeline.sources.spectra import BANDS, HAZE, SNR

SIZE = 64  # pixels; two cells of the ground each
RESOLUTION = 10.0  # metres per pixel

SCALE = 10_000  # digital numbers per unit of reflectance
STEP = 32  # digital numbers: rounds off 9 rms where the noise is 16, and halves the files
NODATA = 0
VALID_MAX = 20_000

CRS = "EPSG:32633"
CORNER = (437_760.0, 5_560_320.0)  # metres east and north, where the region begins
DISTRICT = (6, 10)  # tiles, rows by columns
EACH = 6  # tiles of each class in a district, so that blocks of several chips hold most classes
ACROSS = 5  # districts side by side
MOST = 999  # chips per class, which keeps names and the region short


def observe(ground: Array, rng: np.random.Generator) -> npt.NDArray[np.uint16]:
    """Look at the ground from orbit: (4, 2 H, 2 W) reflectance -> (4, H, W) digital numbers."""
    light = np.exp(rng.normal(0, 0.08))
    haze = rng.gamma(2, 0.006) * np.array(HAZE)[:, None, None]
    # A Gaussian of 0.55 pixels and the box of a pixel: contrast about 0.15 at Nyquist, of the 0.15
    # to 0.30 that the mission asks for.
    blurred = gaussian_filter(ground, (0, 1.1, 1.1))
    height, width = ground.shape[1] // 2, ground.shape[2] // 2
    pixels = blurred.reshape(4, height, 2, width, 2).mean(axis=(2, 4)) * light + haze
    # Photon noise: the ratio holds at about 0.25 reflectance, and goes with the root of the light.
    noise = np.sqrt(0.25 * pixels) / np.array(SNR)[:, None, None]
    numbers = (pixels + noise * rng.standard_normal(pixels.shape)) * SCALE
    steps = np.clip(np.rint(numbers / STEP), 1, VALID_MAX // STEP)  # 0 is nodata
    chip: npt.NDArray[np.uint16] = (steps * STEP).astype(np.uint16)
    return chip


def geotiff(
    chip: npt.NDArray[np.uint16], west: float, north: float, names: tuple[str, ...] = ()
) -> bytes:
    """Encode pixels (4, H, W) whose north-west corner lies at `west`, `north`, metres.

    Chips carry neither names of their bands nor a scale: their data.dvc would be another version.
    """
    _, height, width = chip.shape
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff",
            width=width,
            height=height,
            count=len(BANDS),
            dtype="uint16",
            nodata=NODATA,
            crs=CRS,
            transform=from_origin(west, north, RESOLUTION, RESOLUTION),
            compress="deflate",
            predictor=2,
            zlevel=9,
            interleave="pixel",  # 10 % smaller than by band
            blockysize=SIZE,
        ) as raster:
            raster.write(chip)
            if names:
                raster.descriptions = names
                raster.scales, raster.offsets = (1 / SCALE,) * len(names), (0.0,) * len(names)
        content: bytes = memory.read()
    return content


def simulated(
    name: str, classes: tuple[str, ...], module: str, likeness: str = "Sentinel-2", **more: Any
) -> Dataset:
    """Describe images of this simulator.

    Args:
        module: of pipeline.sources, that lays them out.
        likeness: what they are like.
        more: fields besides those that all its images have.
    """
    return Dataset(
        name=name,
        classes=classes,
        bands=BANDS,
        dtype="uint16",
        size=SIZE,
        scale=SCALE,
        units="reflectance",
        nodata=NODATA,
        valid_max=VALID_MAX,
        resolution=RESOLUTION,
        origin=f"Simulated by pipeline.sources.{module} in the likeness of {likeness}: "
        "no real place, no real image",
        licence="CC0-1.0",
        **more,
    )


class District:
    """A few kilometres of country: what grows where, and in which season it was imaged."""

    def __init__(self, seed: int, number: int) -> None:
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number,)))
        self._number = number
        self.vigour = rng.uniform(0.3, 0.9)
        # Every class has a liking that varies over the country; tiles go where the sum is largest.
        liking = gaussian_filter(rng.standard_normal((len(CLASSES), *DISTRICT)), (0, 1, 1))
        cost = -np.repeat(liking.reshape(len(CLASSES), -1), EACH, axis=0)
        self._tiles = linear_sum_assignment(cost)[1].reshape(len(CLASSES), EACH)

    def corner(self, label: int, slot: int) -> tuple[float, float]:
        """Find the north-west corner of the chip in a class's `slot`, metres."""
        row, column = divmod(int(self._tiles[label, slot]), DISTRICT[1])
        row += self._number // ACROSS * DISTRICT[0]
        column += self._number % ACROSS * DISTRICT[1]
        return CORNER[0] + column * SIZE * RESOLUTION, CORNER[1] - row * SIZE * RESOLUTION


class Synthetic:
    """Simulated chips: any number of them, the same bytes for the same seed.

    A chip depends on the seed, its class and its number only: more chips a class add files and
    change none.

    Raises:
        SourceError: an option is out of range.
    """

    def __init__(self, chips_per_class: int = 50, seed: int = 0) -> None:
        if not 1 <= chips_per_class <= MOST:
            raise SourceError(f"--chips-per-class is {chips_per_class}; choose 1 to {MOST}")
        if seed < 0:
            raise SourceError(f"--seed is {seed}; choose 0 or more")
        self._each = chips_per_class
        self._seed = seed

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """Declare how many chips, and which."""
        parser.add_argument(
            "--chips-per-class", type=int, default=50, help="1 to 999 (default: %(default)s)"
        )
        parser.add_argument(
            "--seed", type=int, default=0, help="another seed, another country (default: 0)"
        )

    @classmethod
    def from_arguments(cls, arguments: Namespace) -> Self:
        """Build the simulator."""
        return cls(arguments.chips_per_class, arguments.seed)

    def dataset(self) -> Dataset:
        """Describe the chips."""
        likeness = "Sentinel-2 and the classes of EuroSAT (doi:10.1109/JSTARS.2019.2918242)"
        return simulated("landcover-sample", CLASSES, "synthetic", likeness)

    def files(self) -> Iterator[File]:
        """Yield the GeoTIFFs, class by class."""
        districts = [District(self._seed, n) for n in range(-(-self._each // EACH))]
        for label, name in enumerate(CLASSES):
            for index in range(self._each):
                district = districts[index // EACH]
                chip = self._chip(label, index, district.vigour)
                content = geotiff(chip, *district.corner(label, index % EACH))
                yield File(f"{name}/{name}-{index:03d}.tif", content)

    def __len__(self) -> int:
        return self._each * len(CLASSES)

    def _chip(self, label: int, index: int, vigour: float) -> npt.NDArray[np.uint16]:
        rng = np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(label, index)))
        scene = Scene(rng, vigour=float(np.clip(rng.normal(vigour, 0.2), 0, 1)))
        return observe(paint(scene, CLASSES[label]), rng)
