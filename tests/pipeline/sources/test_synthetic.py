"""The sample data: simulated, and as well behaved as real chips should be."""

import io
from argparse import ArgumentParser

import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from pipeline.data.images import Chip, decode, fault
from pipeline.errors import SourceError
from pipeline.sources.source import File
from pipeline.sources.spectra import SPECTRA
from pipeline.sources.synthetic import Synthetic

BUDGET = 3.9 * 2**20  # bytes, of the sample with its default options
BLUE, GREEN, RED, NIR = range(4)


@pytest.fixture(scope="module")
def files() -> list[File]:
    """Four chips a class."""
    return list(Synthetic(4).files())


@pytest.fixture(scope="module")
def chips(files: list[File]) -> dict[str, Chip]:
    """The same, decoded as the pipeline decodes them, by path."""
    return {file.path: decode(file.path, file.content) for file in files}


def mean(chips: dict[str, Chip], label: str) -> npt.NDArray[np.float64]:
    """Mean of a class in each band, (4,) digital numbers."""
    pixels = [chip.pixels for path, chip in chips.items() if path.startswith(f"{label}/")]
    levels: npt.NDArray[np.float64] = np.mean(pixels, axis=(0, 2, 3))
    return levels


def test_the_sample_is_large_enough_to_learn_from() -> None:
    source = Synthetic()
    assert len(source) == 500
    assert len(source.dataset().classes) == 10


def test_every_class_has_as_many_files_as_were_asked_for(files: list[File]) -> None:
    classes = Synthetic(4).dataset().classes
    assert [file.path for file in files] == [
        f"{name}/{name}-{index:03d}.tif" for name in classes for index in range(4)
    ]
    assert len(Synthetic(4)) == len(files)


def test_the_same_seed_gives_the_same_bytes(files: list[File]) -> None:
    assert list(Synthetic(4).files()) == files


def test_another_seed_gives_other_chips(files: list[File]) -> None:
    other = dict(Synthetic(1, seed=1).files())
    assert all(content != dict(files)[path] for path, content in other.items())


def test_more_chips_change_none_of_those_there_were(files: list[File]) -> None:
    fewer = dict(Synthetic(2).files())
    assert fewer.items() <= dict(files).items()


def test_chips_are_what_the_description_says(chips: dict[str, Chip]) -> None:
    dataset = Synthetic(4).dataset()
    assert [fault(chip.pixels, dataset) for chip in chips.values()] == [None] * len(chips)
    assert all(chip.pixels.min() > 0 for chip in chips.values()), "0 is nodata"
    assert all(chip.pixels.max() < 0.8 * dataset.scale for chip in chips.values())


def test_the_description_owns_up_to_the_simulation() -> None:
    assert Synthetic().dataset().origin.startswith("Simulated")


def test_chips_read_the_same_without_gdal(files: list[File], chips: dict[str, Chip]) -> None:
    for path, content in files[::9]:
        pixels = tifffile.imread(io.BytesIO(content))  # (64, 64, 4)
        np.testing.assert_array_equal(pixels.transpose(2, 0, 1), chips[path].pixels)


def test_no_two_chips_share_a_tile(chips: dict[str, Chip]) -> None:
    centres = {chip.centre for chip in chips.values()}
    assert len(centres) == len(chips)
    assert {chip.crs for chip in chips.values()} == {"EPSG:32633"}


def test_tiles_adjoin_in_the_zone(chips: dict[str, Chip]) -> None:
    x, y = np.array([chip.centre for chip in chips.values()]).T
    assert not np.any((x - x.min()) % 640) and not np.any((y - y.min()) % 640)
    assert np.ptp(x) < 10 * 640 and np.ptp(y) < 6 * 640  # one district
    assert 166_000 < x.min() and x.max() < 834_000  # easting of zone 33, metres


def test_the_sample_fits_its_budget(files: list[File]) -> None:
    average = sum(len(file.content) for file in files) / len(files)
    assert average < 1.05 * BUDGET / len(Synthetic())  # of 40 chips, hence the 5 %


@pytest.mark.parametrize("label", ["Forest", "Pasture", "HerbaceousVegetation", "PermanentCrop"])
def test_vegetation_is_brighter_in_the_near_infrared_than_in_red(
    chips: dict[str, Chip], label: str
) -> None:
    assert mean(chips, label)[NIR] > 2 * mean(chips, label)[RED]


def test_open_water_is_darkest_in_the_near_infrared(chips: dict[str, Chip]) -> None:
    for index in range(4):
        water = np.median(chips[f"SeaLake/SeaLake-{index:03d}.tif"].pixels, axis=(1, 2))
        assert water[NIR] < water[GREEN]


def test_forest_is_darker_than_industry(chips: dict[str, Chip]) -> None:
    assert 2 * mean(chips, "Forest")[GREEN] < mean(chips, "Industrial")[GREEN]


def test_spectra_are_reflectances() -> None:
    values = np.array([spectrum.reflectance for spectrum in SPECTRA.values()])
    assert values.shape == (len(SPECTRA), 4)
    assert 0 < values.min() and values.max() < 0.6


@pytest.mark.parametrize("count", [0, -3, 1000])
def test_a_count_out_of_range_is_refused(count: int) -> None:
    with pytest.raises(SourceError, match=rf"--chips-per-class is {count}; choose 1 to 999"):
        Synthetic(count)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(SourceError, match="--seed is -1; choose 0 or more"):
        Synthetic(seed=-1)


def test_options_come_from_the_command_line(files: list[File]) -> None:
    parser = ArgumentParser()
    Synthetic.add_arguments(parser)
    assert len(Synthetic.from_arguments(parser.parse_args([]))) == 500
    few = Synthetic.from_arguments(parser.parse_args(["--chips-per-class", "1", "--seed", "0"]))
    assert dict(few.files()).items() <= dict(files).items()
