"""What goes into an image, held to what the commit and the version say it is."""

import hashlib
import json
from pathlib import Path

from contracts.commit import folder_digest
from contracts.tags import Version
from delivery.errors import ImageError
from delivery.git import Repository
from delivery.registry.state import model_digest

MODEL = Path("model")
INGREDIENTS = (
    *("Dockerfile", ".dockerignore", "Makefile", "constraints.txt", "pyproject.toml"),
    *("README.md", "ci/environment.py", "poetry.lock", "service", "src"),
)
"""What of a commit a build sees; the model comes from DVC."""
_HINT = "dvc checkout model, or dvc pull model"


def clean_revision(repository: Repository) -> str:
    """HEAD, when what goes into an image is as it was committed."""
    changed = repository.git(
        "status", "--porcelain", "--untracked-files=all", "--", *INGREDIENTS
    ).splitlines()
    if changed:
        raise ImageError(
            f"{len(changed)} files differ from the commit that the image would name, such as "
            f"{changed[0][3:]}: commit them, or put them away"
        )
    return repository.commit("HEAD")


def check_bundle(repository: Repository, version: Version, folder: Path = MODEL) -> str:
    """Return the SHA-256 of the bundle's graph, when the bundle is that of the version.

    Raises:
        ImageError: the tag, dvc.lock, the files and model.json do not say the same.
    """
    if version.tag not in (tags := repository.tags(version.tag)):
        raise ImageError(f"{version.tag} is not registered: make register, or git fetch --tags")
    wanted = model_digest(repository, tags[version.tag])
    if wanted is None or wanted != model_digest(repository, "HEAD"):
        raise ImageError(
            f"dvc.lock at HEAD names another model than at {version.tag}: "
            f"git switch --detach {version.tag}, or register this one"
        )
    try:
        if (found := folder_digest(folder)) != wanted:
            raise ImageError(f"{folder}/ has the md5 {found}, dvc.lock says {wanted}: {_HINT}")
        said = json.loads((folder / "model.json").read_bytes())["sha256"]
        sha256 = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    except OSError as error:
        raise ImageError(f"{folder}/ can not be read ({error.strerror}): {_HINT}") from None
    except (ValueError, KeyError, TypeError):
        raise ImageError(f"{folder}/model.json names no sha256: train it again") from None
    if said != sha256:
        raise ImageError(f"{folder}/model.onnx is {sha256}, model.json says {said}: train it again")
    return sha256
