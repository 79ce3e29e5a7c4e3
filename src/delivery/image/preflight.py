"""Preflight checks: the inputs of an image must match the commit and the registered version."""

import hashlib
from pathlib import Path

from contracts.bundle import GRAPH, MANIFEST, parse_manifest
from contracts.commit import folder_digest
from contracts.tags import Version
from delivery.errors import GitError, ImageError
from delivery.git import Repository
from delivery.registry.state import model_digest

MODEL = Path("model")
INGREDIENTS = (
    *("Dockerfile", ".dockerignore", "Makefile", "constraints.txt", "pyproject.toml"),
    *("ci/environment.py", "ci/install", "poetry.lock", "service", "src"),
    *("ci/cml/.npmrc", "ci/cml/package.json", "ci/cml/package-lock.json"),
)
"""The part of a commit that a build sees; the model comes from DVC."""
SERVED = (
    *("Dockerfile", ".dockerignore", "constraints.txt", "pyproject.toml", "service"),
    *("src/contracts", "src/delivery/image/slim.py", "src/delivery/image/sbom.py"),
)
"""Those that the image `serve` is made of, beside the bundle."""
_HINT = "dvc checkout model, or dvc pull model"


def clean_revision(repository: Repository) -> str:
    """HEAD, if the inputs of an image have no uncommitted change.

    Raises:
        ImageError: some differ from the commit.
    """
    changed = repository.git(
        "status", "--porcelain", "--untracked-files=all", "--", *INGREDIENTS
    ).splitlines()
    if changed:
        raise ImageError(
            f"{len(changed)} files differ from the commit that the image would name, such as "
            f"{changed[0][3:]}: commit or stash them"
        )
    return repository.commit("HEAD")


def has_same_ingredients(repository: Repository, revision: str) -> bool:
    """Whether the image `serve` of another commit has the code and packages of HEAD.

    False if this clone does not have that commit.
    """
    try:
        return not repository.git("diff", "--name-only", revision, "HEAD", "--", *SERVED)
    except GitError:
        return False


def check_bundle(repository: Repository, version: Version, folder: Path = MODEL) -> str:
    """Return the SHA-256 of the bundle's graph, if the bundle is the version's.

    Raises:
        ImageError: the tag, dvc.lock, the files and model.json disagree.
    """
    if version.tag not in (tags := repository.tags(version.tag)):
        raise ImageError(f"{version.tag} is not registered: make register, or git fetch --tags")
    expected = model_digest(repository, tags[version.tag])
    if expected is None or expected != model_digest(repository, "HEAD"):
        raise ImageError(
            f"dvc.lock at HEAD names another model than at {version.tag}: "
            f"git switch --detach {version.tag}, or register this one"
        )
    try:
        if (found := folder_digest(folder)) != expected:
            raise ImageError(f"{folder}/ has the md5 {found}, dvc.lock has {expected}: {_HINT}")
        stated = parse_manifest((folder / MANIFEST).read_bytes()).sha256
        sha256 = hashlib.sha256((folder / GRAPH).read_bytes()).hexdigest()
    except OSError as error:
        raise ImageError(f"{folder}/ cannot be read ({error.strerror}): {_HINT}") from None
    except ValueError:
        raise ImageError(
            f"{folder}/{MANIFEST} is no manifest of a bundle: train it again"
        ) from None
    if stated != sha256:
        raise ImageError(f"{folder}/{GRAPH} is {sha256}, {MANIFEST} has {stated}: train it again")
    return sha256
