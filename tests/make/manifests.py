"""A copy of k8s/ with other components in its overlays, as a team writes them."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import yaml

from tests.conftest import ROOT

WAYS_IN = ("ingress", "gateway")
CHOICES = ("openshift", "pod-identity")
"""Components that an overlay may have besides those that ship in it."""


def copy_manifests(folder: Path, way_in: str = "ingress", chosen: Sequence[str] = ()) -> Path:
    """Copy k8s/ into a folder, with these choices in place of those that are there."""
    copy = Path(shutil.copytree(ROOT / "k8s", folder / "k8s"))
    for path in copy.glob("overlays/*/kustomization.yaml"):
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        kept = [it for it in document["components"] if Path(it).name not in (*WAYS_IN, *CHOICES)]
        if "../../components/canary" not in kept:  # its choices are those of production
            document["components"] = kept + [f"../../components/{it}" for it in (way_in, *chosen)]
            path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return copy
