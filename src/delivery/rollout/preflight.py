"""What a cluster is asked before anything changes: what it knows, and what it would refuse."""

import json
import re

from delivery.errors import RolloutError
from delivery.rollout.cluster import Cluster
from delivery.rollout.manifests import Document, to_yaml
from delivery.rollout.workload import WORKLOADS

OPTIONAL = {"ServiceMonitor": ("monitoring.coreos.com", "servicemonitors")}
"""Kinds that not every cluster knows: API group and plural. Unknown ones are left out."""
REQUIRED = {
    "HTTPRoute": (
        ("gateway.networking.k8s.io", "httproutes"),
        "install the Gateway API, or take the component ingress in place of gateway",
    ),
    "ExternalSecret": (
        ("external-secrets.io", "externalsecrets"),
        "install the External Secrets Operator, or take the component external-secrets out",
    ),
    "ScaledObject": (
        ("keda.sh", "scaledobjects"),
        "install KEDA, or take the component keda out of the overlay",
    ),
    "Rollout": (
        ("argoproj.io", "rollouts"),
        "install Argo Rollouts, or take its component out of the overlay",
    ),
}
"""Kinds without which the stage does not serve, and what to do where the cluster lacks them."""
SKEW = 1
"""Minor versions that kubectl and the cluster may be apart, as Kubernetes promises."""
NO_DRY_RUN = "does not support dry run"
"""What an API server says of a webhook that might do something else than answer."""


def without_unknown(documents: list[Document], cluster: Cluster) -> list[Document]:
    """Leave out optional objects whose kind the cluster does not know, and report them.

    Raises:
        RolloutError: the kind of a required object is unknown.
    """
    found = []
    for document in documents:
        kind = document["kind"]
        if kind in REQUIRED and not cluster.knows(*REQUIRED[kind][0]):
            raise RolloutError(
                f"{kind}: the cluster does not know this kind: {REQUIRED[kind][1]}; nothing was "
                "changed"
            )
        if kind in OPTIONAL and not cluster.knows(*OPTIONAL[kind]):
            name = document["metadata"]["name"]
            print(f"left out: {kind} {name}, the cluster does not know this kind")
            continue
        found.append(document)
    return found


def refuse_other_workload(stage: str, kind: str, cluster: Cluster) -> None:
    """Refuse a stage that something else than its overlay says runs.

    Two would serve at once, and what the overlay no longer has would stay without anyone's notice.

    Raises:
        RolloutError: the other kind of workload is there.
    """
    (other,) = WORKLOADS.keys() - {kind}
    if other in REQUIRED and not cluster.knows(*REQUIRED[other][0]):
        return
    if WORKLOADS[other](cluster).running() is not None:
        move = "argo-enter" if kind == "Rollout" else "argo-leave"
        raise RolloutError(
            f"{stage} is run by a {other}, and its overlay has a {kind}: `make {move} "
            f"STAGE={stage}` moves it without an outage; nothing was changed"
        )


def refuse_inadmissible(documents: list[Document], cluster: Cluster) -> None:
    """Let the cluster check all objects and change none: rights, webhooks, quotas, fields.

    An apply does one object after the other: without this, those before a refused one would stay.

    Raises:
        RolloutError: it would refuse one of them.
    """
    try:
        cluster.call("apply", "--dry-run=server", "--filename=-", stdin=to_yaml(documents))
    except RolloutError as error:
        if NO_DRY_RUN not in str(error):
            raise RolloutError(f"{error}; nothing was changed") from None
        print(f"not checked beforehand: {error}", flush=True)


def warn_of_skew(cluster: Cluster) -> None:
    """Report a kubectl that is too old or too new for the cluster.

    No refusal: what a rollout asks for is the same since 1.24, and a way back must not end here.
    """
    try:
        found = json.loads(cluster.call("version", "--output=json"))
        client, server = (_minor(found[f"{side}Version"]) for side in ("client", "server"))
    except (RolloutError, LookupError, TypeError, ValueError, AttributeError):
        return  # the next call says what is wrong
    if abs(client - server) > SKEW:
        print(
            f"warning: kubectl 1.{client} is made for clusters of 1.{client - SKEW} to "
            f"1.{client + SKEW}, and this one is 1.{server}: install kubectl 1.{server}, in a job "
            "by INSTALL_PINS (ci/install)",
            flush=True,
        )


def _minor(version: dict[str, str]) -> int:
    """`32+` of many providers is 32."""
    return int(re.sub(r"\D", "", version["minor"]))
