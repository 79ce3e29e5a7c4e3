"""Writes and reads the model bundle, whose schema is `contracts.bundle`."""

import hashlib
import json
from pathlib import Path

from pydantic import ValidationError

from contracts.bundle import GRAPH, MANIFEST, Manifest, parse_manifest
from contracts.faults import first_fault
from pipeline import paths
from pipeline.errors import BundleError
from pipeline.files import replacing


def sha256(content: bytes) -> str:
    """Digest that identifies a model."""
    return hashlib.sha256(content).hexdigest()


def write_bundle(graph: bytes, manifest: Manifest, folder: Path = paths.MODEL) -> None:
    """Write the bundle in one step."""
    document = manifest.model_dump(mode="json", by_alias=True)
    with replacing(folder) as fresh:
        (fresh / GRAPH).write_bytes(graph)
        (fresh / MANIFEST).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def read_bundle(folder: Path = paths.MODEL) -> tuple[bytes, Manifest]:
    """Read a bundle and verify it.

    Raises:
        BundleError: a file is missing or too many, the manifest is of another schema, or the
            graph is not the one that the manifest names.
    """
    if not folder.is_dir():
        raise BundleError(f"{folder}/ is missing: run `dvc repro` to train, or `dvc pull {folder}`")
    found = sorted(item.name for item in folder.iterdir())
    if found != [MANIFEST, GRAPH]:
        raise BundleError(
            f"{folder}/ holds {', '.join(found) or 'nothing'}; a bundle is {MANIFEST} and {GRAPH}, "
            f"no more and no less: train or pull it again"
        )
    try:
        manifest = parse_manifest((folder / MANIFEST).read_bytes())
    except ValidationError as error:
        fault = first_fault(error, "the file")
        raise BundleError(f"{folder / MANIFEST}: {fault}; train it again") from None
    graph = (folder / GRAPH).read_bytes()
    if (digest := sha256(graph)) != manifest.sha256:
        raise BundleError(
            f"{folder / GRAPH} has SHA-256 {digest[:12]}..., the manifest says "
            f"{manifest.sha256[:12]}...: it was altered or cut off, pull or train it again"
        )
    return graph, manifest
