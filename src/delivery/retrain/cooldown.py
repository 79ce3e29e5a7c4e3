"""The cool-down: alerts that persist start one retraining a day, not one an hour.

Each retraining pushes an annotated tag, `retrain/20261121T183000Z-345`, with the start time and the
pipeline's number, before it fetches or trains anything, so that a failed one counts as well. A job
that is retried in the same pipeline does not wait for itself. Only the latest tag is kept.

A tag and not a file or a variable: runners forget files, and whoever triggers a pipeline may set
variables. The job has `resource_group: retrain`, so that GitLab never runs two at once.
"""

import math
import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from delivery.errors import GitError
from delivery.git import ORIGIN, Repository

HOURS = 24.0  # between the starts of two retrainings requested by alerts

_FORM = "%Y%m%dT%H%M%SZ"
_TAG = re.compile(r"retrain/([0-9]{8}T[0-9]{6}Z)(?:-([0-9]{1,18}))?")


def read_hours(text: str) -> float:
    """Read the length of the cool-down.

    Raises:
        ValueError: it is not a number of hours from 0 to a year.
    """
    hours = float(text)
    if not math.isfinite(hours) or not 0 <= hours <= 8760:
        raise ValueError(f"{text} is not a number of hours from 0 to 8760")
    return hours


def remaining(repository: Repository, hours: float, now: datetime, pipeline: str = "") -> timedelta:
    """How long an alert has to wait for the next retraining; zero or less means not at all.

    A start in the future is a wrong clock or a forged tag, and does not count.

    Args:
        pipeline: the pipeline whose own start does not count.

    Raises:
        GitError: origin cannot be reached.
    """
    began = [
        start.began
        for start in _starts(repository)
        if start.began <= now and not (pipeline and start.pipeline == pipeline)
    ]
    return max(began) + timedelta(hours=hours) - now if began else timedelta()


def record(repository: Repository, why: str, now: datetime, pipeline: str = "") -> str:
    """Push the tag of a retraining that starts, and delete older ones; returns the tag.

    Raises:
        GitError: origin rejects the tag; do not train then.
    """
    old = _starts(repository)
    tag = now.strftime(f"retrain/{_FORM}") + (f"-{pipeline}" if pipeline else "")
    repository.git("tag", "--annotate", "--force", "--file=-", tag, stdin=f"{why}\n")
    repository.push(f"refs/tags/{tag}")
    if old:
        with suppress(GitError):  # the latest tag decides; older ones are only clutter
            repository.push(*(f":refs/tags/{start.tag}" for start in old))
    return tag


class _Start(NamedTuple):
    tag: str
    began: datetime
    pipeline: str


def _starts(repository: Repository) -> list[_Start]:
    """The retrainings that origin has tags of; other names below `retrain/` are ignored."""
    listed = repository.git("ls-remote", "--refs", "--tags", ORIGIN, "refs/tags/retrain/*")
    found = []
    for line in listed.splitlines():
        name = line.partition("\trefs/tags/")[2]
        if match := _TAG.fullmatch(name):
            with suppress(ValueError):  # the 31st of February
                began = datetime.strptime(match[1], _FORM).replace(tzinfo=UTC)
                found.append(_Start(name, began, match[2] or ""))
    return found
