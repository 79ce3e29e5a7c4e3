"""The image of a version, built by the command, for the stories that need one."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.e2e import containers
from tests.make.bundles import make_bundle
from tests.make.projects import Published, contents

V1, V2 = "landcover@v1.0.0", "landcover@v1.1.0"
SOURCES = (
    *("Dockerfile", ".dockerignore", "Makefile", "constraints.txt"),
    *("ci/environment.py", "ci/install", "poetry.lock"),
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """A repository with the sources of the image and two versions; the first is checked out."""
    project = Published(tmp_path_factory.mktemp("image") / "project")
    for name in (*SOURCES, "pyproject.toml", "params.yaml"):
        (project.folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, project.folder / name)
    for name in ("service", "src"):
        kept = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, project.folder / name, ignore=kept)
    project.write(".gitignore", "/model\n/artifacts\n")
    for seed, tag in enumerate((V1, V2), 1):
        publish(project, tag, seed)
    check_out(project, V1)
    return project


def publish(project: Published, tag: str, seed: int) -> None:
    bundle = make_bundle(bundle_of(project, tag), seed=seed)
    project.publish(tag, dict(sorted(contents(bundle).items())))


def bundle_of(project: Published, tag: str) -> Path:
    """Where the bundle of a version is kept beside the project."""
    return project.folder.with_name(tag.replace("@", "-"))


def check_out(project: Published, tag: str) -> None:
    """What `git switch --detach` and `dvc checkout` do."""
    project.git("switch", "--quiet", "--detach", tag)
    shutil.rmtree(project.folder / "model", ignore_errors=True)
    shutil.copytree(bundle_of(project, tag), project.folder / "model")


def deliver(project: Published, *words: str, check: bool = True) -> tuple[int, str, str]:
    """Run `python -m delivery.image` in the project."""
    done = subprocess.run(
        [sys.executable, "-m", "delivery.image", *words],
        cwd=project.folder,
        env=containers.environment(),
        text=True,
        capture_output=True,
        check=False,
    )
    assert not check or done.returncode == 0, done.stdout[-2000:] + done.stderr[-8000:]
    return done.returncode, done.stdout, done.stderr


def record(project: Published) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((project.folder / "artifacts/image/image.json").read_bytes())
    return found


@pytest.fixture(scope="module")
def image(project: Published) -> str:
    """Id of the image of the first version, built by the command."""
    containers.warm()
    begun = time.monotonic()
    deliver(project, "build", "--version", V1, "--image", "localhost/landcover")
    print(f"\nbuilt in {time.monotonic() - begun:.1f} s")
    return str(record(project)["id"])
