"""When the last retraining began, so that a drift that lasts is answered once, not every hour.

Each retraining leaves an annotated tag on origin, `retrain/20261121T183000Z-345`, with the time and
the pipeline's number, before it fetches or trains anything: one that fails has been one too. A job
that is tried again in the same pipeline need not wait for itself. Only the last tag is kept. A tag
and not a file of a runner or a variable: runners forget, and who triggers may set variables.

Git has no "make this tag if there is no other". So of two that begin at once, each looks again
after its push, and the later one deletes its tag. One that had looked before the other pushed goes
on; its tag stays, and by that the other knows that it has to wait, even if it is the earlier one.
"""

import math
import re
from collections.abc import Collection, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from time import sleep
from typing import NamedTuple

from delivery.errors import GitError, TagError
from delivery.git import ORIGIN, Repository

HOURS = 24.0  # between the beginnings of two retrainings that alerts ask for
SKEW = timedelta(hours=1)  # that the clock of another runner may be ahead; more counts for nothing
JUST_BEGUN = "another retraining has just begun: this one has to wait"
LOOKS = 3  # at another one that has just begun and should give way
PAUSE = 5.0  # seconds between two of them; it takes about two to look and to delete a tag

_FORM = "%Y%m%dT%H%M%SZ"
_TAG = re.compile(r"retrain/([0-9]{8}T[0-9]{6}Z)(?:-([0-9]{1,18}))?")


def read_hours(text: str) -> float:
    """Read the length of the cool-down.

    Raises:
        ValueError: it is not a number of hours from 0 to a year.
    """
    hours = float(text)
    if not math.isfinite(hours) or not 0 <= hours <= 8760:
        raise ValueError(f"{text} is no number of hours from 0 to 8760")
    return hours


def left(repository: Repository, hours: float, now: datetime, pipeline: str = "") -> timedelta:
    """How long an alert has to wait for the next retraining; zero or less when it need not.

    Args:
        pipeline: whose own attempt does not count.

    Raises:
        GitError: origin can not be asked.
    """
    return _left(_attempts(repository), hours, now, pipeline)


def record(
    repository: Repository, why: str, now: datetime, pipeline: str = "", hours: float = 0.0
) -> str:
    """Leave the tag of a retraining that begins; returns it.

    Args:
        hours: those of an alert, which waits also for one that began since `left` was asked.

    Raises:
        TagError: another one has just begun.
        GitError: origin does not take it; nothing should be trained then.
    """
    old, second = _attempts(repository), now.replace(microsecond=0)
    waits = bool(hours) and _left(old, hours, now, pipeline) > timedelta()
    if waits or any(attempt.began == second for attempt in old):
        raise TagError(JUST_BEGUN)
    tag = now.strftime(f"retrain/{_FORM}") + (f"-{pipeline}" if pipeline else "")
    repository.git("tag", "--annotate", "--force", "--file=-", tag, stdin=f"{why}\n")
    repository.push(f"refs/tags/{tag}")
    if _is_second(repository, _Attempt(tag, second, pipeline), old):
        with suppress(GitError):  # a tag too many makes alerts wait longer, and no more
            repository.push(f":refs/tags/{tag}")
        repository.git("tag", "--delete", tag)
        raise TagError(JUST_BEGUN)
    if old:
        with suppress(GitError):  # somebody else has tidied up, or will
            repository.push(*(f":refs/tags/{attempt.tag}" for attempt in old))
    return tag


class _Attempt(NamedTuple):
    tag: str
    began: datetime
    pipeline: str

    @property
    def place(self) -> tuple[datetime, int]:
        """Among those that begin at once, the first goes on."""
        return self.began, int(self.pipeline or 0)


def _left(attempts: Iterable[_Attempt], hours: float, now: datetime, pipeline: str) -> timedelta:
    began = [
        attempt.began
        for attempt in attempts
        if attempt.began - now <= SKEW and not (pipeline and attempt.pipeline == pipeline)
    ]
    return max(began) + timedelta(hours=hours) - now if began else timedelta()


def _is_second(repository: Repository, own: _Attempt, old: Collection[_Attempt]) -> bool:
    """Whether another one has begun at the same time, and is the one that goes on."""
    for pause in (0.0, *(PAUSE,) * (LOOKS - 1)):
        if pause:
            sleep(pause)
        others = [
            attempt
            for attempt in _attempts(repository)
            if attempt not in (own, *old) and attempt.began - own.began <= SKEW
        ]
        if not others:
            return False
        if min(attempt.place for attempt in others) < own.place:
            return True
    return True  # it has looked before this one was pushed, and will not give way


def _attempts(repository: Repository) -> list[_Attempt]:
    """Retrainings on origin; whatever else stands below `retrain/` is not looked at."""
    listed = repository.git("ls-remote", "--refs", "--tags", ORIGIN, "refs/tags/retrain/*")
    names = (line.partition("\trefs/tags/")[2] for line in listed.splitlines())
    return [attempt for attempt in map(_attempt, names) if attempt]


def _attempt(name: str) -> _Attempt | None:
    if not (found := _TAG.fullmatch(name)):
        return None
    try:
        began = datetime.strptime(found[1], _FORM).replace(tzinfo=UTC)
    except ValueError:  # the 31st of February
        return None
    return _Attempt(name, began, found[2] or "")
