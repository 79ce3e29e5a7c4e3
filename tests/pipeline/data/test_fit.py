"""Images of any size or colour: a chip in training is what the service makes of the same file."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contracts.bundle import Input
from contracts.images import FITS, Fit
from pipeline import load, paths
from pipeline.data.chip_table import CHIP_TABLE, read_chip_table
from pipeline.data.dataset import Dataset
from pipeline.ingest import ingest
from pipeline.sources.folder import Folder
from service.inference.decode import decode
from tests.conftest import SIZE, write_images

SIZES = [(40, 40), (90, 60), (31, 77), (200, 20), (16, 12)]


@pytest.mark.parametrize("fit", FITS)
def test_training_and_service_make_the_same_chip_of_an_image(
    repository: Path, tmp_path: Path, fit: Fit
) -> None:
    rng = np.random.default_rng(0)
    for name in ("Train/maize", "Test/rye"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for index, size in enumerate(SIZES):
            pixels = rng.integers(0, 255, (*size, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "mine" / name / f"{index}.JPG", "JPEG")

    ingest(Folder(tmp_path / "mine", size=32, fit=fit))
    load.main()

    dataset = Dataset.read(paths.RAW)
    assert (dataset.size, dataset.fit) == (32, fit)
    assert served_as_trained(dataset) == 2 * len(SIZES)


@pytest.mark.parametrize("greys", [2, 11])
def test_grey_pictures_among_colours_are_read_as_rgb_by_training_and_service(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], greys: int
) -> None:
    """Also where most of them are grey."""
    folder = write_images(tmp_path / "mine", ("class-0", "class-1"), each=6)
    for index, picture in enumerate(sorted(folder.rglob("*.png"))[:greys]):
        Image.open(picture).convert("L").save(picture.with_suffix((".jpg", ".png")[index % 2]))
        if index % 2 == 0:
            picture.unlink()

    ingest(Folder(folder))
    assert f"grey, read as RGB: {greys}\n" in capsys.readouterr().out
    load.main()

    dataset = Dataset.read(paths.RAW)
    assert len(dataset.bands) == 3
    assert served_as_trained(dataset) == 12


def test_grey_pictures_alone_are_one_band_unless_three_are_named(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "mine")
    for picture in folder.rglob("*.png"):
        Image.open(picture).convert("L").save(picture)
    assert len(Folder(folder).dataset().bands) == 1
    assert len(Folder(folder, bands=("red", "green", "blue")).dataset().bands) == 3


def test_a_band_of_another_format_is_not_taken_for_grey(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A GeoTIFF or NPY of one band may be any band."""
    folder = write_images(tmp_path / "mine")
    np.save(folder / "class-0/one.npy", np.arange(SIZE**2, dtype=np.uint8).reshape(1, SIZE, SIZE))
    ingest(Folder(folder))
    assert "the image has 1 band, wanted 3 (band-1, band-2, band-3)" in capsys.readouterr().out


def test_ingest_counts_the_images_that_it_enlarges(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_images(tmp_path / "mine")
    rng = np.random.default_rng(0)
    for name, size in (("a", (20, 9)), ("b", (4, 6)), ("c", (40, 40))):
        pixels = rng.integers(0, 255, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"class-0/{name}.png")
    ingest(Folder(folder, size=SIZE, fit="crop"))
    assert "enlarged: 2, the smallest has 6 x 4 pixels\n" in capsys.readouterr().out
    ingest(Folder(write_images(tmp_path / "others"), size=SIZE, fit="crop"))
    assert "enlarged" not in capsys.readouterr().out


def served_as_trained(dataset: Dataset) -> int:
    """The number of chips; each is what the service makes of its file."""
    wanted = Input(
        **dataset.model_dump(
            include={"dtype", "bands", "scale", "units", "nodata", "valid_max", "resolution", "fit"}
        ),
        height=dataset.size,
        width=dataset.size,
    )
    rows, chips = read_chip_table(paths.RAW / CHIP_TABLE), np.load(paths.RAW / "chips.npy")
    for row in rows:
        served = decode((paths.DATA / row.path).read_bytes(), wanted, 1 << 20)
        assert np.array_equal(chips[row.row], served), row.path
    return len(rows)
