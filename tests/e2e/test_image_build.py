"""Two builds of one commit, and what the registry then has: `python -m delivery.image`."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from delivery.image.builders import TIME, Buildah, Buildkit
from tests.e2e import containers
from tests.e2e.images import V1, V2, deliver, image, project, record
from tests.make.projects import Published

__all__ = ["image", "project"]  # fixtures
pytestmark = containers.needed


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with containers.registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


def test_two_builds_of_a_commit_give_equal_images(
    image: str, project: Published, tmp_path: Path
) -> None:
    """Built again without a cache, from a clone with other times and other rights."""
    previous = os.umask(0o002)
    try:
        project.git(
            "clone", "--quiet", "--branch", V1, str(project.folder), str(tmp_path / "clone")
        )
        shutil.copytree(project.folder / "model", tmp_path / "clone/model")
    finally:
        os.umask(previous)
    (tmp_path / "clone/model/model.onnx").chmod(0o600)
    said = record(project)
    arguments = {
        "PYTHON_BASE": containers.BASE,
        "VERSION": V1,
        "CREATED": project.git("log", "-1", "--format=%cI", V1),
        "REVISION": said["revision"],
        "BUNDLE_SHA256": said["bundle_sha256"],
    }
    words = [f"--build-arg={name}={value}" for name, value in arguments.items()]
    words.append(f"--timestamp={TIME}")
    words.append(f"--iidfile={tmp_path / 'id'}")
    build = ("buildah", "build", "--no-cache", "--layers", "--target=serve")
    containers.call(*build, *words, ".", cwd=tmp_path / "clone")
    assert content_of((tmp_path / "id").read_text().strip()) == content_of(image)


def content_of(image: str) -> dict[str, Any]:
    """Layers and configuration of an image, without the history.

    buildah writes the name of each parent into a comment of the history. A build beside it in the
    same storage gives a parent a temporary name for a moment, and the id then differs.
    """
    found = json.loads(containers.call("podman", "image", "inspect", image))[0]
    return {key: found[key] for key in ("RootFS", "Config", "Created", "Architecture", "Os")}


def test_pushed_image_is_found_by_version_and_not_built_again(
    image: str, project: Published, registry: str
) -> None:
    name = f"{registry}/group/landcover"
    code, _, said = deliver(project, "resolve", "--version", V2, "--image", name, check=False)
    assert code == 1 and said.startswith("error: ") and "has no image of" in said
    deliver(project, "build", "--version", V1, "--image", name)
    assert content_of(record(project)["id"]) == content_of(image)
    _, pushed, _ = deliver(project, "push")
    assert pushed.startswith(f"{name}@sha256:")
    assert record(project)["reference"] == pushed.strip()
    _, found, _ = deliver(project, "resolve", "--version", V1, "--image", name)
    assert found == pushed
    _, said, _ = deliver(project, "build", "--version", V1, "--image", name)
    assert "is in the registry" in said
    assert deliver(project, "push")[1] == pushed
    tags = containers.call("skopeo", "list-tags", "--tls-verify=false", f"docker://{name}")
    assert {"v1.0.0", f"v1.0.0-{record(project)['revision'][:12]}"} <= set(json.loads(tags)["Tags"])


def test_an_archive_as_buildkit_makes_it_is_inspected_saved_and_pushed(
    image: str, registry: str, tmp_path: Path
) -> None:
    """buildah writes the archive here: BuildKit itself is not to be had where tests run."""
    archive = f"oci-archive:{tmp_path / 'serve.tar'}"
    containers.call("buildah", "push", "--quiet", image, archive)
    buildkit = Buildkit()
    assert buildkit.inspect(archive).labels == Buildah().inspect(image).labels
    buildkit.save(archive, tmp_path / "docker.tar")
    assert (tmp_path / "docker.tar").stat().st_size > 0
    name = f"{registry}/group/buildkit"
    digest = buildkit.push(archive, name, ("one", "two"))
    found = [buildkit.lookup(name, tag) for tag in ("one", "two")]
    assert [each and each.digest for each in found] == [digest, digest]
