"""Command: serve the candidate of a merge request under its own name, and end that.

    python -m delivery.review start     landcover-mr-12 in the namespace landcover-review
    python -m delivery.review stop      delete what start made, and nothing else

Nothing of the merge request is built: it runs the image that staging serves. The service begins
with that version and then fetches the candidate by its tag, as in any stage: what `train` tagged in
this pipeline (artifacts/experiment/experiment.json), or else an earlier experiment of the merge
request, or a version, with the model that dvc.lock names.

Environment: CI_MERGE_REQUEST_IID; REVIEW_KUBE_CONTEXT, kubectl's context, which reaches that
namespace and no other. `start` needs REVIEW_URL, such as https://mr-{iid}.review.example.com, and
SERVICE_ID_TOKEN, the job's token for the service. It takes REVIEW_IMAGE, name@sha256:..., instead
of staging's image, which it finds as `delivery.image` does.
"""

import os
import re
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import yaml

from contracts.tags import STAGES
from delivery.errors import DeliveryError, RegistryError, RolloutError, command
from delivery.image.__main__ import find
from delivery.registry.registry import Registry, open_registry
from delivery.review.candidate import find_candidate
from delivery.review.hot_swap import replace
from delivery.rollout.cluster import SPARE, Cluster
from delivery.rollout.manifests import (
    APP,
    CONTAINER,
    NAME_LABEL,
    TAG,
    Document,
    parse_image,
    to_yaml,
)
from delivery.smoke import Smoke, expectation

NAMESPACE = "landcover-review"
OVERLAY = Path("k8s/overlays/review")
PLACE = "mr-iid"
"""What the overlay has in the place of `mr-12`."""
INSTANCE_LABEL = "app.kubernetes.io/instance"
KINDS = ("deployment", "service", "ingress", "configmap")
"""What the overlay makes."""
LINK = Path("artifacts/review/review.env")
"""REVIEW_APP_URL, for the environment of the job."""
STARTS = 300.0  # seconds until the pod is ready, or gone
TRANSIENT = (409, 502, 503, 504)  # another swap, or not there yet


class Review(NamedTuple):
    """The review app of a merge request."""

    iid: str

    @property
    def label(self) -> str:
        """What tells its objects from those of the others."""
        return f"mr-{self.iid}"

    @property
    def name(self) -> str:
        """Of its Deployment, its Service and its Ingress."""
        return f"{APP}-{self.label}"

    @property
    def selector(self) -> str:
        """Its objects, for kubectl."""
        return f"{NAME_LABEL}={APP},{INSTANCE_LABEL}={self.label}"


class Base(NamedTuple):
    """The service that is to serve the candidate."""

    image: str
    tag: str
    """Of the model that is baked in."""


@command
def main() -> None:
    """Start, or stop."""
    parser = ArgumentParser(
        prog="python -m delivery.review",
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", choices=("start", "stop"))
    action = parser.parse_args().action
    review, cluster = Review(read_iid()), open_cluster()
    if action == "stop":
        stop(review, cluster)
    else:
        start(review, cluster)


def start(review: Review, cluster: Cluster) -> None:
    """Serve the candidate; one that can not be served leaves nothing that looks like it.

    Raises:
        DeliveryError: it can not be served.
    """
    url, token = read_url(review.iid), os.environ.get("SERVICE_ID_TOKEN", "")
    if not token:
        raise RolloutError("SERVICE_ID_TOKEN is not set: the job `review` gets it by id_tokens")
    registry = open_registry()
    registry.sync()
    tag, bundle = find_candidate(registry, review.iid)
    smoke = Smoke(url, expectation(tag, "", bundle), token)
    documents = describe(review, find_base(registry), str(urlsplit(url).hostname))
    before = cluster.get(f"deployment/{review.name}")
    print(f"review: {review.name} is to serve {tag} at {url}", flush=True)
    try:
        cluster.apply(to_yaml(documents))
        wait(review, cluster)
        replace(url, token, tag, f"SERVICE_JWT_... in {OVERLAY}/settings.env")
        smoke.run()
    except DeliveryError as error:
        reason = f"{review.name} does not serve {tag}: {error}"
        if before is None:
            reason += _without(review, cluster)
        raise RolloutError(reason) from None
    LINK.parent.mkdir(parents=True, exist_ok=True)
    LINK.write_text(f"REVIEW_APP_URL={url}\n", encoding="utf-8")
    print(f"review: {url} serves {tag}")


def stop(review: Review, cluster: Cluster) -> None:
    """Delete what start has made. What is not there is no error."""
    words = ("delete", ",".join(KINDS), f"--selector={review.selector}", "--ignore-not-found")
    cluster.call(*words, timeout=STARTS, show=True)
    print(f"review: {review.name} is gone")


def _without(review: Review, cluster: Cluster) -> str:
    """Take away what did not become a review app; what to say when that fails too."""
    try:
        stop(review, cluster)
    except DeliveryError as error:
        return f"; and it is still there: {error}"
    return ""


def read_iid() -> str:
    """The number of the merge request.

    Raises:
        RolloutError: there is none.
    """
    text = os.environ.get("CI_MERGE_REQUEST_IID", "")
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise RolloutError(
            f"CI_MERGE_REQUEST_IID: {text[:64]!a} is no merge request: GitLab sets it in the "
            "pipeline of one"
        )
    return text


def read_url(iid: str) -> str:
    """Where the candidate is to be served.

    Raises:
        RolloutError: REVIEW_URL does not say it.
    """
    pattern = os.environ.get("REVIEW_URL", "")
    url = pattern.replace("{iid}", iid).rstrip("/")
    try:
        parts = urlsplit(url)
        good = bool(parts.hostname) and url == f"{parts.scheme}://{parts.netloc}"
    except ValueError:
        good = False
    if not good or "{iid}" not in pattern:
        raise RolloutError(
            f"REVIEW_URL: {pattern[:128]!a} does not give every merge request a host of its own: "
            "write https://mr-{iid}.review.example.com"
        )
    return url


def open_cluster() -> Cluster:
    """The namespace of the review apps.

    Raises:
        RolloutError: it is not said how it is reached, or it is reached as other stages are.
    """
    context = os.environ.get("REVIEW_KUBE_CONTEXT", "")
    if not context or context == os.environ.get("KUBE_CONTEXT"):
        raise RolloutError(
            f"REVIEW_KUBE_CONTEXT: {context[:128]!a} is no context of its own: every branch can "
            f"use it, so let it reach the namespace {NAMESPACE} alone ({OVERLAY}/namespace)"
        )
    return Cluster(NAMESPACE, context)


def find_base(registry: Registry) -> Base:
    """The image that staging serves, or the one that REVIEW_IMAGE names.

    Raises:
        DeliveryError: there is none.
    """
    if image := os.environ.get("REVIEW_IMAGE", ""):
        return Base(parse_image(image), "local")
    version = registry.serving(STAGES[0])
    if version is None:
        raise RegistryError(
            f"{STAGES[0]} serves nothing yet, so there is no image to serve the candidate: release "
            "a version first, or set REVIEW_IMAGE=name@sha256:..."
        )
    return Base(find(version).reference, version.tag)


def describe(review: Review, base: Base, host: str) -> list[Document]:
    """The objects of a review app.

    Raises:
        RolloutError: the overlay can not be rendered.
    """
    text = Cluster(NAMESPACE).call("kustomize", str(OVERLAY))
    documents: list[Document] = list(yaml.safe_load_all(text.replace(PLACE, review.label)))
    for document in documents:
        if document["kind"] == "Ingress":
            for item in document["spec"]["rules"]:
                item["host"] = host
            for item in document["spec"]["tls"]:
                item["hosts"] = [host]
        if document["kind"] == "Deployment":
            for item in document["spec"]["template"]["spec"]["containers"]:
                if item["name"] == CONTAINER:
                    item["image"] = base.image
                    _set(item["env"], TAG, base.tag)
    return documents


def _set(variables: list[Document], name: str, value: str) -> None:
    for item in variables:
        if item["name"] == name:
            item["value"] = value


def wait(review: Review, cluster: Cluster) -> None:
    """Until the pod is new and ready.

    Raises:
        RolloutError: it takes longer; the message says why, as far as kubectl knows.
    """
    words = ("rollout", "status", f"deployment/{review.name}", f"--timeout={STARTS:g}s")
    try:
        cluster.call(*words, timeout=STARTS + SPARE, show=True)
    except RolloutError as error:
        pods = cluster.get("pods", f"--selector={review.selector}") or {}
        reasons = [reason for pod in pods.get("items", []) for reason in _reasons(pod)]
        raise RolloutError("; ".join([str(error), *dict.fromkeys(reasons)])[:500]) from None


def _reasons(pod: Document) -> list[str]:
    statuses = pod.get("status", {}).get("containerStatuses", [])
    waiting = [status.get("state", {}).get("waiting") or {} for status in statuses]
    return [item[key] for item in waiting for key in ("reason", "message") if item.get(key)]


if __name__ == "__main__":
    main()
