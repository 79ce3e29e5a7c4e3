"""Compares a GitLab project with the desired tables: settings, protections, labels."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from gitlab.exceptions import GitlabError
from gitlab.v4.objects import Project

from contracts.tags import STAGES
from delivery.gitlab import desired
from delivery.gitlab.client import Refused, asking

TASK = "TASK"
"""The variable that names the job of a schedule."""


class Change(NamedTuple):
    """One difference, and the function that fixes it."""

    sign: str
    """`+` adds something, `~` changes it."""
    kind: str
    name: str
    detail: str
    why: str
    apply: Callable[[], object]

    def __str__(self) -> str:
        return f"{self.sign} {self.kind} {self.name}: {self.detail}"


@dataclass
class Plan:
    """The differences; comparing changes nothing."""

    changes: list[Change] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    """Tasks that only a person can do."""
    unset: list[str] = field(default_factory=list)
    """Optional variables without a value."""

    def add(self, sign: str, kind: str, name: str, detail: str, why: str, do: Any) -> None:
        """Add a difference, and the function that fixes it."""
        self.changes.append(Change(sign, kind, name, detail, why, do))


def compare_project(plan: Plan, project: Project, model: str) -> None:
    """Compare everything but variables and tokens.

    Raises:
        GitLabError: GitLab refuses to show a part.
    """
    _settings(plan, project)
    _job_token_scope(plan, project)
    _push_rules(plan, project)
    _resource_groups(plan, project)
    _cleanup_policy(plan, project)
    for protection in desired.PROTECTIONS:
        _protection(plan, project, protection, protection.name.format(model=model))
    _things(plan, "label", project.labels, "name", desired.LABELS)
    _things(plan, "trigger", project.triggers, "description", (desired.TRIGGER,))
    stored = {row.description: row for row in listed(project.pipelineschedules, "schedules")}
    for schedule in desired.SCHEDULES:
        _schedule(plan, project, schedule, stored.get(schedule.task))


def _settings(plan: Plan, project: Project) -> None:
    projects = project.manager.gitlab.projects
    for name, value, why, since, also in desired.SETTINGS:
        if name not in project.attributes:
            if since == desired.PREMIUM:
                continue
            plan.left.append(f"setting {name}: GitLab {since or '(newer)'} is needed ({why})")
        elif project.attributes[name] not in (value, *also):
            detail = f"{shown(project.attributes[name])} -> {shown(value)}"
            do = partial(projects.update, project.get_id(), {name: value})
            plan.add("~", "setting", name, detail, why, do)


def _job_token_scope(plan: Plan, project: Project) -> None:
    with asking("reading the access of other projects' job tokens"):
        scope = project.job_token_scope.get()
    if not scope.inbound_enabled:
        do = partial(project.job_token_scope.update, None, {"enabled": True})
        why = "jobs of other projects have no access"
        plan.add("~", "setting", "job_token_scope", "everybody -> this project", why, do)


def _resource_groups(plan: Plan, project: Project) -> None:
    """GitLab makes a group with the first job that names it; until then there is nothing to set."""
    for group in listed(project.resource_groups, "resource groups"):
        if group.key in STAGES and group.process_mode != desired.PROCESS_MODE:
            detail = f"{group.process_mode} -> {desired.PROCESS_MODE}"
            do = partial(_set_mode, group)
            plan.add("~", "resource group", group.key, detail, "rollouts keep their order", do)


def _set_mode(group: Any) -> None:
    group.process_mode = desired.PROCESS_MODE
    group.save()


def _push_rules(plan: Plan, project: Project) -> None:
    """Push rules (Premium) that refuse what the bots push."""
    try:
        with asking("reading the push rules"):
            rules = project.pushrules.get()
    except Refused as refused:
        if refused.status not in (403, 404):
            raise
        return
    for name, consequence in desired.PUSH_RULES.items():
        if rules.attributes.get(name):
            plan.left.append(f"push rule {name}: {consequence}; switch it off for this project")


def _cleanup_policy(plan: Plan, project: Project) -> None:
    """Let the cleanup policy keep released images, also one that is switched on later."""
    if (policy := project.attributes.get("container_expiration_policy")) is None:
        return  # the project has no registry yet; the next run sees it
    kept = policy.get("name_regex_keep") or ""
    if all(_matches(kept, tag) for tag in ("v1.2.0", "v1.2.0-0123456789ab", "cpu", "cuda")):
        return
    wanted = f"{kept}|{desired.KEPT_IMAGES}" if kept else desired.KEPT_IMAGES
    fields = {"container_expiration_policy_attributes": {"name_regex_keep": wanted}}
    do = partial(project.manager.gitlab.projects.update, project.get_id(), fields)
    state = "on" if policy.get("enabled") else "off"
    detail = f"({state}) keeps {kept or 'nothing'} -> {wanted}"
    why = "images are created in 1980, and a policy by age would delete those in use"
    plan.add("~", "cleanup policy", "container_expiration_policy", detail, why, do)


def _matches(pattern: str, tag: str) -> bool:
    """Whether GitLab would keep a tag. A pattern that Python cannot read counts as another one."""
    try:
        return re.fullmatch(pattern, tag) is not None
    except re.error:
        return False


def _protection(plan: Plan, project: Project, row: desired.Protection, name: str) -> None:
    kind, manager = f"protected {row.kind}", _protections(project, row.kind)
    try:
        stored = listed(manager, kind)
    except Refused as refused:
        if row.kind != "environment" or refused.status not in (403, 404):
            raise
        plan.left.append(
            f"{kind} {name}: GitLab Premium is needed; without it, protected variables and tags "
            "alone keep branches from deploying"
        )
        return
    found = next((item for item in stored if item.name == name), None)
    if found is None:
        do = partial(_protect, manager, row, name)
        plan.add("+", kind, name, _rights(_single(row.levels)), row.why, do)
    elif (now := _levels(found, row.levels)) != _single(row.levels):
        detail = f"{_rights(now)} -> {_rights(_single(row.levels))}"
        do = partial(_protect, manager, row, name, found)
        plan.add("~", kind, name, detail, row.why, do)


def _protections(project: Project, kind: str) -> Any:
    managers: dict[str, Any] = {
        "branch": project.protectedbranches,
        "tag": project.protectedtags,
        "environment": project.protected_environments,
    }
    return managers[kind]


def _protect(manager: Any, row: desired.Protection, name: str, old: Any | None = None) -> None:
    # Every tier can create and delete a protection; only Premium can change one.
    fields: dict[str, Any] = {f"{verb}_access_level": role for verb, role in row.levels.items()}
    if row.kind == "environment":
        fields = {"deploy_access_levels": [{"access_level": row.levels["deploy"]}]}
    if old is not None:
        old.delete()
    try:
        manager.create({"name": name} | fields)
    except GitlabError as error:
        if old is not None:
            error.error_message = f"{error.error_message} ({name} is now without protection)"
        raise


def _schedule(plan: Plan, project: Project, row: desired.Schedule, found: Any) -> None:
    if found is None:
        detail = f"{row.cron} UTC, inactive until the team activates it"
        make = partial(_make_schedule, project, row)
        plan.add("+", "schedule", row.task, detail, row.why, make)
        return
    with asking(f"reading the schedule {row.task}"):
        whole = project.pipelineschedules.get(found.get_id())
    if TASK not in [variable["key"] for variable in whole.attributes.get("variables", ())]:
        do = partial(whole.variables.create, {"key": TASK, "value": row.task})
        plan.add("~", "schedule", row.task, f"variable {TASK} {row.task}", row.why, do)


def _make_schedule(project: Project, row: desired.Schedule) -> None:
    made = project.pipelineschedules.create(
        {
            "description": row.task,
            "ref": "main",
            "cron": row.cron,
            "cron_timezone": "UTC",
            "active": False,
        }
    )
    made.variables.create({"key": TASK, "value": row.task})


def _things(plan: Plan, kind: str, manager: Any, key: str, rows: Iterable[dict[str, Any]]) -> None:
    """Labels and triggers: created if they are missing, and left alone otherwise."""
    stored = {item.attributes[key] for item in listed(manager, kind)}
    for row in rows:
        if row[key] not in stored:
            rest = {name: value for name, value in row.items() if name != key}
            detail = ", ".join(f"{name} {shown(value)}" for name, value in rest.items())
            why = "the pipeline needs it"
            plan.add("+", kind, row[key], detail or "new", why, partial(manager.create, row))


def listed(manager: Any, kind: str) -> list[Any]:
    """All objects of a kind.

    Raises:
        Refused: GitLab does not show them.
    """
    with asking(f"listing: {kind}"):
        found: list[Any] = manager.list(get_all=True)
    return found


def shown(value: object) -> str:
    """A value for people, in one short line."""
    if isinstance(value, bool | None):
        return {True: "on", False: "off", None: "not set"}[value]
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _single(levels: dict[str, int]) -> dict[str, list[int | None]]:
    return {verb: [role] for verb, role in levels.items()}


def _levels(item: Any, verbs: Iterable[str]) -> dict[str, list[int | None]]:
    """Roles by verb; None stands for a named person, group or key."""
    rows = {verb: item.attributes[f"{verb}_access_levels"] for verb in verbs}
    named = ("user_id", "group_id", "deploy_key_id")
    return {
        verb: [None if any(row.get(x) for x in named) else row["access_level"] for row in listed]
        for verb, listed in rows.items()
    }


def _rights(levels: dict[str, list[int | None]]) -> str:
    parts = []
    for verb, roles in levels.items():
        names = ["a named account" if role is None else role_name(role) for role in roles]
        parts.append(f"{verb}: {' and '.join(names) or 'no one'}")
    return ", ".join(parts)


def role_name(level: int) -> str:
    """Name of a role."""
    return desired.ROLES.get(level, f"level {level}")
