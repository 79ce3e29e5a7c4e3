"""The interface of a model, which callers rely on: its classes, and the format of its chips.

The bundle is not in Git, so the message of a version's tag contains the interface. The next version
is compared with it: a model with other classes or bands breaks its callers, and gets a new major
number.
"""

import json
import re
from pathlib import Path
from typing import Any

from contracts.bundle import MANIFEST, parse_manifest
from contracts.commit import folder_digest
from delivery.errors import RegistryError

_INPUT = ("dtype", "bands", "height", "width", "scale", "units")
_LINE = re.compile(r"^Interface: (\{.*\})$", flags=re.MULTILINE)


def read_interface(bundle: Path, digest: str) -> dict[str, Any]:
    """Read the interface of the bundle with this digest in `dvc.lock`.

    Raises:
        RegistryError: the folder is missing, has another model, or is not a bundle.
    """
    if not bundle.is_dir() or folder_digest(bundle) != digest:
        raise RegistryError(
            f"{bundle.name}/ is not the model that dvc.lock names, {digest}: "
            f"git checkout that commit and dvc pull {bundle.name}"
        )
    try:
        manifest = parse_manifest((bundle / MANIFEST).read_bytes())
    except (OSError, ValueError):
        raise RegistryError(
            f"{bundle.name}/{MANIFEST} is not the manifest of a bundle: dvc repro writes one"
        ) from None
    parts = manifest.input.model_dump(mode="json", include=set(_INPUT))
    return {
        "schema": manifest.schema_version,
        "task": manifest.task,
        "classes": list(manifest.classes),
        **{f"input.{name}": value for name, value in parts.items()},
    }


def write_line(interface: dict[str, Any]) -> str:
    """The line for the message of a tag."""
    return f"Interface: {json.dumps(interface, sort_keys=True)}"


def read_line(message: str) -> dict[str, Any] | None:
    """The interface in a tag's message; None if it has none."""
    try:
        found: dict[str, Any] = json.loads(_LINE.findall(message)[-1])
    except (IndexError, ValueError, RecursionError):
        return None
    return found


def changes(old: dict[str, Any] | None, new: dict[str, Any]) -> list[str]:
    """List the changed fields; an unknown interface counts as changed."""
    if old is None:
        return ["an unrecorded interface"]
    return [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
