"""Command: delete the tags of old experiments whose merge request is merged or closed.

    python -m delivery.retention --days 90             list them
    python -m delivery.retention --days 90 --apply     delete them from origin, all or none

A tag stays if a registered version has its model. The models stay in the DVC remote:
docs/gitlab-setup.md says how a person deletes those that no branch or tag names any more.

Environment: in a job BOT_TOKEN and what GitLab sets; elsewhere GITLAB_TOKEN, with the scope
read_api, for the project of the remote origin.
"""

import os
import time
from argparse import ArgumentTypeError
from collections.abc import Iterator, Mapping

from contracts import commands
from contracts.tags import Experiment, match_tag
from delivery.errors import GitLabError, command
from delivery.git import ORIGIN, Repository
from delivery.gitlab.address import locate, of_origin
from delivery.gitlab.client import GitLab, asking
from delivery.registry.registry import Registry, open_registry
from delivery.registry.state import model_digest

DAYS = 90
DAY = 86400  # seconds
TOKEN = "GITLAB_TOKEN"
TAGS = "refs/tags/experiment/*"


@command
def main() -> None:
    """List, and with `--apply` delete."""
    parser = commands.parser("delivery.retention", __doc__)
    parser.add_argument("--days", type=_days, default=DAYS, help=f"age of a tag (default {DAYS})")
    parser.add_argument("--apply", action="store_true", help="delete the tags")
    options = parser.parse_args()
    repository, registry = Repository(), open_registry()
    states = _states(_gitlab())
    registry.sync()
    repository.git("fetch", "--quiet", "--prune", "--end-of-options", ORIGIN, f"+{TAGS}:{TAGS}")
    old = list(old_tags(registry, states, time.time() - options.days * DAY))
    print("\n".join(old), end="\n" if old else "")
    if options.apply and old:
        repository.push(*(f":refs/tags/{tag}" for tag in old))
        repository.git("tag", "--delete", *old)
    done = "are deleted" if options.apply else "would be deleted: make retention APPLY=1"
    print(f"retention: {len(old)} tags {done}")


def _days(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 36500:
        raise ArgumentTypeError(f"{text[:32]!a} is not a number of days from 1: write DAYS={DAYS}")
    return int(text)


def _gitlab() -> GitLab:
    if "CI_PROJECT_ID" in os.environ:
        return GitLab.from_environment()
    cure = f"git remote set-url {ORIGIN} https://gitlab.example.com/team/name"
    url, path = locate(*of_origin(cure))
    if not (token := os.environ.get(TOKEN, "")):
        raise GitLabError(
            f"{TOKEN}: not set: create a token with the scope read_api at "
            f"{url}/-/user_settings/personal_access_tokens"
        )
    return GitLab(url, path, token, TOKEN)


def _states(gitlab: GitLab) -> dict[int, str]:
    """Number of a merge request -> its state."""
    with asking("listing merge requests"):
        return {row.iid: row.state for row in gitlab.project.mergerequests.list(get_all=True)}


def old_tags(registry: Registry, states: Mapping[int, str], before: float) -> Iterator[str]:
    """The tags of experiments that go.

    Args:
        states: number of a merge request -> its state, as GitLab names it.
        before: Unix time before which a tag is old.
    """
    repository = registry.repository
    versions = registry.state().versions.values()
    released = {model_digest(repository, tag.commit) for tag in versions}
    times = repository.git("for-each-ref", "--format=%(refname:strip=2) %(creatordate:unix)", TAGS)
    made = dict(line.split() for line in times.splitlines())
    for name, commit in repository.tags("experiment/*").items():
        tag = match_tag(name)
        if not isinstance(tag, Experiment) or float(made[name]) >= before:
            continue
        is_over = states.get(tag.merge_request) in ("merged", "closed")
        if is_over and model_digest(repository, commit) not in released:
            yield name


if __name__ == "__main__":
    main()
