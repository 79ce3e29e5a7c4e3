"""A copy of k8s/ with other components in its overlays, as a team writes them."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import yaml

from tests.conftest import ROOT

WAYS_IN = ("ingress", "gateway")
CHOICES = (
    *("openshift", "private-ca", "gpu", "cpu-limit"),
    *("maps", "routing", "stream", "pod-identity", "queue-time", "keda", "external-secrets"),
    "cert-manager",
)
"""Components that an overlay may have besides those that ship in it."""
OF_STAGES = CHOICES[4:]
"""Those that are not for a review app: it has one model, lacks an object that they change, its
secrets are the namespace's, and a merge request may not order a certificate."""
OF_INGRESS = ("cert-manager",)
"""Those that change the Ingress: a Gateway, which is not of this model, is annotated itself."""
RULES = 'name: trial\narms: {default: 0.9, "landcover#staging": 0.1}\n'
STRATEGIES = ("canary", "blue-green")
"""Components of Argo Rollouts, of which the overlay of a stage may have one."""


def copy_manifests(
    folder: Path,
    way_in: str = "ingress",
    chosen: Sequence[str] = (),
    strategies: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Copy k8s/ into a folder, with these choices in place of those that are there.

    `strategies` has the component of Argo Rollouts for an overlay, if it has one.
    """
    copy = Path(shutil.copytree(ROOT / "k8s", folder / "k8s", dirs_exist_ok=True))
    (copy / "components" / "private-ca" / "ca.crt").write_text("a certificate\n")
    (copy / "components" / "routing" / "routing.yaml").write_text(RULES)
    choices = (*WAYS_IN, *CHOICES, *STRATEGIES)
    for path in copy.glob("overlays/*/kustomization.yaml"):
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        strategy = strategies.get(path.parent.name)
        names = (way_in, *chosen, *([strategy] if strategy else []))
        kept = [it for it in document["components"] if Path(it).name not in choices]
        document["components"] = kept + [f"../../components/{it}" for it in names]
        path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return copy
