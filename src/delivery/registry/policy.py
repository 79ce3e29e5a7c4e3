"""The rules of the registry: what moves where, what comes next, and the message that says why.

Stages move in order, a version that is older than what serves is outdated, and a version that
breaks its callers gets a new major number. Nothing here asks Git.
"""

from collections.abc import Iterator
from typing import Any

from contracts.tags import STAGES, Version
from delivery.errors import RegistryError
from delivery.registry.interface import changes, read_line
from delivery.registry.state import Move, State

FORCED = "Forced: "
"""Begins the line of a tag's message that lets an assignment pass where a rule forbids it."""


def objections(state: State, version: Version, stage: str, allow_older: bool) -> Iterator[str]:
    """Why a stage should not take a version."""
    if (place := STAGES.index(stage)) > 0:
        before = STAGES[place - 1]
        if version not in {move.version for move in state.served(before)}:
            yield f"{before} never served it"
    if (now := state.serving.get(stage)) is None:
        return
    if version < now.version and not allow_older:
        yield f"it is outdated, {stage} serves {now.version.tag} (make rollback goes back)"
    if version > now.version and version in {move.version for move in state.served(stage)}:
        # Else the next run of main's pipeline would undo what a person did in a hurry.
        yield f"{stage} was rolled back from it ({now.tag})"


def is_forced(move: Move) -> bool:
    """Whether the message of an assignment says that a rule was passed over."""
    return any(line.startswith(FORCED) for line in move.message.splitlines())


def went_back(served: list[Move]) -> bool:
    """Whether the last assignment of a stage, the first of the list, was a way back."""
    return len(served) > 1 and served[0].version < served[1].version


def before(state: State, stage: str, now: Version) -> Version:
    """What a stage served before, without what is retired.

    Raises:
        RegistryError: nothing.
    """
    for move in state.served(stage):
        if move.version != now and move.version not in state.retired:
            return move.version
    raise RegistryError(
        f"{stage} served nothing before {now.tag} that is not retired: promote another version"
    )


def breakage(state: State, newest: Version | None, interface: dict[str, Any]) -> str:
    """The line that says what callers of the newest version have to mind; empty for nothing."""
    if newest is None:
        return ""
    changed = changes(read_line(state.versions[newest].message), interface)
    return f"Breaks callers of {newest.tag}: {', '.join(changed)}" if changed else ""


def next_version(name: str, newest: Version | None, breaks: bool) -> Version:
    """The version after the newest one; that can be a retired one, whose number is used up."""
    if newest is None:
        return Version(name, (1, 0, 0))
    major, minor, _ = newest.number
    return Version(name, (major + 1, 0, 0) if breaks else (major, minor + 1, 0))


def clean(text: str) -> str:
    """A text of somebody as one line: it adds no line to a message, and steers no terminal."""
    return " ".join("".join(it if it.isprintable() else " " for it in text).split())


def compose(title: str, *facts: str) -> str:
    """The message of a tag: a title, and a line a fact."""
    return "\n".join([title, "", *filter(None, facts)]).strip()


def because(reason: str) -> str:
    """The line with the reason; empty for none."""
    return f"Reason: {clean(reason)}" if clean(reason) else ""
