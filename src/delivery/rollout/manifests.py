"""The objects of a stage: `k8s/overlays/<stage>`, rendered by kustomize, with name and version.

The overlay contains none of them. The name of the model takes the place of `model-name`, and image
and version are set in the Deployment or Rollout, as values of a document, so that their text is
never parsed as YAML or by a shell.
"""

import copy
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from contracts.tags import LONGEST_NAME, Version
from delivery.errors import LONGEST, RolloutError, ToolError, reason
from delivery.rollout.components import check_components
from delivery.rollout.values import FILE, TABLE, check_values
from delivery.tags import parse_stage

PLACEHOLDER = "model-name"
"""Stands in k8s/ for the name of the model: the name of its objects, and the label of its pods."""
VALUES = "Values"
"""Kind of what a team sets for an overlay (values.yaml); kustomize copies it into the objects."""
CONTAINER = "service"
STREAM = "stream"
"""Container of the component of that name, which says only how it differs from the service."""
SHARED = (
    *("image", "imagePullPolicy", "envFrom", "volumeMounts", "securityContext"),
    "terminationMessagePolicy",
)
"""Fields that containers of the service's image have from the service."""
RELEASE, TAG = "SERVICE_RELEASE", "SERVICE_TAG"
NAME_LABEL, VERSION_LABEL = "app.kubernetes.io/name", "app.kubernetes.io/version"
APPLIED = "conveyor/applied"
"""Annotation of the workload: digest of all objects applied with it."""
WORKLOADS = ("Deployment", "Rollout")
"""Kinds of the object that has the pods; the components of Argo Rollouts make one of the other."""
OVERLAYS = Path("k8s/overlays")

_HOST = r"[a-z0-9]+(?:[.-][a-z0-9]+)*(?::[0-9]{1,5})?"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(rf"(?:{_HOST}/)?{_PART}(?:/{_PART})*@sha256:[0-9a-f]{{64}}")
LONGEST_IMAGE = 512  # characters

Document = dict[str, Any]


def parse_image(text: str) -> str:
    """Check that an image is named by its digest, so that the tested image is the one that runs.

    Raises:
        RolloutError: it is not `name@sha256:<64 hexadecimal digits>`.
    """
    if len(text) > LONGEST_IMAGE or not _IMAGE.fullmatch(text):
        raise RolloutError(
            f"image: {text[:128]!a} is not named by its digest: write "
            "registry/name@sha256:<64 hexadecimal digits>, as `python -m delivery.image` prints it"
        )
    return text


def render(stage: str, name: str, overlays: Path = OVERLAYS) -> list[Document]:
    """Render the overlay of a stage.

    Raises:
        RolloutError: kustomize refuses it, or the name of the model is too long.
        ToolError: kustomize is not installed.
    """
    return build(overlays / parse_stage(stage), name)


def build(folder: Path, name: str) -> list[Document]:
    """Render a folder for the model `name`.

    Raises:
        RolloutError: it is wrong, or the name of the model is too long.
        ToolError: kustomize is not installed.
    """
    if len(name) > LONGEST_NAME:
        raise RolloutError(
            f"model.name: {name!a} has more than {LONGEST_NAME} characters, too many for the names "
            "of Kubernetes: shorten it in params.yaml"
        )
    check_values(folder)
    check_components(folder)
    done = subprocess.run([*_kustomize(), str(folder)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RolloutError(f"{folder}: {_explained(done.stderr)}")
    found = [
        it for it in yaml.load_all(done.stdout, yaml.CSafeLoader) if it and it["kind"] != VALUES
    ]
    found = replaced(found, {PLACEHOLDER: name})
    # A namespace first, then its objects in kustomize's order.
    return sorted(found, key=lambda document: document["kind"] != "Namespace")


def _explained(output: str) -> str:
    """What kustomize says, without the log of kubectl around it, and the cure."""
    text = re.sub(r"\\+", "", reason(output, longest=4000))
    text = re.sub(r'^\w+ [\d:.]+ +\d+ \S+\] "command failed" err="(.*)"$', r"\1", text)
    if missing := re.search(r"fieldPath `([^`]*)` is missing", text):
        return f"{missing[1]} is missing or empty in {FILE}: write it; {TABLE}"
    if absent := re.search(r"lstat (\S+): no such file", text):
        return f"{absent[1]} is not there: write it, or take out the line that names it"
    return text[-LONGEST:]


def replaced(value: Any, texts: Mapping[str, str]) -> Any:
    """A copy of a document in which each of `texts` has its value."""
    if isinstance(value, str):
        for text, other in texts.items():
            value = value.replace(text, other)
        return value
    if isinstance(value, dict):
        return {replaced(key, texts): replaced(item, texts) for key, item in value.items()}
    if isinstance(value, list):
        return [replaced(item, texts) for item in value]
    return value


def for_version(documents: Iterable[Document], version: Version, image: str) -> list[Document]:
    """Set image and version in copies of a stage's objects.

    Raises:
        RolloutError: the workload is missing, or lacks the container or its variables.
    """
    found = copy.deepcopy(list(documents))
    workload = workload_of(found)
    template = workload["spec"]["template"]
    container = _named(template["spec"]["containers"], CONTAINER)
    container["image"] = parse_image(image)
    _named(container["env"], RELEASE)["value"] = version.release
    _named(container["env"], TAG)["value"] = version.tag
    for other in template["spec"]["containers"]:
        if other["name"] == STREAM:
            _complete(other, container)
    for labelled in (workload, template):
        labelled["metadata"].setdefault("labels", {})[VERSION_LABEL] = version.text
    content = json.dumps(found, sort_keys=True).encode()
    annotations = workload["metadata"].setdefault("annotations", {})
    annotations[APPLIED] = hashlib.sha256(content).hexdigest()
    return found


def _complete(container: Document, service: Document) -> None:
    """Give a container what the service has, components that were chosen included."""
    for field in SHARED:
        if field in service:
            container.setdefault(field, copy.deepcopy(service[field]))
    own = container.get("env", [])
    names = {item["name"] for item in own}
    container["env"] = [*(it for it in service["env"] if it["name"] not in names), *own]
    if limit := service["resources"]["limits"].get("cpu"):
        container["resources"]["limits"].setdefault("cpu", limit)


def workload_of(documents: Iterable[Document]) -> Document:
    """The Deployment or Rollout of the service among a stage's objects.

    Raises:
        RolloutError: it is missing.
    """
    for document in documents:
        if document["kind"] in WORKLOADS:
            containers = document["spec"]["template"]["spec"]["containers"]
            if any(container["name"] == CONTAINER for container in containers):
                return document
    raise RolloutError(f"k8s: no Deployment has a container {CONTAINER}: k8s/base has it")


def to_yaml(documents: Iterable[Document]) -> str:
    """The objects as one stream, for `kubectl apply`."""
    return yaml.dump_all(documents, Dumper=yaml.CSafeDumper, sort_keys=False)


def _kustomize() -> list[str]:
    """`kubectl` contains kustomize; kustomize alone is sufficient."""
    if shutil.which("kubectl"):
        return ["kubectl", "kustomize"]
    if shutil.which("kustomize"):
        return ["kustomize", "build"]
    raise ToolError("kubectl: not found, nor kustomize: install kubectl 1.24 or newer")


def _named(items: list[Document], name: str) -> Document:
    for item in items:
        if item["name"] == name:
            return item
    raise RolloutError(f"k8s: the Deployment has no {name}: k8s/base/deployment.yaml has it")
