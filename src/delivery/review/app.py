"""The review app of a merge request: it serves the candidate under an address of its own."""

import os
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from contracts.tags import STAGES
from delivery.errors import DeliveryError, RegistryError, RolloutError
from delivery.image.image import find
from delivery.registry.registry import Registry, open_registry
from delivery.review.candidate import find_candidate
from delivery.review.hot_swap import swap
from delivery.rollout.cluster import SPARE, Cluster
from delivery.rollout.manifests import (
    CONTAINER,
    NAME_LABEL,
    TAG,
    Document,
    build,
    parse_image,
    replaced,
    to_yaml,
)
from delivery.rollout.smoke_test import SmokeTest, expectation

OVERLAY = Path("k8s/overlays/review")
PLACEHOLDER = "mr-iid"
"""Stands in the overlay for `mr-12`."""
INSTANCE_LABEL = "app.kubernetes.io/instance"
LINK = Path("artifacts/review/review.env")
"""REVIEW_APP_URL, for the environment of the job."""
STARTS = 300.0  # seconds until the pod is ready, or gone


class ReviewApp(NamedTuple):
    """The review app of a merge request."""

    model: str
    iid: str

    @property
    def namespace(self) -> str:
        """The namespace of all review apps of the model."""
        return f"{self.model}-review"

    @property
    def label(self) -> str:
        """Label of its objects."""
        return f"mr-{self.iid}"

    @property
    def name(self) -> str:
        """Name of its Deployment, Service and Ingress."""
        return f"{self.model}-{self.label}"

    @property
    def selector(self) -> str:
        """kubectl's selector of its objects."""
        return f"{NAME_LABEL}={self.model},{INSTANCE_LABEL}={self.label}"


class Base(NamedTuple):
    """The image that serves the candidate."""

    image: str
    tag: str
    """Tag of the model in the image."""


def start(app: ReviewApp, cluster: Cluster) -> None:
    """Serve the candidate; a failed start leaves no new review app behind.

    Raises:
        DeliveryError: the candidate cannot be served.
    """
    url, token = read_url(app.iid), os.environ.get("SERVICE_ID_TOKEN", "")
    if not token:
        raise RolloutError("SERVICE_ID_TOKEN is not set: the job `review` gets it by id_tokens")
    registry = open_registry()
    registry.sync()
    tag, bundle = find_candidate(registry, app.iid)
    smoke_test = SmokeTest(url, expectation(tag, "", bundle), token)
    documents = describe(app, find_base(registry), str(urlsplit(url).hostname))
    before = cluster.get(f"deployment/{app.name}")
    print(f"review: {app.name} is to serve {tag} at {url}", flush=True)
    try:
        cluster.apply(to_yaml(documents))
        wait(app, cluster)
        swap(url, token, tag, f"SERVICE_JWT_... in {OVERLAY}/settings.env")
        smoke_test.run()
    except DeliveryError as error:
        reason = f"{app.name} does not serve {tag}: {error}"
        if before is None:
            reason += _clean_up(app, cluster)
        raise RolloutError(reason) from None
    LINK.parent.mkdir(parents=True, exist_ok=True)
    LINK.write_text(f"REVIEW_APP_URL={url}\n", encoding="utf-8")
    print(f"review: {url} serves {tag}")


def stop(app: ReviewApp, cluster: Cluster) -> None:
    """Delete the objects that `start` created; missing ones are no error."""
    kinds = sorted({document["kind"].lower() for document in build(OVERLAY, app.model)})
    words = ("delete", ",".join(kinds), f"--selector={app.selector}", "--ignore-not-found")
    cluster.call(*words, timeout=STARTS, show=True)
    print(f"review: {app.name} is deleted")


def _clean_up(app: ReviewApp, cluster: Cluster) -> str:
    """Delete the objects of a failed start; returns what to add if that fails too."""
    try:
        stop(app, cluster)
    except DeliveryError as error:
        return f"; and its objects could not be deleted: {error}"
    return ""


def read_iid() -> str:
    """The number of the merge request.

    Raises:
        RolloutError: it is not set, or malformed.
    """
    text = os.environ.get("CI_MERGE_REQUEST_IID", "")
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise RolloutError(
            f"CI_MERGE_REQUEST_IID: {text[:64]!a} is not the number of a merge request: GitLab "
            "sets it in merge-request pipelines"
        )
    return text


def read_url(iid: str) -> str:
    """Address of the review app.

    Raises:
        RolloutError: REVIEW_URL is not set, or not one host per merge request.
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
            f"REVIEW_URL: {pattern[:128]!a} is not one host per merge request: "
            "write https://mr-{iid}.review.example.com"
        )
    return url


def open_cluster(app: ReviewApp) -> Cluster:
    """The namespace of the review apps.

    Raises:
        RolloutError: REVIEW_KUBE_CONTEXT is not set, or is the context of the other stages.
    """
    context = os.environ.get("REVIEW_KUBE_CONTEXT", "")
    if not context or context == os.environ.get("KUBE_CONTEXT"):
        raise RolloutError(
            f"REVIEW_KUBE_CONTEXT: {context[:128]!a} is not a separate context: every branch can "
            f"use it, so it may reach only the namespace {app.namespace} ({OVERLAY}/namespace)"
        )
    return Cluster(app.namespace, app.model, context)


def find_base(registry: Registry) -> Base:
    """The image that staging runs, or REVIEW_IMAGE.

    Raises:
        DeliveryError: neither exists.
    """
    if image := os.environ.get("REVIEW_IMAGE", ""):
        return Base(parse_image(image), "local")
    version = registry.serving(STAGES[0])
    if version is None:
        raise RegistryError(
            f"{STAGES[0]} serves nothing yet, so there is no image for the candidate: release a "
            "version first, or set REVIEW_IMAGE=name@sha256:..."
        )
    return Base(find(version).reference, version.tag)


def describe(app: ReviewApp, base: Base, host: str) -> list[Document]:
    """The objects of a review app.

    Raises:
        RolloutError: the overlay cannot be rendered.
    """
    documents: list[Document] = replaced(build(OVERLAY, app.model), {PLACEHOLDER: app.label})
    for document in documents:
        if document["kind"] == "Ingress":
            for item in document["spec"]["rules"]:
                item["host"] = host
            for item in document["spec"]["tls"]:
                item["hosts"] = [host]
        if document["kind"] == "HTTPRoute":
            document["spec"]["hostnames"] = [host]
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


def wait(app: ReviewApp, cluster: Cluster) -> None:
    """Wait until the pod is new and ready.

    Raises:
        RolloutError: it takes longer; the message has the reason that kubectl gives.
    """
    words = ("rollout", "status", f"deployment/{app.name}", f"--timeout={STARTS:g}s")
    try:
        cluster.call(*words, timeout=STARTS + SPARE, show=True)
    except RolloutError as error:
        reasons = cluster.pod_errors(f"deployment/{app.name}", app.selector)
        raise RolloutError(f"{error}; {reasons}" if reasons else str(error)) from None
