"""Command: bring a version to a stage, and back when it does not serve.

    python -m delivery.rollout staging --version landcover@v1.2.0 \\
        --image registry/name@sha256:... --url https://landcover-staging.example.com
    python -m delivery.rollout staging ... --dry-run     what would be applied, without a cluster

Applies `k8s/overlays/<stage>`, waits until every pod is new, and runs the smoke test of
`delivery.smoke`. When any of it fails, the last version that passed is brought back, and the exit
code is 1. A stage that serves the version already is left alone. What happened stands in
artifacts/rollout/<stage>.json.

Environment: SERVICE_URL (for --url), SMOKE_TOKEN, KUBE_CONTEXT (kubectl's context), CANARY (`argo`
or `none`; found out if not set).
"""

import json
import os
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from dataclasses import asdict
from pathlib import Path

from contracts.tags import STAGES, Version
from delivery.errors import DeliveryError, RolloutError, ToolError, command
from delivery.rollout.cluster import Cluster
from delivery.rollout.controller import Outcome, RollOut, Wish
from delivery.rollout.manifests import (
    Document,
    deployment_of,
    for_version,
    has_canary,
    parse_image,
    render,
    to_yaml,
)
from delivery.smoke import Smoke, add_arguments, expectation
from delivery.tags import parse_version

RESULTS = Path("artifacts/rollout")
# Kinds that not every cluster knows: their API group and plural. What is unknown is left out.
OPTIONAL = {"ServiceMonitor": ("monitoring.coreos.com", "servicemonitors")}
ARGO = ("argoproj.io", "rollouts")


def find_canary(stage: str, cluster: Cluster) -> bool:
    """Whether Argo Rollouts is to move a stage: it has an overlay for it, and the cluster has it.

    Raises:
        ToolError: the cluster has it and kubectl lacks its plugin.
    """
    said = os.environ.get("CANARY", "")
    if said not in ("", "argo", "none"):
        raise RolloutError(f"CANARY: {said[:32]!a} is none: write argo or none, or do not set it")
    if said == "none" or not has_canary(stage):
        return False
    if said == "" and not cluster.knows(*ARGO):
        return False
    try:
        cluster.call("argo", "rollouts", "version")
    except RolloutError:
        raise ToolError(
            "kubectl: its plugin `argo rollouts` is not there: install kubectl-argo-rollouts, or "
            "set CANARY=none where Argo Rollouts does not run this stage"
        ) from None
    return True


def without_unknown(documents: list[Document], cluster: Cluster) -> list[Document]:
    """Leave out optional objects of a kind that the cluster does not know, and say so."""
    found = []
    for document in documents:
        kind = document["kind"]
        if kind in OPTIONAL and not cluster.knows(*OPTIONAL[kind]):
            print(
                f"left out: {kind} {document['metadata']['name']}, the cluster knows no such kind"
            )
            continue
        found.append(document)
    return found


def bring(wish: Wish, context: str = "") -> Outcome:
    """Bring a version to a stage; the outcome is written also when it fails.

    Raises:
        DeliveryError: the stage does not serve the version.
    """
    plain = render(wish.stage)
    cluster = Cluster(deployment_of(plain)["metadata"]["namespace"], context)
    canary = find_canary(wish.stage, cluster)
    objects = render(wish.stage, canary) if canary else plain
    documents = without_unknown(for_version(objects, wish.version, wish.image), cluster)
    rollout = RollOut(wish, documents, cluster, canary)
    started = time.monotonic()
    write(rollout.outcome)  # one that is killed leaves "unfinished" behind
    try:
        rollout.run()
    except DeliveryError as error:
        if rollout.outcome.result == "unfinished":  # before anything was changed
            rollout.outcome.result, rollout.outcome.reason = "failed", str(error)
        raise
    finally:
        rollout.outcome.seconds = round(time.monotonic() - started, 1)
        write(rollout.outcome)
    return rollout.outcome


def write(outcome: Outcome) -> None:
    """Write what happened."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(outcome), indent=2) + "\n"
    (RESULTS / f"{outcome.stage}.json").write_text(text, encoding="utf-8")


def dry_run(stage: str, version: Version, image: str) -> None:
    """Print what would be applied; no cluster is asked."""
    canary = os.environ.get("CANARY") == "argo"
    print(to_yaml(for_version(render(stage, canary), version, image)), end="")


def read_wish(arguments: Namespace) -> Wish:
    """Check the arguments.

    Raises:
        DeliveryError: one of them can not be used.
    """
    version = parse_version(arguments.version)
    url = arguments.url or os.environ.get("SERVICE_URL", "")
    if not url and not arguments.dry_run:
        raise RolloutError("url: say where the stage is served, with --url or SERVICE_URL")
    expected = expectation(version.tag, arguments.sha256, arguments.bundle)
    token = os.environ.get("SMOKE_TOKEN", "")
    if url:
        Smoke(url, expected, token)  # what is wrong with them is to be known before anything else
    return Wish(
        stage=arguments.stage,
        version=version,
        image=parse_image(arguments.image),
        url=url,
        expected=expected,
        token=token,
        limit=arguments.limit,
        timeout=arguments.timeout,
        allow_older=arguments.allow_older,
    )


@command
def main() -> None:
    """Bring a version to a stage."""
    parser = ArgumentParser(
        prog="python -m delivery.rollout",
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--image", required=True, help="the version's image, name@sha256:...")
    parser.add_argument("--url", default="", help="where the stage is served (SERVICE_URL)")
    add_arguments(parser)
    parser.add_argument(
        "--timeout", type=float, help="seconds until every pod is new (600, a canary 2400)"
    )
    parser.add_argument("--allow-older", action="store_true", help="go back to an older version")
    parser.add_argument("--dry-run", action="store_true", help="print what would be applied")
    arguments = parser.parse_args()
    wish = read_wish(arguments)
    if arguments.dry_run:
        dry_run(wish.stage, wish.version, wish.image)
        return
    outcome = bring(wish, os.environ.get("KUBE_CONTEXT", ""))
    print(f"{outcome.result} in {outcome.seconds:g} s: {RESULTS / f'{wish.stage}.json'}")


if __name__ == "__main__":
    main()
