"""Command: roll out a version to a stage, and roll back if the stage does not serve it.

    python -m delivery.rollout staging --version landcover@v1.2.0 \\
        --image registry/name@sha256:... --url https://landcover-staging.example.com

Applies `k8s/overlays/<stage>`, waits until every pod is new, and runs the smoke test of
`delivery.smoke`. If any step fails, the last version that passed is restored and the exit code is
1. A stage that already serves the version is left alone. The outcome is written to
artifacts/rollout/<stage>.json.

Environment: SERVICE_URL (for --url), SMOKE_TOKEN, KUBE_CONTEXT (kubectl's context).
"""

import os
from argparse import Namespace

from contracts import commands
from contracts.tags import STAGES
from delivery.errors import RolloutError, command
from delivery.rollout.controller import RESULTS, RolloutRequest, roll_out
from delivery.rollout.manifests import parse_image
from delivery.rollout.smoke_test import SmokeTest, add_arguments, expectation
from delivery.tags import parse_stage, parse_version


@command
def main() -> None:
    """Roll out a version to a stage."""
    parser = commands.parser("delivery.rollout", __doc__)
    parser.add_argument("stage", help=f"one of {', '.join(STAGES)}")
    parser.add_argument("--image", required=True, help="the version's image, name@sha256:...")
    parser.add_argument("--url", default="", help="address of the stage (SERVICE_URL)")
    add_arguments(parser)
    parser.add_argument(
        "--timeout",
        type=float,
        help="seconds until every pod is new (600, with Argo Rollouts 2400)",
    )
    parser.add_argument("--allow-older", action="store_true", help="go back to an older version")
    request = read_request(parser.parse_args())
    outcome = roll_out(request, os.environ.get("KUBE_CONTEXT", ""))
    print(f"{outcome.result} in {outcome.seconds:g} s: {RESULTS / f'{request.stage}.json'}")


def read_request(arguments: Namespace) -> RolloutRequest:
    """Check the arguments.

    Raises:
        DeliveryError: one of them is invalid.
    """
    version = parse_version(arguments.version)
    url = arguments.url or os.environ.get("SERVICE_URL", "")
    if not url:
        raise RolloutError("url: not set: give the address of the stage by --url or SERVICE_URL")
    expected = expectation(version.tag, arguments.sha256, arguments.bundle)
    token = os.environ.get("SMOKE_TOKEN", "")
    SmokeTest(url, expected, token)  # reject a bad address or token before anything changes
    return RolloutRequest(
        stage=parse_stage(arguments.stage),
        version=version,
        image=parse_image(arguments.image),
        url=url,
        expected=expected,
        token=token,
        limit=arguments.limit,
        timeout=arguments.timeout,
        allow_older=arguments.allow_older,
    )


if __name__ == "__main__":
    main()
