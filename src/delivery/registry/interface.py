"""What callers of a model rely on: its classes, and the chips that it takes.

The bundle is not in Git, so a version's interface is written into the message of its tag. The next
version is compared with that: a model with other classes or other bands breaks its callers, and
gets a new major number.
"""

import json
import re
from pathlib import Path
from typing import Any

from contracts.commit import folder_digest
from delivery.errors import RegistryError

_INPUT = ("dtype", "bands", "height", "width", "scale", "units")
_LINE = re.compile(r"^Interface: (\{.*\})$", flags=re.MULTILINE)


def read_interface(bundle: Path, digest: str) -> dict[str, Any]:
    """Read the interface of a bundle that is what `dvc.lock` calls `digest`.

    Raises:
        RegistryError: the folder is missing, another model, or no bundle.
    """
    if not bundle.is_dir() or folder_digest(bundle) != digest:
        raise RegistryError(
            f"{bundle.name}/ is not the model that dvc.lock names, {digest}: "
            f"git checkout that commit and dvc pull {bundle.name}"
        )
    try:
        document = json.loads((bundle / "model.json").read_bytes())
        parts = {f"input.{name}": document["input"].get(name) for name in _INPUT}
        return {name: document[name] for name in ("schema", "task", "classes")} | parts
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise RegistryError(
            f"{bundle.name}/model.json is no manifest of a bundle: dvc repro writes one"
        ) from None


def write_line(interface: dict[str, Any]) -> str:
    """The line for the message of a tag."""
    return f"Interface: {json.dumps(interface, sort_keys=True)}"


def read_line(message: str) -> dict[str, Any] | None:
    """The interface that a tag's message keeps; None when it keeps none."""
    try:
        found: dict[str, Any] = json.loads(_LINE.findall(message)[-1])
    except (IndexError, ValueError, RecursionError):
        return None
    return found


def changes(old: dict[str, Any] | None, new: dict[str, Any]) -> list[str]:
    """Name what a caller has to mind; an unknown interface could have been any."""
    if old is None:
        return ["an interface that nobody noted"]
    return [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
