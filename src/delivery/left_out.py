"""Command: show which parts of the pipeline are left out, because a variable is not set.

    python -m delivery.left_out

The rules in templates/ leave these parts out, and a green pipeline does not show it.
"""

import os

from contracts import commands
from delivery.errors import command

REQUEST = {
    "BOT_TOKEN": "nothing is committed, and there is no comment; the report is an artifact",
    "JOB_IMAGE": "each job installs its packages",
    "REVIEW_URL": "no review apps",
    "NOTIFY_URL": "no notifications",
}
"""Variable -> what a pipeline of a merge request leaves out without it."""

MAIN = {
    "RELEASE_TOKEN": "nothing is released",
    "BOT_TOKEN": "GitLab's model registry shows no versions",
    "CI_REGISTRY_IMAGE": "no image is built, and nothing is deployed",
    "STAGING_URL": "staging and production are not deployed",
    "PRODUCTION_URL": "production is not deployed",
    "NOTIFY_URL": "no notifications",
    "PUSHGATEWAY_URL": "no metrics are pushed",
}
"""The same for a pipeline of main; GitLab sets CI_REGISTRY_IMAGE where it has a registry."""


@command
def main() -> None:
    """Print a line for each variable that is not set."""
    commands.parser("delivery.left_out", __doc__).parse_args()
    is_request = os.environ.get("CI_PIPELINE_SOURCE") == "merge_request_event"
    for name, consequence in (REQUEST if is_request else MAIN).items():
        if not os.environ.get(name):
            print(f"left out: {name} is not set: {consequence} (docs/gitlab-setup.md)")


if __name__ == "__main__":
    main()
