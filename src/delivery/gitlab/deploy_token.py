"""Compares the deploy token with which pods read a private repository.

GitLab shows its value once. It goes into a file of the maintainer, from which `make secrets` brings
it into the cluster: a variable of the project would give it to every job.
"""

import os
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from gitlab.v4.objects import Project

from delivery.errors import GitLabError
from delivery.gitlab import desired
from delivery.gitlab.plan import Plan, listed

NAME = "conveyor-pods"
SCOPES = ["read_repository"]
USERNAME, PASSWORD = "GIT_USERNAME", "GIT_PASSWORD"
"""Lines of the file, as `make secrets` reads them."""
WHY = "pods list experiments and fetch models by tag from a private repository"


def compare_deploy_token(plan: Plan, project: Project, file: Path | None) -> None:
    """Compare the token with the file; without one, only report.

    Raises:
        GitLabError: GitLab does not show its tokens, or the file is in the repository.
    """
    active = [
        token
        for token in listed(project.deploytokens, "deploy tokens")
        if token.name == NAME and not (token.revoked or token.expired)
    ]
    now = max(active, key=lambda token: int(token.get_id()), default=None)
    reason = "" if now is None else _renewal(now)
    if file is None:
        if project.attributes.get("visibility") != "public" and (now is None or reason):
            has = f"{now.username} {reason}" if now else "there is none"
            plan.left.append(
                f"deploy token {NAME}: {has}: {WHY}: POD_TOKEN=~/{project.path}-pods.env makes it"
            )
        return
    path = _outside(file)
    reason = reason or _lost(now, path)
    if now is None or reason:
        detail = f"{' '.join(SCOPES)}, in {path}" if now is None else f"renewed: {reason}"
        do = partial(_make, project, path)
        plan.add("+" if now is None else "~", "deploy token", NAME, detail, WHY, do)
    for old in active if reason else [token for token in active if token is not now]:
        plan.left.append(
            f"deploy token {old.username}: revoke it when the pods have the newer one, in "
            "Settings > Repository > Deploy tokens"
        )


def _renewal(now: Any) -> str:
    """Why a token must be renewed; empty if it is still valid."""
    ends = now.expires_at and date.fromisoformat(now.expires_at[:10])
    return f"ends on {ends}" if ends and ends < _day(desired.RENEW_DAYS) else ""


def _lost(now: Any | None, path: Path) -> str:
    if now is None:
        return ""
    try:
        stored = dotenv_values(path, interpolate=False) if path.is_file() else {}
    except UnicodeDecodeError:
        raise GitLabError(f"pod-token: {str(path)!a} is no text in UTF-8: name another") from None
    mine = stored.get(USERNAME) == now.username and stored.get(PASSWORD)
    return "" if mine else f"{path} does not have its value"


def _outside(file: Path) -> Path:
    """The path, if no commit can publish it."""
    path = file.expanduser().absolute()
    if path.resolve().is_relative_to(Path.cwd().resolve()):
        raise GitLabError(
            f"pod-token: {str(file)!a} is in the repository, where a commit would publish it: name "
            "a file elsewhere"
        )
    return path


def _make(project: Project, path: Path) -> None:
    """Make a token, and write it into the file, whose other lines stay."""
    fresh = path.with_name(f"{path.name}.new")
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        fresh.unlink(missing_ok=True)
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except (OSError, UnicodeDecodeError) as error:
        raise GitLabError(f"pod-token: {str(path)!a} cannot be written: {error}") from None
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        ends = _day(desired.TOKEN_DAYS).isoformat()
        made = project.deploytokens.create({"name": NAME, "scopes": SCOPES, "expires_at": ends})
        kept = [it for it in lines if _key(it) not in (USERNAME, PASSWORD)]
        lines = [*kept, f"{USERNAME}={made.username}", f"{PASSWORD}={made.token}"]
        file.writelines(f"{line}\n" for line in lines)
    fresh.replace(path)


def _key(line: str) -> str:
    return line.partition("=")[0].strip().removeprefix("export ").strip()


def _day(days: int) -> date:
    return date.today() + timedelta(days=days)
