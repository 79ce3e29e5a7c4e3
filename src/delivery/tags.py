"""The registry's door to the grammar of tags: a text of a command becomes a tag, or a refusal."""

import re

from contracts.tags import ID, STAGES, Assignment, Experiment, Version, match_tag
from delivery.errors import TagError


def parse_version(text: str, name: str | None = None) -> Version:
    """Read `landcover@v1.2.0`; with a `name`, `v1.2.0` and `1.2.0` mean that name's.

    Raises:
        TagError: the text is not a version.
    """
    whole = text
    if name is not None and "@" not in text:
        whole = f"{name}@v{text.removeprefix('v')}"
    if not isinstance(version := match_tag(whole), Version):
        raise TagError(f"version: {text[:64]!a} is not a version: write v1.2.0 or landcover@v1.2.0")
    return version


def parse_assignment(text: str) -> Assignment:
    """Read `landcover#staging#3`.

    Raises:
        TagError: the text is not an assignment.
    """
    if not isinstance(assignment := match_tag(text), Assignment):
        raise TagError(f"tag: {text[:64]!a} assigns nothing: write landcover#staging#3")
    return assignment


def parse_stage(text: str) -> str:
    """Check the name of a stage.

    Raises:
        TagError: the stage does not exist.
    """
    if text not in STAGES:
        raise TagError(f"stage: {text[:64]!a} is not a stage: write one of {', '.join(STAGES)}")
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
