"""Command: release a version to a stage, according to the registry's policy.

    python -m delivery.deploy staging --version landcover@v1.2.0     roll out, then assign
    python -m delivery.deploy --tag landcover#production#4           roll out what a tag assigns

Main's pipeline runs the first: the stage's tag is created only after the stage serves the version
and has passed the smoke test, and it starts no pipeline. The pipeline of a tag that a person pushed
runs the second: promotion and rollback are tags. A stage goes back to an older version only by such
a tag: a pipeline that finishes late does nothing, and says so.

Environment: that of delivery.rollout and delivery.image, and <STAGE>_URL, such as STAGING_URL.
"""

import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

from contracts import commands
from contracts.tags import STAGES, Version
from delivery.dvc import dvc
from delivery.errors import DeliveryError, LeftOut, RegistryError, RolloutError, command
from delivery.image.image import find
from delivery.notify import notify
from delivery.registry.registry import Registry, open_registry
from delivery.rollout.controller import RolloutRequest, roll_out
from delivery.rollout.smoke_test import LIMIT, expectation
from delivery.tags import parse_assignment, parse_stage, parse_version

BUNDLES = Path("artifacts/bundles")


class Release(NamedTuple):
    """A version for a stage."""

    version: Version
    stage: str
    tag: str
    """The assignment that requests it; empty if the assignment is created afterwards."""


@command
def main() -> None:
    """Roll out, and assign."""
    parser = commands.parser("delivery.deploy", __doc__)
    parser.add_argument("stage", nargs="?", help=f"one of {', '.join(STAGES)}")
    parser.add_argument("--version", help="the version to release")
    parser.add_argument("--tag", help="the assignment to roll out, instead of stage and version")
    options = parser.parse_args()
    registry = open_registry()
    release = _release(registry, options)
    request = _request(release)
    try:
        outcome = roll_out(request, os.environ.get("KUBE_CONTEXT", ""))
    except LeftOut:  # the stage was not touched
        raise
    except DeliveryError as error:
        failure = f"{release.version.tag} does not serve {release.stage}: {error}"
        if release.tag:
            registry.withdraw(release.tag, failure)
        _notify(registry, "rolled-back", failure)
        raise
    tag = release.tag or registry.assign(release.version, release.stage, ci_skip=True)
    print(f"deploy: {release.stage} serves {release.version.tag} ({outcome.result}, {tag})")
    _notify(registry, "released", f"{release.stage} serves {release.version.tag}")


def _release(registry: Registry, options: Namespace) -> Release:
    """The requested release, if the policy allows it.

    Raises:
        DeliveryError: the policy forbids it, or the version does not exist.
    """
    if options.tag:
        parse_assignment(options.tag)
        registry.sync()
        move = registry.requested(options.tag)
        return Release(move.version, move.stage, move.tag)
    if not options.stage or not options.version:
        raise RegistryError("stage and version are missing: give STAGE --version, or --tag")
    stage, version = parse_stage(options.stage), parse_version(options.version, registry.name)
    registry.sync()
    if not registry.state().serves(stage, version):
        registry.check(version, stage)
    return Release(version, stage, "")


def _request(release: Release) -> RolloutRequest:
    variable = f"{release.stage.upper()}_URL"
    if not (url := os.environ.get(variable) or os.environ.get("SERVICE_URL", "")):
        raise RolloutError(f"{variable} is not set: set it to the address of {release.stage}")
    image, bundle = find(release.version), _bundle(release.version)
    return RolloutRequest(
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
    """Download the bundle of a version: the smoke test compares its golden answers."""
    folder = BUNDLES / version.release
    dvc("get", "--force", "--rev", version.tag, "--out", str(folder), ".", "model")
    return folder


def _notify(registry: Registry, event: str, text: str) -> None:
    """Notify; a wrong setting of the chat must not fail a finished rollout."""
    try:
        print(notify(event, f"{registry.name}: {text}"))
    except DeliveryError as error:
        print(f"warning: no notification was sent: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
