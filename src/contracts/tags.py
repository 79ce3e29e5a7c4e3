"""The one grammar of tags: GTO's, made strict.

    landcover@v1.2.0        registers a version
    landcover#staging#3     assigns the version on the same commit to a stage
    landcover#staging       the same, made by hand: it counts by its time
    landcover@v1.2.0!       takes a registration back
    landcover#staging!#4    takes an assignment back
    experiment/12-345       the commit that pipeline 345 of merge request 12 trained

A text is matched here before anything else is done with it: Git accepts tags such as `$(id)`.
Stricter than GTO on purpose: a name is also a label in Kubernetes and a part of an image's tag
(lower case, 63 characters), a version has no prerelease because the registry orders numbers alone,
and a number has no leading zero because two tags would then mean the same.
"""

import re
from typing import NamedTuple

STAGES = ("staging", "production")
"""Stages of the registry, in the order in which a version moves."""
LOCAL = "local"
"""Label of the bundle in the folder model/, which has no tag. Never a tag."""
LONGEST = 128
"""Characters; more than the grammar needs."""

NAME = "[a-z]([a-z0-9-]{0,61}[a-z0-9])?"
LONGEST_NAME = 50
"""Characters of a new name: with `-mr-123456789` it is a Service's, which has at most 63."""
STAGE = "[a-z]([a-z0-9-]{0,30}[a-z0-9])?"
COUNTER = "[1-9][0-9]{0,8}"
ID = "(0|[1-9][0-9]{0,17})"  # of GitLab
_NUMBER = "(0|[1-9][0-9]{0,8})"
_VERSION = rf"{NAME}@v{_NUMBER}\.{_NUMBER}\.{_NUMBER}"

GRAMMAR = {
    "version": _VERSION,
    "assignment": f"{NAME}#{STAGE}(#{COUNTER})?",
    "experiment": f"experiment/{ID}-{ID}",
    "deregistration": f"{_VERSION}!(#{COUNTER})?",
    "unassignment": f"{NAME}#{STAGE}!(#{COUNTER})?",
}
"""Regular expressions, in the part that Python, JavaScript, Rust and RE2 read alike."""
PATTERN = f"^({GRAMMAR['version']}|{GRAMMAR['assignment']}|{GRAMMAR['experiment']})$"
"""A tag that names a model; for the OpenAPI document."""

_KINDS = {kind: re.compile(pattern) for kind, pattern in GRAMMAR.items()}


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


class Experiment(NamedTuple):
    """The commit that a pipeline of a merge request trained; the numbers are GitLab's."""

    merge_request: int
    pipeline: int

    @property
    def tag(self) -> str:
        """The tag that marks it, `experiment/12-345`."""
        return f"experiment/{self.merge_request}-{self.pipeline}"


class Cancellation(NamedTuple):
    """Takes back a registration, or the assignment of the version on the same commit.

    The counter of `cancelled` is that of the cancellation itself.
    """

    cancelled: Version | Assignment


Tag = Version | Assignment | Experiment


def match_tag(text: str) -> Tag | None:
    """Read a tag that names a model; None for every other text."""
    if _KINDS["version"].fullmatch(text):
        return _version(text)
    if _KINDS["assignment"].fullmatch(text):
        return _assignment(text)
    if _KINDS["experiment"].fullmatch(text):
        request, _, pipeline = text.removeprefix("experiment/").partition("-")
        return Experiment(int(request), int(pipeline))
    return None


def match_cancellation(text: str) -> Cancellation | None:
    """Read a tag that takes another back; None for every other text."""
    if _KINDS["deregistration"].fullmatch(text):
        return Cancellation(_version(text.partition("!")[0]))
    if _KINDS["unassignment"].fullmatch(text):
        return Cancellation(_assignment(text.replace("!", "")))
    return None


def _version(text: str) -> Version:
    name, _, number = text.partition("@v")
    major, minor, patch = map(int, number.split("."))
    return Version(name, (major, minor, patch))


def _assignment(text: str) -> Assignment:
    name, stage, counter = (text + "#0").split("#")[:3]
    return Assignment(name, stage, int(counter))
