"""The lineage of a map: to its scene, and by the tag of its model to the version's data."""

import json
from pathlib import Path
from typing import Any

import pytest

from delivery.errors import DeliveryError
from delivery.registry import map_lineage
from delivery.registry.__main__ import main
from delivery.registry.lineage import render
from tests.delivery.conftest import Project


def write_item(folder: Path, tag: str | None = "landcover@v1.0.0", **changes: Any) -> Path:
    """The item of a map, as `python -m service map` writes it."""
    model = {"name": "landcover", "sha256": "a" * 64, "git_revision": "f" * 40}
    properties = {
        "created": "2026-11-29T12:00:00Z",
        "map:model": {**model, "data_version": "d.dir", **({"tag": tag} if tag else {})},
        "map:warnings": ["30 % of the map lies outside the training area"],
    }
    links = [
        {"rel": "derived_from", "href": "inn.tif", "title": "scene, sha256 bb"},
        {"rel": "derived_from", "href": "model/model.json", "title": "model"},
        {"rel": "self", "href": "map.json"},
    ]
    item = {"type": "Feature", "id": "map", "properties": properties, "links": links} | changes
    path = folder / "map.json"
    path.write_text(json.dumps(item), encoding="utf-8")
    return path


def test_a_map_is_found_by_its_own_name_too(
    project: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(project.folder)
    project.release("one", "staging")
    write_item(tmp_path)
    monkeypatch.setattr("sys.argv", ["registry", "lineage", str(tmp_path / "map.tif")])
    main()
    assert "scene, sha256 bb: inn.tif" in capsys.readouterr().out


def test_a_map_leads_to_its_scene_and_to_the_lineage_of_its_version(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.folder)
    project.release("one", "staging")
    found = map_lineage.lineage_of_map(project.registry, write_item(tmp_path))
    assert found["made_from"][0] == "scene, sha256 bb: inn.tif" and len(found["made_from"]) == 2
    assert found["version"] == "landcover@v1.0.0" and found["commit"]["id"]
    assert found["train_scenes"] == [], "these data have no items"
    text = render(found)
    assert "made_by        tag landcover@v1.0.0" in text
    assert "warnings       30 % of the map" in text and "stages         staging from" in text


def test_the_scenes_of_the_training_are_those_of_the_versions_commit(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.release("one")
    asked = []

    def dvc(*words: str) -> str:
        asked.append(words)
        return "\n".join(f"S2_{number:02d}.json" for number in range(14))

    monkeypatch.setattr(map_lineage, "dvc", dvc)
    found = map_lineage.lineage_of_map(project.registry, write_item(tmp_path))
    assert found["train_scenes"][0] == "S2_00" and found["train_scenes"][-1] == "and 2 more"
    assert asked == [("list", ".", "data/items", "--rev", found["commit"]["id"])]


@pytest.mark.parametrize("tag", [None, "local", "other@v1.0.0", "landcover@v9.9.9"])
def test_a_map_of_an_unregistered_model_says_what_its_item_knows(
    tag: str | None, project: Project, tmp_path: Path
) -> None:
    project.release("one")
    found = map_lineage.lineage_of_map(project.registry, write_item(tmp_path, tag))
    assert "version" not in found
    assert found["made_by"]["sha256"] == "a" * 64 and found["made_by"]["trained_on"] == "d.dir"
    assert f"tag {tag or 'not recorded'}" in render(found)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"properties": {"map:model": {}}}', "\xff"])
def test_a_file_that_is_no_item_of_a_map_is_refused(
    text: str, project: Project, tmp_path: Path
) -> None:
    path = tmp_path / "map.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(
        DeliveryError, match="map.json is not the STAC item of a map: give the .json"
    ):
        map_lineage.lineage_of_map(project.registry, path)


def test_a_file_that_is_missing_is_named(project: Project, tmp_path: Path) -> None:
    with pytest.raises(DeliveryError, match="no.json cannot be read: No such file"):
        map_lineage.lineage_of_map(project.registry, tmp_path / "no.json")
