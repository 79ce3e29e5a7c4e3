"""Command: a release of GitLab for a registered version, with its model card and links.

    python -m delivery.release_notes landcover@v1.2.0

It uses the token of the job (CI_JOB_TOKEN), which may do what the person who merged may: create
the protected tag's release. A release that is there already is left alone. Whatever is missing or
refused is one sentence in the log and never a failed job.
"""

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from contracts import commands
from delivery.errors import GitLabError, command
from delivery.gitlab.best_effort import best_effort
from delivery.gitlab.client import Refused, asking, connect
from delivery.model_card import compose
from delivery.registry.registry import open_registry
from delivery.tags import parse_version

IMAGE = Path("artifacts/image/image.json")
ADDRESS = Path("artifacts/model-version.txt")  # written by delivery.tracking
VARIABLES = ("CI_SERVER_URL", "CI_PROJECT_ID", "CI_JOB_TOKEN")


@command
def main() -> None:
    """Create the release."""
    parser = commands.parser("delivery.release_notes", __doc__)
    parser.add_argument("version")
    version = parser.parse_args().version
    best_effort("release", lambda: release(version))


def release(text: str) -> str:
    """Create the release of a version; returns a sentence.

    Raises:
        GitLabError: GitLab refuses, or cannot be reached.
    """
    if missing := [name for name in VARIABLES if not os.environ.get(name)]:
        raise GitLabError(f"{', '.join(missing)}: not set; GitLab sets them in a job")
    registry = open_registry()
    registry.sync()
    version = registry.find(parse_version(text, registry.name).tag)
    url, project, token = (os.environ[name] for name in VARIABLES)
    client = connect(url, token, "CI_JOB_TOKEN", kind="job_token")
    notes, image = compose(registry, version), _image()
    if image:
        notes += f"\nImage: `{image}`\n"
    fields: dict[str, Any] = {"tag_name": version.tag, "name": version.tag, "description": notes}
    fields["assets"] = {"links": _links(image)}
    try:
        with asking(f"creating the release {version.tag}"):
            client.http_post(f"/projects/{quote(project, safe='')}/releases", post_data=fields)
    except Refused as refused:
        if refused.status == 409:
            return f"{version.tag} has a release already"
        if refused.status == 403:
            raise GitLabError(
                f"{version.tag} is a protected tag, and whoever started this pipeline may not "
                "create it: let a maintainer merge"
            ) from None
        raise
    return f"{version.tag} is under Deploy > Releases"


def _image() -> str:
    """`name@sha256:...` of the image that this pipeline pushed; empty if it is not known."""
    try:
        return str(json.loads(IMAGE.read_text(encoding="utf-8"))["reference"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _links(image: str) -> list[dict[str, str]]:
    links = []
    if ADDRESS.exists() and (address := ADDRESS.read_text(encoding="utf-8").strip()):
        links.append({"name": "Model version", "url": address, "link_type": "package"})
    project = os.environ.get("CI_PROJECT_URL", "")
    if image and project:
        address = f"{project}/container_registry"
        links.append({"name": "Image", "url": address, "link_type": "image"})
    return links


if __name__ == "__main__":
    main()
