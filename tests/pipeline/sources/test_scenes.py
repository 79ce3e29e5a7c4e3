"""Your own scenes: a label map for each, values with names, and nothing guessed."""

from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import pytest
from rasterio.io import MemoryFile

from contracts.bundle import NODATA
from pipeline.errors import SourceError
from pipeline.sources import File, FinishedFile
from pipeline.sources.scenes import Scenes, parse_classes
from tests.make.label_maps import BANDS, make_scene, write_raster

CLASSES = {3: "low", 7: "high"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two scenes, a and b, whose label maps have the values 3, 7 and 0."""
    for name in ("a", "b"):
        labels = make_scene(tmp_path, name, names=BANDS, nodata=0)
        values = np.where(labels == 1, 7, 3).astype(np.int16)
        values[0] = 0
        write_raster(tmp_path / "labels" / f"{name}.tif", values[None])
    return tmp_path


def scenes(folder: Path, **changes: object) -> Scenes:
    options = {"images": folder / "images", "labels": folder / "labels", "classes": CLASSES}
    return Scenes(**(options | changes))  # type: ignore[arg-type]


def test_a_scene_is_described_by_its_file(folder: Path) -> None:
    found = scenes(folder).dataset()
    assert (found.labels, found.classes, found.bands) == ("maps", ("low", "high"), BANDS)
    assert (found.dtype, found.resolution, found.nodata, found.size) == ("uint16", 10.0, 0, 64)


def test_values_become_the_indices_of_their_classes_and_others_are_not_labelled(
    folder: Path,
) -> None:
    image, labels, *_ = scenes(folder).files()
    assert isinstance(image, FinishedFile) and image.path == "images/a.tif"
    assert isinstance(labels, File) and labels.path == "labels/a.tif"
    with MemoryFile(labels.content) as memory, memory.open() as raster:
        values = raster.read(1)
        assert raster.crs.to_string() == "EPSG:32633"
    assert set(np.unique(values)) == {0, 1, NODATA} and (values[0] == NODATA).all()


def test_one_label_map_can_serve_several_dates(folder: Path) -> None:
    source = scenes(folder, labels=folder / "labels" / "a.tif")
    _, first, _, second = source.files()
    assert isinstance(first, File) and isinstance(second, File)
    assert len(source) == 4 and first.content == second.content


def test_a_scene_without_dark_ground_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ground = np.full((4, 64, 64), 700, np.uint16)
    bands = ("B02", "B03", "B04", "B08")
    for name, add in (("a", 0), ("b", 600)):
        write_raster(folder / "images" / f"{name}.tif", ground + np.uint16(add), names=bands)
    list(scenes(folder, bands=bands, nodata=0).files())
    said = capsys.readouterr().err
    assert "warning: b.tif has no dark ground: 95 % of its blue is above 0.13" in said
    assert "a.tif" not in said


def test_a_label_map_among_the_scenes_is_no_scene(folder: Path) -> None:
    all_in_one = folder / "images" / "lulc.tif"
    (folder / "labels" / "a.tif").rename(all_in_one)
    source = scenes(folder, labels=all_in_one)
    assert [file.path for file in source.files() if isinstance(file, FinishedFile)] == [
        "images/a.tif",
        "images/b.tif",
    ]


def test_a_size_that_no_chip_has_names_the_option(folder: Path) -> None:
    with pytest.raises(SourceError, match="^--size 5: size: wanted at least 8"):
        scenes(folder, size=5)


def test_the_command_line_says_it_all(folder: Path) -> None:
    parser = ArgumentParser()
    Scenes.add_arguments(parser)
    line = ["--images", str(folder / "images"), "--labels", str(folder / "labels")]
    line += ["--classes", "3=low, 7=high", "--bands", "R,G,B", "--size", "16", "--nodata", "5"]
    found = Scenes.from_arguments(parser.parse_args(line)).dataset()
    assert (found.bands, found.size, found.nodata) == (("R", "G", "B"), 16, 5)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("forest", "'forest' is not VALUE=NAME, as in 1=forest,2=water"),
        ("1=forest,x=water", "'x=water' is not VALUE=NAME"),
        ("1=forest,1=water", "--classes names the value 1 twice"),
        ("1=forest,2=forest", "--classes has the name forest for two values"),
        ("1=forest", "--classes names fewer than two classes"),
        ("", "--classes names fewer than two classes"),
    ],
)
def test_classes_that_cannot_be_read_are_refused(text: str, reason: str) -> None:
    with pytest.raises(SourceError, match=reason):
        parse_classes(text)


def test_a_scene_without_labels_is_named(folder: Path) -> None:
    (folder / "labels" / "b.tif").unlink()
    with pytest.raises(SourceError, match="b.tif has no label map: wanted .*labels/b.tif"):
        scenes(folder)


def test_bands_without_names_have_to_be_named(folder: Path) -> None:
    make_scene(folder, "a")
    with pytest.raises(SourceError, match="0 bands are named, .*a.tif has 3: give the name of"):
        scenes(folder)
    assert scenes(folder, bands=("R", "G", "B")).dataset().bands == ("R", "G", "B")


def test_folders_that_are_not_there_or_empty_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="--images .*nowhere is not there"):
        scenes(folder, images=folder / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="holds no GeoTIFF"):
        scenes(folder, images=tmp_path / "empty")


def test_a_file_that_is_no_tiff_is_named(folder: Path) -> None:
    (folder / "images" / "a.tif").write_bytes(b"no TIFF")
    with pytest.raises(SourceError, match="a.tif cannot be read"):
        scenes(folder)


def test_a_label_map_of_colours_is_refused(folder: Path) -> None:
    write_raster(folder / "labels" / "a.tif", np.zeros((3, 40, 50), np.uint8))
    with pytest.raises(SourceError, match="a label map has one band of whole numbers"):
        list(scenes(folder).files())
