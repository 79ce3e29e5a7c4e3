"""Your own images, one directory a class."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import SourceError
from pipeline.sources.folder import Folder
from tests.conftest import SIZE, write_images


def test_a_folder_is_described_by_its_images(tmp_path: Path) -> None:
    source = Folder(write_images(tmp_path / "mine"))
    dataset = source.dataset()
    assert dataset.name == "mine"
    assert dataset.classes == ("class-0", "class-1", "class-2")
    assert (dataset.bands, dataset.dtype, dataset.size) == (
        ("band-1", "band-2", "band-3"),
        "uint8",
        SIZE,
    )
    assert len(source) == 36
    assert next(iter(source.files())).path == "class-0/000.png"


def test_names_scale_and_units_can_be_given(tmp_path: Path) -> None:
    folder = tmp_path / "water"
    for label in ("lake", "sea"):
        (folder / label).mkdir(parents=True)
        np.save(folder / label / "1.npy", np.arange(2 * 256, dtype=np.uint16).reshape(2, 16, 16))
    dataset = Folder(folder, bands=("B03", "B08"), scale=100, units="percent").dataset()
    assert (dataset.bands, dataset.scale, dataset.units) == (("B03", "B08"), 100, "percent")
    assert dataset.dtype == "uint16"


def test_most_images_decide_what_a_chip_is(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "mine")
    Image.new("RGB", (9, 9)).save(folder / "class-0" / "000.png")
    (folder / "class-0" / "001.png").write_bytes(b"broken")
    assert Folder(folder).dataset().size == SIZE


def test_a_split_of_its_own_is_kept_in_the_paths(tmp_path: Path) -> None:
    write_images(tmp_path / "train")
    write_images(tmp_path / "test", each=2)
    source = Folder(tmp_path)
    assert source.dataset().classes == ("class-0", "class-1", "class-2")
    assert {file.path.split("/")[0] for file in source.files()} == {"train", "test"}


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda folder: None, "is not a folder"),
        (lambda folder: folder.mkdir(), "holds no images in class directories"),
        (lambda folder: write_flat(folder), "holds no images in class directories"),
        (lambda folder: write_broken(folder), "can be read; the first: .*cannot be read"),
        (lambda folder: write_floats(folder), "float32; wanted uint8 or uint16"),
    ],
)
def test_an_unusable_folder_is_refused(
    tmp_path: Path, prepare: Callable[[Path], None], words: str
) -> None:
    prepare(tmp_path / "mine")
    with pytest.raises(SourceError, match=words):
        Folder(tmp_path / "mine")


def test_too_few_band_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="names 2 bands, the images have 3"):
        Folder(write_images(tmp_path / "mine"), bands=("red", "green"))


def write_flat(folder: Path) -> None:
    folder.mkdir()
    Image.new("RGB", (SIZE, SIZE)).save(folder / "a.png")


def write_broken(folder: Path) -> None:
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "a.png").write_bytes(b"broken")


def write_floats(folder: Path) -> None:
    (folder / "a").mkdir(parents=True)
    np.save(folder / "a" / "a.npy", np.zeros((3, SIZE, SIZE), np.float32))
