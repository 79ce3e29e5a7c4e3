"""The registry's grammar of tags, which is GTO's, made strict.

    landcover@v1.2.0         registers a version
    landcover#staging#3      assigns the version on the same commit to a stage
    landcover#staging        the same, made by hand: it counts by its time
    experiment/12-345        the commit that pipeline 345 of merge request 12 trained

A text is matched here before anything else is done with it: Git accepts tags such as `$(id)`.
"""

import re
from typing import NamedTuple

from delivery.errors import TagError

STAGES = ("staging", "production")
"""Where a version goes, in this order."""

NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_NUMBER = r"(0|[1-9][0-9]{0,8})"
_COUNTER = r"(?:#([1-9][0-9]{0,8}))?"
_VERSION = re.compile(rf"(?P<name>{NAME.pattern})@v{_NUMBER}\.{_NUMBER}\.{_NUMBER}")
_ASSIGNMENT = re.compile(rf"(?P<name>{NAME.pattern})#(?P<stage>{NAME.pattern}){_COUNTER}")


class Version(NamedTuple):
    """A registered version; versions of one name are ordered."""

    name: str
    number: tuple[int, int, int]

    @property
    def text(self) -> str:
        """The number alone, `v1.2.0`."""
        return "v" + ".".join(map(str, self.number))

    @property
    def tag(self) -> str:
        """The tag that registers it, `landcover@v1.2.0`."""
        return f"{self.name}@{self.text}"

    @property
    def release(self) -> str:
        """The same as a label, a file name or a key of a ConfigMap: `landcover-v1.2.0`."""
        return f"{self.name}-{self.text}"


class Assignment(NamedTuple):
    """An assignment of a version to a stage.

    `counter` grows with each assignment of the model, to whichever stage; 0 is a tag without one.
    """

    name: str
    stage: str
    counter: int

    @property
    def tag(self) -> str:
        """The tag that makes it, `landcover#staging#3`."""
        return f"{self.name}#{self.stage}" + (f"#{self.counter}" if self.counter else "")


def parse_version(text: str, name: str | None = None) -> Version:
    """Read `landcover@v1.2.0`; with a `name`, `v1.2.0` and `1.2.0` mean that name's.

    Raises:
        TagError: it is no version.
    """
    whole = text
    if name is not None and "@" not in text:
        whole = f"{name}@v{text.removeprefix('v')}"
    if not (found := _VERSION.fullmatch(whole)):
        raise TagError(f"version: {text[:64]!a} is none: write v1.2.0 or landcover@v1.2.0")
    major, minor, patch = (int(part) for part in found.groups()[1:])
    return Version(found["name"], (major, minor, patch))


def parse_assignment(text: str) -> Assignment:
    """Read `landcover#staging#3`.

    Raises:
        TagError: it is no assignment.
    """
    if not (found := _ASSIGNMENT.fullmatch(text)):
        raise TagError(f"tag: {text[:64]!a} assigns nothing: write landcover#staging#3")
    return Assignment(found["name"], found["stage"], int(found.groups()[2] or 0))


def parse_stage(text: str) -> str:
    """Check the name of a stage.

    Raises:
        TagError: there is no such stage.
    """
    if text not in STAGES:
        raise TagError(f"stage: {text[:64]!a} is none: write one of {', '.join(STAGES)}")
    return text


def experiment_tag(merge_request: str, pipeline: str) -> str:
    """Tag of the commit that a pipeline of a merge request trained.

    Raises:
        TagError: GitLab's numbers are not numbers.
    """
    for field, text in (("merge request", merge_request), ("pipeline", pipeline)):
        if not re.fullmatch(r"[0-9]{1,18}", text):
            raise TagError(f"{field}: {text[:64]!a} is no number of GitLab")
    return f"experiment/{merge_request}-{pipeline}"
