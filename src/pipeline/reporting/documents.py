"""Reads the documents of a retraining for the report: why it began, and how the models compare.

Their schemas are in `contracts.reports`. A merge request can say anything in them, so their texts
are for `markdown.code` only.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from pydantic import ValidationError

from contracts.faults import first_fault
from contracts.reports import (
    CHALLENGE,
    DRIFT,
    LARGEST,
    MOST_ALERTS,
    Challenge,
    Drift,
    Part,
)
from pipeline import markdown as md
from pipeline.errors import DataError

Document = TypeVar("Document", bound=Part)
P = ParamSpec("P")


def titled(title: str) -> Callable[[Callable[P, str]], Callable[P, str]]:
    """Let the section of a broken document be its title and what is wrong with it."""

    def decorate(section: Callable[P, str]) -> Callable[P, str]:
        @functools.wraps(section)
        def write(*arguments: P.args, **options: P.kwargs) -> str:
            try:
                return section(*arguments, **options)
            except DataError as error:
                return f"## {title}\n\n{md.code(error)}"

        return write

    return decorate


def read_drift(text: str | None = None) -> Drift | None:
    """Read drift.json, or `text` in its place; None when it is not there.

    Raises:
        DataError: it is something else.
    """
    found = parse(Drift, DRIFT, text)
    return found and found.model_copy(update={"alerts": found.alerts[:MOST_ALERTS]})


def read_challenge() -> Challenge | None:
    """Read challenge.json; None when it is not there.

    Raises:
        DataError: it is something else.
    """
    return parse(Challenge, CHALLENGE)


def new_drift(before: str | None) -> Drift | None:
    """The drift that this change answers: drift.json where it is newer than that of the base.

    Args:
        before: drift.json of the base; None when there was none.

    Raises:
        DataError: drift.json is something else.
    """
    now = read_drift()
    if now is None or before is None:
        return now
    try:
        base = read_drift(before)
    except DataError:
        return now
    return now if base is None or now.received > base.received else None


def parse(kind: type[Document], path: Path, text: str | None = None) -> Document | None:
    """Read a document, or `text` in its place; None when it is not there.

    Raises:
        DataError: it is something else.
    """
    try:
        content = _read(path) if text is None else text.encode()
        return kind.model_validate_json(content)
    except FileNotFoundError:
        return None
    except OSError as error:  # a folder, for example: Git can bring that, too
        reason = error.strerror or type(error).__name__
        raise DataError(f"{path}: {reason}; delete it, or write it anew") from None
    except ValidationError as error:
        raise DataError(f"{path}: {first_fault(error)}; delete it, or write it anew") from None


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise DataError(f"{path}: more than {LARGEST} bytes; delete it, or write it anew")
    return content
