"""Command: compare a GitLab project with the desired state; with `--apply`, change it.

    GITLAB_TOKEN=... python -m delivery.gitlab_setup                  show the differences
    GITLAB_TOKEN=... python -m delivery.gitlab_setup --apply --values ~/landcover.env

The token is a Maintainer's personal token with the scope `api`; it is used only here. The values
are lines `KEY=VALUE` for the variables of the pipelines; keep the file outside the repository.
Applying twice changes nothing the second time. docs/gitlab-setup.md has all steps.
"""

import os
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

from gitlab.v4.objects import Project

from contracts import commands
from delivery.errors import GitLabError, command
from delivery.gitlab import address, deploy_token, desired
from delivery.gitlab.client import asking, connect
from delivery.gitlab.deploy_token import compare_deploy_token
from delivery.gitlab.plan import Change, Plan, compare_project, role_name
from delivery.gitlab.variables import compare_variables, read_values
from delivery.tags import model_name

TOKEN = "GITLAB_TOKEN"
EXAMPLE = "https://gitlab.example.com/team/name"


@command
def main() -> None:
    """Compare, print, and with `--apply` change the project."""
    arguments = parse()
    url, path = where(arguments)
    values = read_values(arguments.values) if arguments.values else {}
    token = os.environ.get(TOKEN)
    if not token:
        raise GitLabError(
            f"{TOKEN}: not set: create a personal access token with the scope api at "
            f"{url}/-/user_settings/personal_access_tokens"
        )
    project, text = open_project(url, path, token)
    print(f"gitlab-setup: {project.path_with_namespace} on {url} (GitLab {text})\n")
    version = tuple(int(number) for number in re.findall(r"\d+", text)[:2])
    plan, model = Plan(), model_name()
    compare_project(plan, project, model)
    compare_variables(plan, project, values)
    compare_deploy_token(plan, project, arguments.pod_token)
    changes = kept(plan, arguments.keep, model)
    for change in changes:
        print(f"  {change}\n      {change.why}")
    print(summary(changes))
    if arguments.apply:
        apply(changes)
    print(rest(plan, version))
    if changes and not arguments.apply:
        print("\nNothing was changed. To apply: make gitlab-setup APPLY=1")


def parse() -> Namespace:
    """Read the command line."""
    parser = commands.parser("delivery.gitlab_setup", __doc__)
    parser.add_argument("--url", help="address of GitLab or of the project (default: origin's)")
    parser.add_argument("--project", help="group/project (default: origin's)")
    parser.add_argument("--values", type=Path, metavar="FILE", help="values of the variables")
    parser.add_argument(
        "--pod-token",
        type=Path,
        metavar="FILE",
        help="make the deploy token of the pods, and write it into this file",
    )
    parser.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="NAME",
        help="leave this setting, protection, variable or token as it is (may be repeated)",
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--dry-run", action="store_true", help="change nothing (the default)")
    mode.add_argument("--apply", action="store_true", help="change the project")
    return parser.parse_args()


def where(arguments: Namespace) -> tuple[str, str]:
    """Address and project: the given ones, else those of the remote `origin`.

    Raises:
        GitLabError: neither names them.
    """
    if arguments.url and arguments.project:
        return arguments.url.rstrip("/"), arguments.project
    if arguments.url and address.is_project(arguments.url):
        return address.locate(*address.split(arguments.url))
    if arguments.url and not re.match(r"https?://[^/]", arguments.url):
        raise GitLabError(f"URL: {arguments.url[:128]!a} is not an address: write {EXAMPLE}")
    cure = f"give the project's, make gitlab-setup URL={EXAMPLE}"
    if arguments.url:
        cure = f"URL={arguments.url[:128]} names the server alone: {cure}"
    url, path = address.of_origin(cure)
    if not arguments.url and not arguments.project:
        return address.locate(url, path)
    return (arguments.url or url).rstrip("/"), arguments.project or path


def open_project(url: str, path: str, token: str) -> tuple[Project, str]:
    """The project and the version of GitLab.

    Raises:
        GitLabError: it does not exist, it is empty, or the token's role is too low.
    """
    client = connect(url, token)
    with asking(f"querying the version of {url}"):
        answer = client.http_get("/version")
    version = answer.get("version") if isinstance(answer, dict) else None
    if not isinstance(version, str):
        raise GitLabError(f"{url} does not report its version: is this a GitLab?")
    with asking(f"opening the project {path!a}"):
        project = client.projects.get(path)
    rights: dict[str, Any] = project.attributes.get("permissions") or {}
    levels = [right["access_level"] for right in rights.values() if right]
    if levels and max(levels) < desired.MAINTAINER:
        role = role_name(max(levels))
        raise GitLabError(f"the token's owner is among the {role} of {path}: be a Maintainer")
    if project.attributes.get("empty_repo"):
        raise GitLabError(f"{path} is empty: git push origin main, then run this again")
    if project.default_branch != "main":
        raise GitLabError(
            f"the default branch is {project.default_branch!a}; the pipeline expects main: "
            "rename it in Settings > Repository"
        )
    return project, version


def kept(plan: Plan, names: list[str], model: str) -> list[Change]:
    """The changes without those to keep as they are.

    Raises:
        GitLabError: a name is not in the tables.
    """
    rows = [row.field for row in desired.SETTINGS]
    rows += [row.name.format(model=model) for row in desired.PROTECTIONS]
    rows += [row.key for row in desired.VARIABLES] + [row.name for row in desired.TOKENS]
    rows += [row.task for row in desired.SCHEDULES] + [
        "job_token_scope",
        "drift alert",
        deploy_token.NAME,
    ]
    for name in names:
        if name not in rows:
            raise GitLabError(f"--keep {name[:64]!a}: not a row: {', '.join(rows)}")
    return [change for change in plan.changes if change.name.split(" (")[0] not in names]


def summary(changes: list[Change]) -> str:
    """The number of changes."""
    added = sum(change.sign == "+" for change in changes)
    if not changes:
        return "Nothing to do: the project is in the desired state."
    return f"\nPlan: {added} to add, {len(changes) - added} to change."


def rest(plan: Plan, version: tuple[int, ...]) -> str:
    """The tasks of a person, and the optional variables that are not set."""
    left = list(plan.left)
    if version < desired.OLDEST:
        oldest = ".".join(map(str, desired.OLDEST))
        left.insert(0, f"GitLab: older than {oldest}, the oldest supported one")
    left += [f"GitLab: {lost}" for since, lost in desired.SINCE if version < since]
    parts = ["\nLeft to you:", *(f"  - {line}" for line in left)] if left else []
    if plan.unset:
        parts.append(f"\nNot set, and not needed: {', '.join(plan.unset)}")
    return "\n".join(parts)


def apply(changes: list[Change]) -> None:
    """Apply the changes, one by one.

    Raises:
        GitLabError: names the change that failed; those before it are applied.
    """
    if changes:
        print()
    for change in changes:
        try:
            with asking(f"{change.kind} {change.name}"):
                change.apply()
        except GitLabError as error:
            raise GitLabError(_with_cure(str(error))) from None
        print(f"done: {change.kind} {change.name}")


def _with_cure(reason: str) -> str:
    if "permission to create project access token" in reason:
        reason += (
            ". Use a personal token of a Maintainer; where GitLab offers no project access tokens "
            "(gitlab.com without Premium), create tokens of a separate user and give them in the "
            f"values as {' and '.join(row.variable for row in desired.TOKENS)}"
        )
    return f"{reason}. The changes before it are applied; run it again"


if __name__ == "__main__":
    main()
