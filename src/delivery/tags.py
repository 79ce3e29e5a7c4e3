"""The registry's door to the grammar of tags: a text of a command becomes a tag, or a refusal."""

import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from contracts.commit import PARAMS
from contracts.tags import ID, NAME, STAGES, Assignment, Experiment, Version, match_tag
from delivery.errors import TagError


def model_name(folder: Path = Path(".")) -> str:
    """The `model.name` in a folder's params.yaml: of the model, its tags, and its objects.

    Raises:
        TagError: it is missing or malformed.
    """
    try:
        name = yaml.safe_load((folder / PARAMS).read_text(encoding="utf-8"))["model"]["name"]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        raise TagError(
            f"{PARAMS}: it is missing or has no model.name: run this in the project's folder"
        ) from None
    return parse_name(str(name))


def parse_name(text: str) -> str:
    """Check the name of a model.

    Raises:
        TagError: it is malformed.
    """
    if not re.fullmatch(NAME, text):
        raise TagError(
            f"model.name: {text[:64]!a} is not a name: write a-z, 0-9 and -, as in landcover"
        )
    return text


def parse_version(text: str, name: str | None = None) -> Version:
    """Read `landcover@v1.2.0`; with a `name`, `v1.2.0` and `1.2.0` mean that name's.

    Raises:
        TagError: the text is not a version.
    """
    whole = text
    if name is not None and "@" not in text:
        whole = f"{name}@v{text.removeprefix('v')}"
    if not isinstance(version := match_tag(whole), Version):
        example = "v1.2.0 or landcover@v1.2.0" if name else "landcover@v1.2.0"
        raise TagError(f"version: {text[:64]!a} is not a version: write {example}")
    return version


def parse_assignment(text: str) -> Assignment:
    """Read `landcover#staging#3`.

    Raises:
        TagError: the text is not an assignment.
    """
    if not isinstance(assignment := match_tag(text), Assignment):
        raise TagError(f"tag: {text[:64]!a} assigns nothing: write landcover#staging#3")
    return assignment


def parse_stage(text: str, known: Sequence[str] = STAGES) -> str:
    """Check the name of a stage.

    Raises:
        TagError: the stage does not exist.
    """
    if text not in known:
        raise TagError(f"stage: {text[:64]!a} is not a stage: write one of {', '.join(known)}")
    return text


def experiment_tag(merge_request: str, pipeline: str) -> str:
    """Tag of the commit that a pipeline of a merge request trained.

    Raises:
        TagError: GitLab's numbers are not numbers.
    """
    for field, text in (("merge request", merge_request), ("pipeline", pipeline)):
        if not re.fullmatch(ID, text):
            raise TagError(f"{field}: {text[:64]!a} is not a number of GitLab")
    return Experiment(int(merge_request), int(pipeline)).tag
