"""The STAC item of a model: valid by the field's own tools, and true to the bundle."""

import json
import subprocess
from copy import deepcopy
from typing import Any

import pytest

from contracts.bundle import (
    Area,
    Classification,
    Detection,
    GoldenMap,
    Instances,
    Manifest,
    Segmentation,
    parse_manifest,
)
from delivery import model_item
from delivery.errors import DeliveryError
from delivery.tags import parse_version
from tests.conftest import ROOT
from tests.delivery.conftest import Project

CLASSIFIER = parse_manifest((ROOT / "tests" / "bundle" / "model.json").read_bytes())
VERSION = parse_version("v1.2.0", "landcover")
PYTHON = ROOT / ".venv-stac" / "bin" / "python"


def mapper(**changes: Any) -> Segmentation:
    """The example as a model that maps."""
    assert isinstance(CLASSIFIER, Classification)
    fields: dict[str, Any] = {
        **{name: getattr(CLASSIFIER, name) for name in ("name", "classes", "input", "sha256")},
        **{name: getattr(CLASSIFIER, name) for name in ("training", "statistics", "reference")},
        "task": "segmentation",
        "colours": ("#000000",) * len(CLASSIFIER.classes),
        "stride": 4,
        "margin": 24,
        "exact": True,
        "golden": (GoldenMap(chip="", labels=""),),
    }
    return Segmentation(**(fields | changes))


def item_of(manifest: Manifest) -> dict[str, Any]:
    return model_item.describe(manifest, VERSION, "c" * 40, 1234)


def verdict(item: dict[str, Any]) -> str:
    """What pystac and stac-model say."""
    if not PYTHON.exists():
        pytest.skip("the validators of STAC are not installed: make setup-e2e")
    script = str(ROOT / "tests" / "make" / "validate_item.py")
    done = subprocess.run(
        [PYTHON, script], input=json.dumps(item), capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or done.stderr


AREA = Area(
    west=13, south=46, east=14, north=47, first="2025-05-01T00:00:00Z", last="2025-09-30T00:00:00Z"
)


def finder() -> Detection:
    """The example as a model that finds objects."""
    document = mapper().model_dump(by_alias=True)
    for name in ("colours", "stride", "margin", "exact", "area"):
        del document[name]
    golden = ({"chip": "", "boxes": (), "scores": (), "labels": ()},)
    document["input"] |= {"multiple": 16}
    return Detection(**(document | {"task": "detection", "threshold": 0.3, "golden": golden}))


def outliner() -> Instances:
    """The example as a model that finds objects with a mask each."""
    document = finder().model_dump(by_alias=True)
    golden = ({"chip": "", "boxes": (), "scores": (), "labels": (), "masks": ""},)
    return Instances(**(document | {"task": "instances", "golden": golden}))


def test_items_of_all_tasks_are_valid() -> None:
    assert verdict(item_of(outliner())) == "valid"
    assert verdict(item_of(CLASSIFIER)) == "valid"
    assert verdict(item_of(finder())) == "valid"
    assert verdict(item_of(mapper(area=AREA))) == "valid"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda item: item["properties"].pop("mlm:input"),
        lambda item: item["properties"]["mlm:input"][0]["input"].update(data_type="uint17"),
        lambda item: item["properties"].update(datetime=None),
        lambda item: item.pop("assets"),
    ],
)
def test_the_validators_have_teeth(spoil: Any) -> None:
    item = deepcopy(item_of(CLASSIFIER))
    spoil(item)
    assert verdict(item) != "valid"


@pytest.mark.parametrize("manifest", [CLASSIFIER, mapper()])
def test_every_band_that_the_input_names_is_described(manifest: Manifest) -> None:
    item = item_of(manifest)  # no schema checks this, and the official example has them mixed up
    (wanted,) = item["properties"]["mlm:input"]
    described = [band["name"] for band in item["properties"]["bands"]]
    assert wanted["bands"] == described == list(manifest.input.bands)
    assert wanted["input"]["shape"][1] == len(described)
    assert [band["eo:common_name"] for band in item["properties"]["bands"]][0] == "blue"


def test_a_map_has_free_edges_and_where_its_training_was() -> None:
    item = item_of(mapper(area=AREA))
    (wanted,), (output,) = (item["properties"][f"mlm:{n}"] for n in ("input", "output"))
    assert wanted["input"]["shape"] == [-1, 4, -1, -1] and "multiples of 4" in wanted["description"]
    assert output["name"] == "labels" and output["result"]["data_type"] == "uint8"
    assert item["bbox"] == [13, 46, 14, 47]
    assert item["properties"]["start_datetime"] == "2025-05-01T00:00:00Z"


def test_a_finder_of_masks_has_free_edges_and_masks() -> None:
    properties = item_of(outliner())["properties"]
    (output,) = properties["mlm:output"]
    assert properties["mlm:tasks"] == output["tasks"] == ["instance-segmentation"]
    assert (output["name"], output["result"]["data_type"]) == ("masks", "uint8")
    assert "multiples of 16" in properties["mlm:input"][0]["description"]


def test_a_finder_of_objects_has_free_edges_and_boxes() -> None:
    properties = item_of(finder())["properties"]
    (wanted,), (output,) = (properties[f"mlm:{name}"] for name in ("input", "output"))
    assert wanted["input"]["shape"] == [-1, 4, -1, -1]
    assert "multiples of 16" in wanted["description"]
    assert output["name"] == "boxes" and output["result"]["shape"] == [-1, -1, 4]
    assert properties["mlm:tasks"] == ["object-detection"]


def test_an_area_across_the_date_line_is_two_boxes() -> None:
    geometry = item_of(mapper(area=Area(west=178, south=0, east=-179, north=1)))["geometry"]
    assert geometry["type"] == "MultiPolygon"
    assert [ring[0][0][0] for ring in geometry["coordinates"]] == [178, -180]


def test_an_offset_is_in_units_and_not_in_digital_numbers() -> None:
    wanted = CLASSIFIER.input.model_copy(update={"offset": -1000})
    bands = item_of(mapper(input=wanted))["properties"]["bands"]
    assert bands[0]["raster:offset"] == pytest.approx(-0.1)
    assert bands[0]["raster:scale"] == pytest.approx(1e-4)


def test_an_item_is_small_and_names_the_graph_by_its_digest() -> None:
    item = item_of(CLASSIFIER)
    assert len(json.dumps(item)) < 10_240
    assert item["assets"]["model"]["file:checksum"] == "1220" + CLASSIFIER.sha256
    assert item["assets"]["model"]["file:size"] == 1234
    assert item["id"] == "landcover-v1.2.0" and item["properties"]["version"] == "1.2.0"


def test_the_bundle_at_hand_has_to_be_the_versions(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.folder)
    project.register("first")
    version = parse_version("v1.0.0", "landcover")
    written = model_item.write(project.registry, version)
    assert json.loads(written.read_text("utf-8"))["id"] == "landcover-v1.0.0"
    project.write("model/model.onnx", "another")
    with pytest.raises(
        DeliveryError, match="is not the bundle of landcover@v1.0.0: dvc pull model"
    ):
        model_item.write(project.registry, version)


def test_a_manifest_of_another_schema_is_one_sentence(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.folder)
    project.register("first")
    project.write("model/model.json", "{}")
    monkeypatch.setattr(model_item, "folder_digest", lambda folder: "same")
    monkeypatch.setattr(model_item, "model_digest", lambda repository, commit: "same")
    with pytest.raises(
        DeliveryError, match="model/model.json: task: it is missing; train it again"
    ):
        model_item.write(project.registry, parse_version("v1.0.0", "landcover"))
