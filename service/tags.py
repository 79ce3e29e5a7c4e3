"""The grammar of tags, which is GTO's, made strict: the one way from a text to a tag.

    landcover@v1.2.0         registers a version; a prerelease may follow: v1.2.0-rc.1
    landcover#production     assigns the version on the same commit to a stage
    landcover#staging#3      the same with GTO's counter
    experiment/12-345        the commit that pipeline 345 of merge request 12 trained

Git accepts tags such as `$(id)`. What does not match is neither looked up nor listed.
"""

import re
from typing import Literal, NamedTuple

from service.errors import Unprocessable

LOCAL = "local"
"""Label of the bundle in the folder model/, which no tag names. Never a tag."""
LONGEST = 128  # characters

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?"
_NUMBER = r"(?:0|[1-9][0-9]*)"
_PART = r"(?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"  # of a prerelease, semver 2.0
_VERSION = rf"v{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-{_PART}(?:\.{_PART})*)?"
_COUNTER = r"(?:\#(?P<counter>[0-9]+))?"

_TAG = re.compile(
    rf"(?P<experiment>experiment/[0-9]+-[0-9]+)"
    rf"|(?P<named>{_NAME})@(?P<version>{_VERSION})"
    rf"|(?P<staged>{_NAME})\#(?P<stage>{_NAME}){_COUNTER}"
)
_CANCEL = re.compile(
    rf"(?P<name>{_NAME})(?:@(?P<version>{_VERSION})|\#(?P<stage>{_NAME}))!{_COUNTER}"
)


class Tag(NamedTuple):
    """A tag that was checked. `name` is the artifact's, None for an experiment."""

    text: str
    kind: Literal["version", "stage", "experiment"]
    name: str | None = None
    version: str | None = None
    stage: str | None = None
    counter: int | None = None


class Cancellation(NamedTuple):
    """GTO's `name@v1.0.0!` and `name#stage!#5`: takes back a registration or an assignment."""

    name: str
    version: str | None
    stage: str | None
    counter: int | None


def parse_tag(text: str) -> Tag:
    """Check a text that came from outside.

    Raises:
        Unprocessable: it is not a tag of this grammar.
    """
    if (tag := match_tag(text)) is None:
        shown = text if len(text) <= 64 else text[:64] + "..."
        raise Unprocessable(
            f"tag: {shown!a} is not a tag of a model; write name@v1.2.3, name#stage, "
            f"name#stage#4 or experiment/12-345, in at most {LONGEST} characters"
        )
    return tag


def match_tag(text: str) -> Tag | None:
    """Read a tag of the repository; None when the grammar does not know it."""
    if len(text) > LONGEST or not (found := _TAG.fullmatch(text)):
        return None
    if found["experiment"]:
        return Tag(text, "experiment")
    if found["version"]:
        return Tag(text, "version", found["named"], version=found["version"])
    return Tag(
        text, "stage", found["staged"], stage=found["stage"], counter=_counter(found["counter"])
    )


def match_cancellation(text: str) -> Cancellation | None:
    """Read a tag that takes another back; None for every other text."""
    if len(text) > LONGEST or not (found := _CANCEL.fullmatch(text)):
        return None
    return Cancellation(found["name"], found["version"], found["stage"], _counter(found["counter"]))


def _counter(digits: str | None) -> int | None:
    return None if digits is None else int(digits)
