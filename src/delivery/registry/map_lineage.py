"""From a map to what it was made of: its STAC item -> scene, model -> version, data -> scenes.

`python -m service map` writes the item beside the map. It names the model by its tag and by the
SHA-256 of its graph; the tag of a version leads on to the registry.
"""

import json
from pathlib import Path
from typing import Any

from contracts.tags import Version
from delivery.dvc import dvc
from delivery.errors import DeliveryError, ToolError
from delivery.registry.lineage import lineage
from delivery.registry.policy import clean
from delivery.registry.registry import Registry
from delivery.tags import parse_version

ITEMS = "data/items"  # STAC items of the scenes that a version was trained on
LONGEST = 2**20  # bytes of an item
SHOWN = 12  # scenes


def lineage_of_map(registry: Registry, path: Path) -> dict[str, Any]:
    """Follow a map; None or an empty list means not recorded.

    Raises:
        DeliveryError: the file is missing, or no item of a map.
    """
    item = read_item(path)
    properties = item["properties"]
    model = properties["map:model"]
    found: dict[str, Any] = {
        "map": {"id": str(item.get("id")), "created": properties.get("created")},
        "made_from": [
            f"{link.get('title', '')}: {link.get('href', '')}".removeprefix(": ")
            for link in item.get("links", ())
            if link.get("rel") == "derived_from"
        ],
        "made_by": {
            "tag": model.get("tag"),
            "sha256": model.get("sha256"),
            "trained_at": model.get("git_revision"),
            "trained_on": model.get("data_version"),
        },
        "warnings": properties.get("map:warnings", []),
    }
    version = _version(registry, str(model.get("tag") or ""))
    if version is None:
        return found
    of_version = lineage(registry, version)
    scenes = _training_scenes(of_version["commit"]["id"])
    return found | of_version | {"train_scenes": scenes}


def read_item(path: Path) -> dict[str, Any]:
    """Read the STAC item of a map.

    Raises:
        DeliveryError: the file is missing, or no item of a map.
    """
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(LONGEST))
        if document["properties"]["map:model"].get("sha256"):
            found: dict[str, Any] = document
            return found
    except OSError as error:
        raise DeliveryError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise DeliveryError(
        f"{path} is not the STAC item of a map: give the .json that `python -m service map` wrote "
        "beside the map"
    )


def _version(registry: Registry, tag: str) -> Version | None:
    """The registered version that a tag names; None for another tag, or none."""
    try:
        return registry.find(parse_version(tag, registry.name).tag)
    except DeliveryError:
        return None


def _training_scenes(commit: str) -> list[str]:
    """Ids of the scenes in the data of a commit, as DVC lists them; none without items."""
    try:
        listed = dvc("list", ".", ITEMS, "--rev", commit).split()
    except ToolError:  # data of another source have no items, and a version may not be at hand
        return []
    names = [clean(Path(name).stem) for name in listed if name.endswith(".json")]
    more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return names[:SHOWN] + more
