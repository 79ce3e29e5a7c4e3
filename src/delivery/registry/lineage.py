"""The lineage of a version: its origin and its stages, followed from its tag through Git.

    tag -> commit -> dvc.lock -> model, data -> metrics, parameters
                  -> the commit that added the model to main -> merge request -> approval
                                                             -> experiment that trained it
    tag -> stages, over time

A version may be registered on a later commit than the one that added its model (if a pipeline
failed in between), so merge request and experiment are those of the first commit whose `dvc.lock`
names the model.
"""

import hashlib
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from contracts.commit import LOCK
from contracts.tags import STAGES, Version
from delivery.git import Repository
from delivery.registry import state as facts
from delivery.registry.policy import clean
from delivery.registry.registry import Registry
from delivery.registry.state import Move, State, Tag
from delivery.tags import parse_assignment

_REFERENCE = re.compile(r"^See merge request ([A-Za-z0-9_./-]{0,255})!([0-9]{1,18})$", re.MULTILINE)
_APPROVAL = re.compile(r"^(Approved-by|Reviewed-by): *(\S.*)$", re.MULTILINE | re.IGNORECASE)
_EXPERIMENT = re.compile(r"experiment/([0-9]{1,18})-([0-9]{1,18})")
MISSING = "not recorded"
_EMPTY = {"retired": "no", "stages": "none yet", "warnings": "none"}


def lineage(registry: Registry, version: Version) -> dict[str, Any]:
    """Follow a registered version; None or an empty list means not recorded."""
    repository, state = registry.repository, registry.state()
    tag = state.versions[version]
    digest = facts.model_digest(repository, tag.commit)
    added = _added(repository, tag.commit, digest)
    message = repository.git("log", "-1", "--format=%B", added)
    merge_request = _merge_request(message)
    experiment = _experiment(repository, added, digest, merge_request)
    if merge_request is None and experiment is not None:
        merge_request = f"!{experiment['merge_request']}"
    return {
        "version": version.tag,
        "registered": _event(tag),
        "retired": _event(state.retired[version]) if version in state.retired else None,
        "commit": _commit(repository, tag.commit),
        "model": digest,
        "data": {
            "version": facts.data_version(repository, tag.commit),
            "trained_on": facts.trained_on(repository, tag.commit),
        },
        "metrics": facts.read_metrics(repository, tag.commit),
        "tests": facts.read_tests(repository, tag.commit),
        "parameters": _parameters(repository, state, version),
        "brought_by": _commit(repository, added),
        "experiment": experiment,
        "merge_request": merge_request,
        "approvals": list(dict.fromkeys(f"{it[0]}: {it[1]}" for it in _approvals(message))),
        "stages": _stages(state, version),
    }


def _event(tag: Tag) -> dict[str, str]:
    return {"tag": tag.name, "when": tag.when.isoformat(), "message": tag.message}


def _commit(repository: Repository, commit: str) -> dict[str, str]:
    line = repository.git("log", "-1", "--format=%cI%x00%s", commit)
    when, _, subject = line.partition("\0")
    return {"id": commit, "when": when, "subject": clean(subject)}


def _added(repository: Repository, commit: str, digest: str | None) -> str:
    """The first commit on main's first-parent line whose dvc.lock names this model."""
    words = ("log", "--first-parent", "--format=%H", "--max-count=1000", commit)
    found = commit
    for older in repository.git(*words, "--", LOCK).split():
        if facts.model_digest(repository, older) != digest:
            break
        found = older
    return found


def _merge_request(message: str) -> str | None:
    found = _REFERENCE.findall(message)
    return "!".join(found[-1]) if found else None


def _approvals(message: str) -> list[tuple[str, str]]:
    return [(kind.capitalize(), clean(who)) for kind, who in _APPROVAL.findall(message)]


def _experiment(
    repository: Repository, added: str, digest: str | None, merge_request: str | None
) -> dict[str, str] | None:
    """The newest experiment with this model that the commit merged, or of its merge request.

    A squash leaves the trained commit outside main: the number of the merge request finds it.
    """
    pattern = "refs/tags/experiment/"
    words = ["for-each-ref", "--format=%(refname:strip=2)", f"--merged={added}"]
    parents = repository.git("log", "-1", "--format=%P", added).split()
    if parents:
        words.append(f"--no-merged={parents[0]}")
    names = repository.git(*words, pattern).split("\n")
    if merge_request is not None:
        number = merge_request.rpartition("!")[2]
        names += repository.tags(f"experiment/{number}-*")
    found = {name: match for name in names if (match := _EXPERIMENT.fullmatch(name))}
    for name in sorted(found, key=lambda name: int(found[name][2]), reverse=True):
        commit = repository.commit(f"refs/tags/{name}")
        if facts.model_digest(repository, commit) == digest:
            numbers = {"merge_request": found[name][1], "pipeline": found[name][2]}
            return {"tag": name, "commit": commit, **numbers}
    return None


def _parameters(repository: Repository, state: State, version: Version) -> dict[str, Any]:
    """Digest of params.yaml, and the differences from the version before."""
    mine = facts.read_params(repository, state.versions[version].commit)
    before = max((it for it in state.versions if it < version), default=None)
    theirs = facts.read_params(repository, state.versions[before].commit) if before else mine
    text = json.dumps(mine, sort_keys=True, default=str)
    return {
        "digest": "sha256:" + hashlib.sha256(text.encode()).hexdigest() if mine else None,
        "compared_with": before.tag if before else None,
        "changed": {
            name: {"from": theirs.get(name), "to": mine.get(name)}
            for name in sorted(mine.keys() | theirs.keys())
            if mine.get(name) != theirs.get(name)
        },
    }


def _stages(state: State, version: Version) -> list[dict[str, Any]]:
    """Every assignment of the version, oldest first, with the time at which it ended."""
    found = []
    for stage in STAGES:
        after: Move | None = None
        for move in state.moves.get(stage, []):
            if move.version == version:
                until = after.when.isoformat() if after and not move.withdrawn else None
                serving = move == state.serving.get(stage)
                found.append(move.entry() | {"until": until, "serving": serving})
            after = after if move.withdrawn else move
    return sorted(found, key=lambda it: (it["when"], parse_assignment(it["tag"]).counter))


def render(found: dict[str, Any]) -> str:
    """The lineage as text, with the same names in the same order."""
    lines = []
    for name, value in found.items():
        shown = _SHOW.get(name, _plain)(value) if value else [_EMPTY.get(name, MISSING)]
        for label, line in zip([name, *[""] * len(shown)], shown, strict=False):
            lines.append(f"{label:<15}{clean(line)}".rstrip())
    return "\n".join(lines)


def _plain(value: object) -> list[str]:
    return [str(line) for line in value] if isinstance(value, list) else [str(value)]


def _show_event(event: dict[str, str]) -> list[str]:
    return [f"{_minute(event['when'])} {event['tag']}", *_remarks(event["message"])]


def _show_commit(commit: dict[str, str]) -> list[str]:
    return [f"{commit['id'][:12]} {_minute(commit['when'])} {commit['subject']}"]


def _show_data(data: dict[str, str | None]) -> list[str]:
    version, used = data["version"], data["trained_on"]
    if version == used:
        return [version or MISSING]
    return [f"{version or MISSING} in data.dvc, but dvc.lock: trained on {used or MISSING}"]


def _show_metrics(metrics: dict[str, float]) -> list[str]:
    return [
        f"{name} {value:.0f}" if value == int(value) else f"{name} {value:.4g}"
        for name, value in metrics.items()
    ]


def _show_tests(counts: dict[str, int]) -> list[str]:
    return [", ".join(f"{count} {state}" for state, count in counts.items())]


def _show_parameters(parameters: dict[str, Any]) -> list[str]:
    lines = [parameters["digest"] or MISSING]
    if parameters["compared_with"]:
        word = "changed since" if parameters["changed"] else "as in"
        lines.append(f"{word} {parameters['compared_with']}")
    changed = parameters["changed"].items()
    return lines + [f"{name}: {values['from']} -> {values['to']}" for name, values in changed]


def _show_experiment(experiment: dict[str, str]) -> list[str]:
    return [f"{experiment['tag']} on {experiment['commit'][:12]}"]


def _show_stages(stages: list[dict[str, Any]]) -> list[str]:
    lines = []
    for entry in stages:
        end = f"until {_minute(entry['until'])}" if entry["until"] else ""
        end = "withdrawn" if entry["withdrawn"] else "serves now" if entry["serving"] else end
        lines.append(f"{entry['stage']} from {_minute(entry['when'])} {end} ({entry['tag']})")
        lines += _remarks(entry["message"])
    return lines


def _show_facts(facts: dict[str, str | None]) -> list[str]:
    return [f"{name} {value or MISSING}" for name, value in facts.items()]


def _remarks(message: str) -> list[str]:
    """Lines of a tag's message for people, without the title and the repeated facts."""
    lines = [line for line in message.splitlines()[1:] if line.strip()]
    return [line for line in lines if not line.startswith(("Model: ", "Interface: "))]


def _minute(when: str) -> str:
    try:
        return datetime.fromisoformat(when).astimezone(UTC).strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError):  # Git accepts commits from every year
        return when or MISSING


_SHOW: dict[str, Callable[[Any], list[str]]] = {
    "registered": _show_event,
    "retired": _show_event,
    "commit": _show_commit,
    "data": _show_data,
    "metrics": _show_metrics,
    "tests": _show_tests,
    "parameters": _show_parameters,
    "brought_by": _show_commit,
    "experiment": _show_experiment,
    "stages": _show_stages,
    "map": _show_facts,
    "made_by": _show_facts,
}
