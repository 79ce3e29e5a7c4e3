"""Command: release a version to a stage, by the rules of the registry.

    python -m delivery.deploy staging --version landcover@v1.2.0     roll out, then assign
    python -m delivery.deploy --tag landcover#production#4           roll out what a tag assigns

The first is what main's pipeline does: the stage's tag is made only when the stage serves the
version and has passed the smoke test, and it starts no pipeline. The second is what the pipeline of
a tag does that a person has pushed: promotion and rollback are tags. A stage never goes back to an
older version unless such a tag says so, so that a pipeline that finishes late is refused.

Environment: what delivery.rollout and delivery.image read, and <STAGE>_URL, such as STAGING_URL.
"""

import os
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from pathlib import Path
from typing import NamedTuple

from contracts.tags import STAGES, Version
from delivery.dvc import dvc
from delivery.errors import DeliveryError, RegistryError, RolloutError, command
from delivery.image.__main__ import find
from delivery.notify import notify
from delivery.registry.registry import Registry, open_registry
from delivery.rollout.__main__ import bring
from delivery.rollout.controller import Wish
from delivery.smoke import LIMIT, expectation
from delivery.tags import parse_version

BUNDLES = Path("artifacts/bundles")


class Release(NamedTuple):
    """What is to be where."""

    version: Version
    stage: str
    tag: str
    """The assignment that asks for it; empty when it is made afterwards."""


@command
def main() -> None:
    """Roll out, and assign."""
    parser = ArgumentParser(
        prog="python -m delivery.deploy",
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("stage", nargs="?", choices=STAGES)
    parser.add_argument("--version", help="the version to release")
    parser.add_argument("--tag", help="the assignment to follow, instead of stage and version")
    options = parser.parse_args()
    registry = open_registry()
    registry.sync()
    release = _release(registry, options)
    wish = _wish(release)
    try:
        outcome = bring(wish, os.environ.get("KUBE_CONTEXT", ""))
    except DeliveryError as error:
        said = f"{release.version.tag} does not serve {release.stage}: {error}"
        if release.tag:
            registry.withdraw(release.tag, said)
        _tell(registry, "rolled-back", said)
        raise
    tag = release.tag or registry.assign(release.version, release.stage, ci_skip=True)
    print(f"deploy: {release.stage} serves {release.version.tag} ({outcome.result}, {tag})")
    _tell(registry, "released", f"{release.stage} serves {release.version.tag}")


def _release(registry: Registry, options: Namespace) -> Release:
    """What is asked for, when the rules allow it.

    Raises:
        DeliveryError: they do not, or it is not there.
    """
    if options.tag:
        move = registry.wanted(options.tag)
        return Release(move.version, move.stage, move.tag)
    if not options.stage or not options.version:
        raise RegistryError("say which version goes where: STAGE --version, or --tag")
    version = parse_version(options.version, registry.name)
    if not registry.state().serves(options.stage, version):
        registry.check(version, options.stage)
    return Release(version, options.stage, "")


def _wish(release: Release) -> Wish:
    variable = f"{release.stage.upper()}_URL"
    if not (url := os.environ.get(variable) or os.environ.get("SERVICE_URL", "")):
        raise RolloutError(f"{variable} is not set: say where {release.stage} is served")
    image, bundle = find(release.version), _bundle(release.version)
    return Wish(
        stage=release.stage,
        version=release.version,
        image=image.reference,
        url=url,
        expected=expectation(release.version.tag, image.bundle_sha256, bundle),
        token=os.environ.get("SMOKE_TOKEN") or os.environ.get("SERVICE_ID_TOKEN", ""),
        limit=LIMIT,
        timeout=None,
        allow_older=bool(release.tag),
    )


def _bundle(version: Version) -> Path:
    """The bundle of a version, whose golden answers the smoke test asks for."""
    folder = BUNDLES / version.release
    dvc("get", "--quiet", "--force", "--rev", version.tag, "--out", str(folder), ".", "model")
    return folder


def _tell(registry: Registry, event: str, text: str) -> None:
    """Notify; what was done stays done when nobody can be told."""
    try:
        print(notify(event, f"{registry.name}: {text}"))
    except DeliveryError as error:
        print(f"warning: nobody was told: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
