"""The pod of a stage, as cluster.py starts it: the real image in podman, as a cluster runs it.

Environment: IMAGE, PORT, the pod's SERVICE_ variables, and BROKEN, a tag whose pod does not start.
"""

import os
import sys

from tests.e2e import containers


def main() -> None:
    """Become podman."""
    settings = {key: value for key, value in os.environ.items() if key.startswith("SERVICE_")}
    if settings.get("SERVICE_TAG") == os.environ.get("BROKEN"):
        sys.exit(f"{settings['SERVICE_TAG']} does not start: the story says so")
    settings.pop("SERVICE_STATE", None)
    variables = [f"--env={key}={value}" for key, value in settings.items()]
    words = ["podman", "run", "--rm", "--tls-verify=false", *containers.RUN]
    words += [*containers.LOCKED, *variables, os.environ["IMAGE"]]
    os.execvpe(words[0], words, containers.environment())


if __name__ == "__main__":
    main()
