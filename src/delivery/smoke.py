"""Command: verify that an address serves a version.

    python -m delivery.smoke https://landcover.example.com --version landcover@v1.2.0
    python -m delivery.smoke URL --version landcover@v1.2.0 --bundle model    its golden chips too

Checks that the service is ready, that every worker has the right tag and digest, and that known
chips are classified correctly. A failed check is repeated until the time limit. `SMOKE_TOKEN` is
the key or token, with the roles `predict` and, without --bundle, `view`.
"""

import os

from contracts import commands
from delivery.errors import command
from delivery.rollout.smoke_test import SmokeTest, add_arguments, expectation
from delivery.tags import parse_version


@command
def main() -> None:
    """Check one address."""
    parser = commands.parser("delivery.smoke", __doc__)
    parser.add_argument("url", help="address to check")
    add_arguments(parser)
    arguments = parser.parse_args()
    tag = parse_version(arguments.version).tag
    expected = expectation(tag, arguments.sha256, arguments.bundle)
    SmokeTest(arguments.url, expected, os.environ.get("SMOKE_TOKEN", "")).run(arguments.limit)


if __name__ == "__main__":
    main()
