"""Promotion policy: allowed stage transitions, next version number, tag message.

Versions pass the stages in order, a version older than the serving one is outdated, and a version
that breaks its callers gets a new major number. Nothing here calls Git.
"""

from collections.abc import Iterator
from typing import Any

from contracts.tags import STAGES, Version
from delivery.errors import Outdated, RegistryError, TakenBack
from delivery.registry.interface import changes, read_line
from delivery.registry.state import Move, State

FORCED = "Forced: "
"""Starts the line of a tag's message that overrides the policy for an assignment."""


def objections(state: State, version: Version, stage: str, allow_older: bool) -> Iterator[str]:
    """Why a stage must not take a version."""
    if (place := STAGES.index(stage)) > 0:
        before = STAGES[place - 1]
        if version not in {move.version for move in state.served(before)}:
            yield f"{before} never served it"
        if not allow_older and (back := rolled_back(state, version, before)):
            yield f"{before} was rolled back from it ({back.tag})"
    if (now := state.serving.get(stage)) is None:
        return
    if version < now.version and not allow_older:
        yield f"it is outdated, {stage} serves {now.version.tag} (make rollback goes back)"
    if back := rolled_back(state, version, stage):
        # Else the next run of main's pipeline would undo a rollback.
        yield f"{stage} was rolled back from it ({back.tag})"


def rolled_back(state: State, version: Version, stage: str) -> Move | None:
    """The assignment of an older version with which a stage left this one."""
    now = state.serving.get(stage)
    if now is None or now.version >= version:
        return None
    return now if version in {move.version for move in state.served(stage)} else None


def refusal(state: State, version: Version, stage: str, allow_older: bool) -> type[RegistryError]:
    """The error of a refused version, by what this stage and the one before it serve."""
    place = STAGES.index(stage)
    stages = STAGES[max(place - 1, 0) : place + 1]
    moves = (state.serving.get(name) for name in stages)
    if not allow_older and any(move and version < move.version for move in moves):
        return Outdated
    is_back = any(rolled_back(state, version, name) for name in stages)
    return TakenBack if is_back else RegistryError


def is_forced(move: Move) -> bool:
    """Whether the message of an assignment overrides the policy."""
    return any(line.startswith(FORCED) for line in move.message.splitlines())


def went_back(served: list[Move]) -> bool:
    """Whether the last assignment of a stage, the first of the list, was a rollback."""
    return len(served) > 1 and served[0].version < served[1].version


def before(state: State, stage: str, now: Version) -> Version:
    """The version that a stage served before, without retired ones.

    Raises:
        RegistryError: no such version remains.
    """
    for move in state.served(stage):
        if move.version != now and move.version not in state.retired:
            return move.version
    raise RegistryError(
        f"{stage} served no other version before {now.tag} that is not retired: promote one"
    )


def breakage(state: State, newest: Version | None, interface: dict[str, Any]) -> str:
    """The line that lists changes that break callers of the newest version; empty for none."""
    if newest is None:
        return ""
    changed = changes(read_line(state.versions[newest].message), interface)
    return f"Breaks callers of {newest.tag}: {', '.join(changed)}" if changed else ""


def next_version(name: str, newest: Version | None, breaks: bool) -> Version:
    """The version after the newest one; the number of a retired version is not reused."""
    if newest is None:
        return Version(name, (1, 0, 0))
    major, minor, _ = newest.number
    return Version(name, (major + 1, 0, 0) if breaks else (major, minor + 1, 0))


def clean(text: str) -> str:
    """Foreign text as one printable line: no line breaks, no control sequences."""
    return " ".join("".join(it if it.isprintable() else " " for it in text).split())


def compose(title: str, *facts: str) -> str:
    """The message of a tag: a title, and one line per fact."""
    return "\n".join([title, "", *filter(None, facts)]).strip()


def because(reason: str) -> str:
    """The line with the reason; empty for none."""
    return f"Reason: {clean(reason)}" if clean(reason) else ""
