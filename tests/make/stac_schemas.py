"""STAC's own schema of items, which pystac brings along: nothing is fetched."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import pystac.validation

FOLDER = Path(pystac.validation.__file__).parent / "jsonschemas"
ITEM = "https://schemas.stacspec.org/v1.1.0/item-spec/json-schema/item.json"
MISNAMED = {"commonjson": "common.json"}  # in the schema's own name


def faults(item: dict[str, Any]) -> list[str]:
    """What is wrong with an item; extensions are not looked at."""
    validator = jsonschema_rs.Draft7Validator(_schemas()[ITEM], retriever=_retrieve)
    return [error.message for error in validator.iter_errors(item)]


@cache
def _schemas() -> dict[str, Any]:
    found = {}
    for path in FOLDER.rglob("*.json"):
        schema = json.loads(path.read_bytes())
        name = schema["$id"].rstrip("#")
        for wrong, right in MISNAMED.items():
            name = name.removesuffix(wrong) + right if name.endswith(wrong) else name
        found[name] = schema
    return found


def _retrieve(address: str) -> Any:
    return _schemas()[address.rstrip("#")]
