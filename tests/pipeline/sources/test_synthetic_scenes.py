"""Simulated scenes: their labels are true, their bands have names, and a seed is a country."""

from argparse import ArgumentParser

import numpy as np
import pytest
from rasterio.io import MemoryFile

from pipeline.errors import SourceError
from pipeline.sources import File
from pipeline.sources.synthetic_scenes import CLASSES, SyntheticScenes
from pipeline.sources.spectra import BANDS

TILES = (1, 2)


@pytest.fixture(scope="module")
def files() -> list[File]:
    return list(SyntheticScenes(2, tiles=TILES).files())


def read(file: File) -> tuple[np.ndarray, tuple[str | None, ...], tuple[float, ...]]:
    with MemoryFile(file.content) as memory, memory.open() as raster:
        return raster.read(), raster.descriptions, tuple(raster.bounds)


def test_each_scene_has_an_image_and_a_label_map_on_the_same_grid(files: list[File]) -> None:
    names = [file.path for file in files]
    assert names == [f"{k}/scene-0{i}.tif" for i in (0, 1) for k in ("images", "labels")]
    for image, labels in zip(files[::2], files[1::2], strict=True):
        (pixels, bands, bounds), (classes, _, same) = read(image), read(labels)
        assert bands == BANDS and bounds == same
        assert pixels.shape == (4, 64, 128) and classes.shape == (1, 64, 128)
        assert pixels.min() > 0, "0 is nodata"
        assert set(np.unique(classes)) <= set(range(len(CLASSES)))


def test_the_scale_of_the_numbers_is_known_to_a_map(files: list[File]) -> None:
    with MemoryFile(files[0].content) as memory, memory.open() as raster:
        assert (raster.scales, raster.offsets) == ((1e-4,) * 4, (0.0,) * 4)


def test_scenes_lie_side_by_side(files: list[File]) -> None:
    first, second = read(files[0])[2], read(files[2])[2]
    assert first[2] == second[0] and first[1] == second[1]


def test_water_is_darker_than_land_in_the_near_infrared() -> None:
    image, labels = list(SyntheticScenes(1, seed=3, tiles=(2, 4)).files())
    pixels, classes = read(image)[0], read(labels)[0][0]
    water = classes == CLASSES.index("Water")
    assert 0 < water.mean() < 1
    assert np.median(pixels[3][water]) < 0.5 * np.median(pixels[3][~water])


def test_one_seed_gives_the_same_bytes_and_another_one_others(files: list[File]) -> None:
    assert list(SyntheticScenes(2, tiles=TILES).files()) == files
    other = list(SyntheticScenes(1, seed=1, tiles=TILES).files())
    assert other[0].content != files[0].content
    assert list(SyntheticScenes(1, tiles=TILES).files()) == files[:2], "a scene depends on no other"


def test_the_command_line_says_how_many() -> None:
    parser = ArgumentParser()
    SyntheticScenes.add_arguments(parser)
    assert len(SyntheticScenes.from_arguments(parser.parse_args([]))) == 8


@pytest.mark.parametrize(("scenes", "seed"), [(0, 0), (100, 0), (1, -1)])
def test_numbers_out_of_range_are_refused(scenes: int, seed: int) -> None:
    with pytest.raises(SourceError, match="; choose"):
        SyntheticScenes(scenes, seed)
