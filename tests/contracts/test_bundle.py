"""model.json: writers are strict, readers tolerant, on the example of tests/bundle/."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from contracts.bundle import Classification, parse_manifest
from tests.conftest import ROOT

EXAMPLE = ROOT / "tests" / "bundle" / "model.json"
PLACES = ("", "input", "training", "reference", "reference.signals.confidence", "golden.0")


def with_colour(place: str) -> dict[str, Any]:
    """The example with a field that no schema has."""
    document: dict[str, Any] = json.loads(EXAMPLE.read_bytes())
    part: Any = document
    for name in filter(None, place.split(".")):
        part = part[int(name) if name.isdigit() else name]
    part["colour"] = "blue"
    return document


def test_the_example_is_written_as_it_was_read() -> None:
    document = json.loads(EXAMPLE.read_bytes())
    manifest = parse_manifest(EXAMPLE.read_bytes())
    assert manifest.model_dump(mode="json", by_alias=True) == document
    assert Classification.model_validate(document) == manifest


@pytest.mark.parametrize("place", PLACES)
def test_an_unknown_field_is_not_written_and_not_minded_when_read(place: str) -> None:
    document = with_colour(place)
    with pytest.raises(ValidationError, match="colour"):
        Classification.model_validate(document)
    assert parse_manifest(json.dumps(document).encode()) == parse_manifest(EXAMPLE.read_bytes())


@pytest.mark.parametrize("change", [{"schema": 2}, {"task": "poses"}, {"classes": ["one"]}])
def test_another_schema_or_task_is_not_read(change: dict[str, Any]) -> None:
    document = json.loads(EXAMPLE.read_bytes()) | change
    with pytest.raises(ValidationError, match=next(iter(change))):
        parse_manifest(json.dumps(document).encode())
