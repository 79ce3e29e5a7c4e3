"""Command: unregister the cloud runners that were left behind.

    python -m delivery.reap --dry-run     which ones
    python -m delivery.reap               delete them from GitLab

A machine that `cml runner launch` has started registers as a runner of this project and deletes it
when it ends. One that was killed, or hangs, leaves its runner behind: offline, and in the way of
whoever looks for one. Such runners are deleted: name or tag begins with `cml-`, of this project
alone, and silent for more than REAP_HOURS (default 2, the least; GitLab itself calls a runner
offline after two hours).

It can NOT see or end machines: GitLab does not know them. They end by `--idle-timeout` on the
machine itself, or by a limit in the cloud. A runner that is deleted here was either ended without
a word, or its machine hangs and costs: look for it in the cloud. A machine that hangs before it
registers leaves no trace here at all.

Environment: CI_SERVER_URL, CI_PROJECT_ID; REAP_TOKEN, a project access token with the role
Maintainer and the scopes read_api and manage_runner; REAP_HOURS.
"""

import math
import os
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from delivery.errors import GitLabError, command
from delivery.gitlab.client import GitLab, Refused, asking

PREFIX = "cml-"
LEAST = 2.0  # hours after which GitLab calls a runner offline
GONE = 404
UNSEEN = (
    "Whether their machines still run can not be seen from here: look for them in the cloud, by "
    "these names."
)


class Runner(NamedTuple):
    """A runner that was left behind, or may have been."""

    id: int
    name: str
    silent: float | None
    """Hours since GitLab last heard of it, or since it was made; None when it is not known."""
    projects: int

    def __str__(self) -> str:
        """The runner, for people."""
        since = "silent for ever" if self.silent is None else f"silent for {self.silent:.1f} hours"
        return f"{self.name} (#{self.id}, {since})"

    def kept(self, hours: float) -> str:
        """Why it is left alone; empty when it is not."""
        if self.projects > 1:
            return f"{self.projects} projects use it"
        if self.silent is None:
            return "GitLab does not say since when it is there"
        return "" if self.silent > hours else f"that is not more than {hours:g}"


@command
def main() -> None:
    """Delete what was left behind."""
    parser = ArgumentParser(
        prog="python -m delivery.reap",
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dry-run", action="store_true", help="say which, and delete nothing")
    dry = parser.parse_args().dry_run
    hours, lab = read_hours(), open_gitlab()
    found = list(left_behind(lab, datetime.now(UTC)))
    lost = [runner for runner in found if not runner.kept(hours)]
    for runner in found:
        if reason := runner.kept(hours):
            print(f"left alone: {runner}: {reason}")
    refused = [] if dry else [error for runner in lost if (error := unregister(lab, runner))]
    if dry:
        print("\n".join(f"would be deleted: {runner}" for runner in lost) or "nothing to delete")
    elif not lost:
        print("reap: no runner was left behind")
    else:
        print(f"reap: {len(lost) - len(refused)} of {len(lost)} deleted. {UNSEEN}")
    if refused:
        raise GitLabError("; ".join(refused))


def read_hours() -> float:
    """For how long a runner has to be silent.

    Raises:
        GitLabError: REAP_HOURS is no such number.
    """
    text = os.environ.get("REAP_HOURS") or str(LEAST)
    try:
        hours = float(text)
    except ValueError:
        hours = math.nan
    if not LEAST <= hours < math.inf:
        raise GitLabError(
            f"REAP_HOURS: {text[:32]!a} is no number of hours from {LEAST:g} on: GitLab notices "
            "only after two that a runner is silent"
        )
    return hours


def open_gitlab() -> GitLab:
    """The project, with the reaper's own token: the bot's may not touch runners.

    Raises:
        GitLabError: a variable is missing.
    """
    return GitLab.from_environment(
        "REAP_TOKEN",
        "is a project access token with the role Maintainer and the scopes read_api and "
        "manage_runner, in a masked and protected variable",
    )


def left_behind(lab: GitLab, now: datetime) -> Iterator[Runner]:
    """Runners that CML has made for this project and that are not online, by their ids.

    Raises:
        GitLabError: GitLab refuses.
    """
    runners = lab.project.manager.gitlab.runners
    with asking("listing the runners of the project"):
        rows = lab.project.runners.list(type="project_type", get_all=True)
    for row in sorted(rows, key=lambda row: int(row.id)):
        if row.attributes.get("online") or row.attributes.get("status") == "online":
            continue
        try:
            with asking(f"looking at runner {row.id}"):
                details = runners.get(row.id).attributes
        except Refused as refused:
            if refused.status == GONE:  # somebody was faster
                continue
            raise
        names = [details.get("description") or "", *details.get("tag_list", [])]
        if any(name.startswith(PREFIX) for name in names) and not details.get("online"):
            yield _runner(details, now)


def _runner(details: dict[str, Any], now: datetime) -> Runner:
    heard = _time(details.get("contacted_at") or details.get("created_at"))
    silent = (now - heard).total_seconds() / 3600 if heard else None
    name = "".join(letter for letter in details["description"] or "" if letter.isprintable())
    return Runner(details["id"], name[:128], silent, len(details.get("projects", [])))


def _time(text: Any) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def unregister(lab: GitLab, runner: Runner) -> str:
    """Delete a runner; why not, when GitLab refuses."""
    try:
        with asking(f"deleting {runner.name} (#{runner.id})"):
            lab.project.manager.gitlab.runners.delete(runner.id)
    except Refused as refused:
        if refused.status != GONE:
            return str(refused)
    print(f"deleted: {runner}", flush=True)
    return ""


if __name__ == "__main__":
    main()
