"""Command: write objects to artifacts/manifests/<what>.yaml, to look at or to apply; no cluster.

    python -m delivery.rollout.render setup      what an administrator applies: namespaces, rights
    python -m delivery.rollout.render review     the same for the review apps
    python -m delivery.rollout.render staging --version landcover@v1.2.0     what a rollout applies

`--image` (name@sha256:...) replaces the pushed image of the version. Names are those of
`model.name` in params.yaml.

Environment: CANARY (`argo`: with the objects of Argo Rollouts); that of delivery.image.
"""

import os
from argparse import Namespace
from pathlib import Path

from contracts import commands
from contracts.tags import STAGES
from delivery.errors import RolloutError, command
from delivery.image.image import find
from delivery.rollout.manifests import Document, build, for_version, parse_image, render, to_yaml
from delivery.tags import model_name, parse_version

ADMINISTRATOR = {"setup": Path("k8s/setup"), "review": Path("k8s/overlays/review/namespace")}
MANIFESTS = Path("artifacts/manifests")


@command
def main() -> None:
    """Write one file."""
    parser = commands.parser("delivery.rollout.render", __doc__)
    parser.add_argument("what", choices=(*ADMINISTRATOR, *STAGES))
    parser.add_argument("--version", default="", help="of a stage: v1.2.0 or landcover@v1.2.0")
    parser.add_argument("--image", default="", help="of a stage: name@sha256:...")
    arguments = parser.parse_args()
    path = MANIFESTS / f"{arguments.what}.yaml"
    text = to_yaml(_objects(arguments))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"render: kubectl apply --filename {path}")


def _objects(arguments: Namespace) -> list[Document]:
    """The objects.

    Raises:
        DeliveryError: an argument is invalid, or kustomize refuses the files.
    """
    name = model_name()
    if arguments.what in ADMINISTRATOR:
        return build(ADMINISTRATOR[arguments.what], name)
    if not arguments.version:
        raise RolloutError(f"version: missing: VERSION={name}@v1.2.0 is to serve {arguments.what}")
    version = parse_version(arguments.version, name)
    image = parse_image(arguments.image) if arguments.image else find(version).reference
    canary = os.environ.get("CANARY") == "argo"
    return for_version(render(arguments.what, name, canary), version, image)


if __name__ == "__main__":
    main()
