"""COCO's format: what is taken, what an image is refused for, and what the whole file is."""

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import SourceError
from pipeline.sources import File, RefusedFile
from pipeline.sources.coco import Coco
from tests.make.harbours import make_coco, write_document


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_coco(tmp_path)
    return tmp_path


def change(folder: Path, kind: str, number: int, **values: Any) -> dict[str, Any]:
    """Change one entry of the document."""
    document: dict[str, Any] = json.loads((folder / "annotations.json").read_text("utf-8"))
    document[kind][number] |= values
    write_document(folder, document)
    return document


def refused(folder: Path) -> dict[str, str]:
    return {f.path: f.reason for f in Coco(folder).files() if isinstance(f, RefusedFile)}


def test_images_and_boxes_are_taken_with_their_group(folder: Path) -> None:
    source = Coco(folder)
    found = source.dataset()
    assert (found.labels, found.classes, found.dtype, found.size) == (
        "boxes",
        ("ship",),
        "uint8",
        32,
    )
    files = [file for file in source.files() if isinstance(file, File)]
    assert len(files) == len(source) == 48
    assert [file.path for file in files[2:4]] == ["images/porta_001.png", "boxes/porta_001.json"]
    document = json.loads(files[3].content)
    assert document["group"] == "porta"
    (item,) = document["objects"]
    left, top, right, bottom = item["box"]
    assert item["class"] == "ship" and (right - left, bottom - top) == (12, 8)


def test_an_image_without_boxes_is_background(folder: Path) -> None:
    first = next(f for f in Coco(folder).files() if f.path == "boxes/porta_000.json")
    assert isinstance(first, File) and json.loads(first.content)["objects"] == []


def test_a_group_is_a_field_or_the_name_up_to_its_number_or_the_image(folder: Path) -> None:
    document = json.loads((folder / "annotations.json").read_text("utf-8"))
    for number, image in enumerate(document["images"]):
        image["flight"] = number % 3
    write_document(folder, document)
    assert set(Coco(folder)._groups.values()) == {"porta", "portb", "portc", "portd"}
    assert set(Coco(folder, group="flight")._groups.values()) == {"0", "1", "2"}
    assert len(set(Coco(folder, group="image")._groups.values())) == 24
    with pytest.raises(SourceError, match="--group port: the image porta_000.png has no such"):
        Coco(folder, group="port")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"bbox": [40, 5, 8, 8]}, "the box [40, 5, 8, 8] is outside of 32 x 32 pixels"),
        ({"bbox": [5, -9, 8, 8]}, "the box [5, -9, 8, 8] is outside of 32 x 32 pixels"),
        ({"bbox": [5, 5, 0, 8]}, "a box of 0 x 8 pixels has no area"),
        ({"bbox": [5, 5, 8, -3]}, "a box of 8 x -3 pixels has no area"),
        ({"category_id": 9}, "has the unknown category 9"),
        ({"iscrowd": 1}, "is a crowd (iscrowd), whose objects have no boxes"),
    ],
)
def test_an_image_is_refused_for_a_box_that_cannot_be_used(
    folder: Path, values: dict[str, Any], reason: str
) -> None:
    change(folder, "annotations", 0, **values)
    found = refused(folder)
    assert list(found) == ["images/porta_001.png"] and found["images/porta_001.png"].endswith(
        reason
    )
    assert "annotation 100" in found["images/porta_001.png"]


def test_a_box_across_the_edge_is_cut_off_there(folder: Path) -> None:
    change(folder, "annotations", 0, bbox=[-4, 28, 10, 10])
    file = next(f for f in Coco(folder).files() if f.path == "boxes/porta_001.json")
    assert isinstance(file, File)
    assert json.loads(file.content)["objects"][0]["box"] == [0, 28, 6, 32]


def test_an_image_that_is_missing_broken_or_of_another_size_is_refused(folder: Path) -> None:
    (folder / "porta_001.png").unlink()
    (folder / "porta_002.png").write_bytes(b"no picture")
    change(folder, "images", 3, width=64)
    found = refused(folder)
    assert len(found) == 3
    assert "the file is not there" in found["images/porta_001.png"]
    assert "cannot be read" in found["images/porta_002.png"]
    reason = "annotated as 64 x 32 pixels, the file has 32 x 32"
    assert found["images/porta_003.png"] == reason


def test_without_any_image_the_source_says_so(folder: Path) -> None:
    for path in folder.glob("*.png"):
        path.unlink()
    with pytest.raises(SourceError, match="no image of .* can be read; the first: porta_000.png"):
        Coco(folder)


@pytest.mark.parametrize("content", [b"", b'{"images": [{"id": 1, "file_na', b"[]", b'{"a": 1}'])
def test_a_file_that_is_cut_off_or_no_coco_is_refused(folder: Path, content: bytes) -> None:
    (folder / "annotations.json").write_bytes(content)
    with pytest.raises(SourceError, match="is not COCO's format, or cut off"):
        Coco(folder)


def test_annotations_that_are_not_there_are_asked_for(folder: Path) -> None:
    with pytest.raises(SourceError, match="No such file.*give the folder .* as --path"):
        Coco(folder, annotations="instances.json")


@pytest.mark.parametrize(
    ("kind", "number", "values", "reason"),
    [
        ("images", 1, {"id": 1}, "2 of the image list have the id 1"),
        ("images", 1, {"file_name": "porta_000.tif"}, "2 images are called porta_000"),
        ("images", 1, {"file_name": "../a.png"}, "wanted a path below the folder"),
        ("images", 1, {"file_name": "/etc/a.png"}, "wanted a path below the folder"),
        ("images", 1, {"file_name": "a.exe"}, "that ends in"),
        ("annotations", 0, {"image_id": 77}, "has annotations of the image 77, which it does not"),
        ("categories", 0, {"name": 5}, "categories.0.name: wanted a text"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused_as_a_whole(
    folder: Path, kind: str, number: int, values: dict[str, Any], reason: str
) -> None:
    change(folder, kind, number, **values)
    with pytest.raises(SourceError, match=reason):
        Coco(folder)


def test_two_categories_of_one_id_or_name_are_refused(folder: Path) -> None:
    category = {"id": 1, "name": "ship"}
    make_coco(folder, categories=[category, {"id": 1, "name": "tank"}])
    with pytest.raises(SourceError, match="2 of the category list have the id 1"):
        Coco(folder)
    make_coco(folder, categories=[category, {"id": 2, "name": "ship"}])
    with pytest.raises(SourceError, match="classes repeats a name: ship, ship"):
        Coco(folder)


def test_images_of_one_place_alone_cannot_be_split(folder: Path) -> None:
    make_coco(folder, groups=1)
    with pytest.raises(SourceError, match="1 groups .porta., and train, validation, test need one"):
        Coco(folder)
    assert Coco(folder, group="image").dataset().size == 32


def test_bands_are_those_of_the_file_or_of_the_options(folder: Path) -> None:
    make_coco(folder, info={"bands": ["red", "green", "blue"], "description": "Ports"})
    assert Coco(folder).dataset().bands == ("red", "green", "blue")
    assert Coco(folder).dataset().origin == "Ports"
    assert Coco(folder, bands=("r", "g", "b")).dataset().bands == ("r", "g", "b")
    with pytest.raises(SourceError, match="2 bands are named, the images have 3"):
        Coco(folder, bands=("r", "g"))


def test_the_command_line_says_it_all(folder: Path) -> None:
    parser = ArgumentParser()
    Coco.add_arguments(parser)
    line = ["--path", str(folder), "--size", "16", "--group", "image", "--name", "ports"]
    found = Coco.from_arguments(parser.parse_args(line)).dataset()
    assert (found.name, found.size) == ("ports", 16)
    with pytest.raises(SourceError, match="size: wanted at least 8"):
        Coco.from_arguments(parser.parse_args([*line, "--size", "4"]))


def test_folders_below_become_part_of_the_name(folder: Path) -> None:
    (folder / "a").mkdir()
    (folder / "porta_001.png").rename(folder / "a" / "porta_001.png")
    change(folder, "images", 1, file_name="a/porta_001.png")
    assert refused(folder) == {}
    assert "images/a_porta_001.png" in [file.path for file in Coco(folder).files()]
