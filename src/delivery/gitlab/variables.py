"""Compares variables, tokens and runners of a GitLab project with the desired tables."""

import re
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from gitlab.v4.objects import Project

from delivery.errors import GitLabError
from delivery.gitlab import desired
from delivery.gitlab.client import asking
from delivery.gitlab.plan import Plan, listed, role_name, shown
from delivery.lines import read_lines

Stored = dict[tuple[str, str], Any]
"""Variables of a project by key and environment."""


def read_values(path: Path) -> dict[str, str]:
    """Read the lines `KEY=VALUE` of a file; a key file is replaced by its content.

    Raises:
        DeliveryError: a file is missing, a line is none, a key is unknown, or GitLab cannot mask a
            secret. The message has the key, never the value.
    """
    path = path.expanduser()  # not every shell expands VALUES=~/...
    if not path.is_file():
        raise GitLabError(f"values: {path} is not a file")
    rows = {row.source: row for row in desired.VARIABLES}
    stored = read_lines(_text(path), f"values: {path}")
    values = {key: text for key, text in stored.items() if key not in desired.RETIRED}
    for key, value in values.items():
        if key not in rows:
            known = ", ".join(sorted(rows))
            raise GitLabError(f"values: {key[:64]!a} is not a variable of the pipeline: {known}")
        if rows[key].secret and not re.fullmatch(r"\S{8,}", value):
            need = "8 characters or more, no white space"
            raise GitLabError(f"values: {key}: GitLab cannot mask it: it needs {need}")
        if rows[key].file:
            values[key] = _content(key, path.parent / Path(value).expanduser())
    return values


def _content(key: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise GitLabError(f"values: {key}: {path} cannot be read") from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise GitLabError(f"values: {path} cannot be read: {error}: write text in UTF-8") from None


def compare_variables(plan: Plan, project: Project, values: dict[str, str]) -> None:
    """Compare variables, tokens and runners.

    Raises:
        GitLabError: GitLab refuses to show a part.
    """
    stored = _stored(project)
    for row in desired.VARIABLES:
        now, value = stored.get((row.key, row.scope)), values.get(row.source)
        if value and row.key in desired.MADE_BY_JOBS and not _has_image(project, value):
            job = desired.MADE_BY_JOBS[row.key]
            plan.left.append(
                f"variable {row.key}: {value} is not in the registry, and no job could start: run "
                f"the job {job} of the newest pipeline of main, then this again"
            )
            continue
        if now is not None:
            _differences(plan, project, row, now, value)
        elif value is not None:
            detail = f"{_value(row, value)}, {_flags(_fields(row))}"
            do = partial(_set, project, row, value)
            plan.add("+", "variable", _name(row), detail, row.about, do)
        elif row.needed:
            plan.left.append(f"variable {_name(row)}: give it in the values: {row.about}")
        elif row.key not in [token.variable for token in desired.TOKENS]:
            plan.unset.append(row.source)
    _storage(plan, stored, values)
    for token in desired.TOKENS:
        if token.variable not in values:  # else the team brings its own
            _token(plan, project, token, stored)
    _runners(plan, project, stored, values)


def _has_image(project: Project, name: str) -> bool:
    """Whether the project's registry has an image; another registry is not asked."""
    prefix = project.attributes.get("container_registry_image_prefix")
    repository, _, tag = name.rpartition(":")
    if not prefix or not repository.startswith(f"{prefix}/"):
        return True
    found = [row for row in listed(project.repositories, "images") if row.location == repository]
    return any(tag == each.name for row in found for each in listed(row.tags, "tags of an image"))


def _stored(project: Project) -> Stored:
    rows = listed(project.variables, "variables")
    return {(row.key, row.attributes.get("environment_scope", "*")): row for row in rows}


def _differences(
    plan: Plan, project: Project, row: desired.Variable, now: Any, value: str | None
) -> None:
    fields, hidden = _fields(row), now.attributes.get("hidden")
    details = [
        _flags({name: fields[name]})
        for name in fields
        if now.attributes.get(name, fields[name]) != fields[name]
    ]
    if value is not None and not hidden and now.value != value:
        details.append(f"value {_value(row, value)}")
    if value is not None and hidden:
        plan.left.append(
            f"variable {_name(row)}: hidden, so its value cannot be compared with the given one: "
            "delete it in GitLab to set it again"
        )
    if details:
        do = partial(_set, project, row, None if hidden else value)
        plan.add("~", "variable", _name(row), ", ".join(details), row.about, do)


def _set(project: Project, row: desired.Variable, value: str | None, hidden: bool = False) -> None:
    """Create or change a variable; without a value only its flags."""
    fields: dict[str, Any] = _fields(row) | ({} if value is None else {"value": value})
    if (row.key, row.scope) in _stored(project):
        scope = {"environment_scope": row.scope}
        project.variables.update(row.key, fields, filter=scope)
        return
    fields |= {"key": row.key, "environment_scope": row.scope, "description": row.about}
    project.variables.create(fields | ({"masked_and_hidden": True} if hidden else {}))


def _storage(plan: Plan, stored: Stored, values: dict[str, str]) -> None:
    keys = {*values, *(key for key, _ in stored)}
    if not keys & set(desired.STORAGE):
        plan.left.append(f"DVC remote: give one of {', '.join(desired.STORAGE)} in the values")


def _token(plan: Plan, project: Project, row: desired.BotToken, stored: Stored) -> None:
    tokens = listed(project.access_tokens, "access tokens")
    now = next((token for token in tokens if token.name == row.name and token.active), None)
    rights = f"{role_name(row.role)}, {' '.join(row.scopes)}"
    if now is None:
        do = partial(_make_token, project, row)
        plan.add("+", "token", row.name, f"{rights}, in {row.variable}", row.why, do)
    elif (now.access_level, sorted(now.scopes)) != (row.role, sorted(row.scopes)):
        detail = f"{role_name(now.access_level)}, {' '.join(now.scopes)} -> {rights}"
        plan.add("~", "token", row.name, detail, row.why, partial(_make_token, project, row, now))
    elif reason := _renewal(row, now, stored):
        do = partial(_renew_token, project, row, now)
        plan.add("~", "token", row.name, f"renewed: {reason}", row.why, do)


def _renewal(row: desired.BotToken, now: Any, stored: Stored) -> str:
    """Why a token must be renewed; empty if it is still valid."""
    if (row.variable, "*") not in stored:
        return f"its value is lost, {row.variable} does not exist"
    soon = now.expires_at and date.fromisoformat(now.expires_at) < _day(desired.RENEW_DAYS)
    return f"it ends on {now.expires_at}" if soon else ""


def _make_token(project: Project, row: desired.BotToken, old: Any | None = None) -> None:
    if old is not None:
        old.delete()
    made = project.access_tokens.create(
        {
            "name": row.name,
            "scopes": list(row.scopes),
            "access_level": row.role,
            "expires_at": _day(desired.TOKEN_DAYS).isoformat(),
        }
    )
    _set(project, _variable_of(row), made.token, hidden=True)


def _renew_token(project: Project, row: desired.BotToken, now: Any) -> None:
    ends = _day(desired.TOKEN_DAYS).isoformat()
    made: Any = project.access_tokens.rotate(now.get_id(), expires_at=ends)
    _set(project, _variable_of(row), made["token"], hidden=True)


def _variable_of(row: desired.BotToken) -> desired.Variable:
    return next(variable for variable in desired.VARIABLES if variable.key == row.variable)


def _runners(plan: Plan, project: Project, stored: Stored, values: dict[str, str]) -> None:
    now = stored.get(("TRAIN_RUNNER_TAG", "*"))
    tag = values.get("TRAIN_RUNNER_TAG") or (now.value if now else desired.RUNNER_TAG)
    with asking(f"listing runners with the tag {tag!a}"):
        runners = project.runners.list(tag_list=[tag], get_all=True)
    if not runners:
        plan.left.append(
            f"runner: none has the tag {tag!a}, so training would wait for ever: register one, or "
            "give the tag of another (CPU will do) as TRAIN_RUNNER_TAG in the values"
        )
    elif not any(runner.attributes.get("online") for runner in runners):
        plan.left.append(f"runner: none with the tag {tag!a} is online")


def _day(days: int) -> date:
    return date.today() + timedelta(days=days)


def _name(row: desired.Variable) -> str:
    return row.key if row.scope == "*" else f"{row.key} ({row.scope})"


def _fields(row: desired.Variable) -> dict[str, Any]:
    """The flags of a variable. GitLab cannot mask a file; nothing is expanded."""
    return {
        "protected": row.protected,
        "masked": row.secret,
        "raw": True,
        "variable_type": "file" if row.file else "env_var",
    }


def _flags(fields: dict[str, Any]) -> str:
    words = {
        ("protected", True): "protected",
        ("protected", False): "for every branch",
        ("masked", True): "masked",
        ("masked", False): "not masked",
        ("raw", True): "not expanded",
        ("variable_type", "file"): "a file",
        ("variable_type", "env_var"): "a value",
    }
    return ", ".join(words[item] for item in fields.items())


def _value(row: desired.Variable, value: str) -> str:
    return "(secret)" if row.secret or row.file else shown(value)
