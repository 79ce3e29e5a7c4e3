"""Runs CML, which uploads the pictures of a report and posts it as a comment of a merge request.

CML logs its errors as JSON with a stack; here they become a sentence with a cure.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from delivery.errors import ToolError, reason

INSTALL = "ci/install"
LIMIT = 900.0  # seconds; a link to a folder makes CML wait for ever
LARGEST = 900_000  # characters; CML refuses a million, and writes some as two
NO_NODE = 127  # exit code of `env` without the program

TOKEN = (
    "GitLab does not know the token: BOT_TOKEN is wrong, expired or revoked: make gitlab-setup "
    "APPLY=1 renews it (docs/gitlab-setup.md)"
)
ROLE = (
    "GitLab lets the bot write no comment: BOT_TOKEN needs the scope api and the role Developer "
    "(make gitlab-setup APPLY=1), and the discussion of the merge request has to be unlocked"
)
SIZE = (
    "the comment or a picture is too large for GitLab or a proxy before it: raise its limit "
    "(nginx: client_max_body_size), or make the report shorter"
)
CURES = (
    (r"\bUnauthorized\b", TOKEN),
    (r"\bForbidden\b", ROLE),
    (r"Request Entity Too Large|Payload Too Large|Content Too Large|Comment is too large", SIZE),
    (r"\btoken not found\b", "CML has no token: set BOT_TOKEN (docs/gitlab-setup.md)"),
    (
        r"unable to (verify|get)[a-z ]* certificate|self[- ]signed certificate|CERT_HAS_EXPIRED",
        "Node does not trust GitLab's certificate: set PRIVATE_CA_FILE to its CA, a variable of "
        "the type File (docs/gitlab-setup.md, Private CAs)",
    ),
    (
        r"magic-js\.wasm",
        "CML's picture library does not work with this Node: install the locked one with "
        "ci/install cml",
    ),
)


class Refused(ToolError):
    """CML ended with an error; `forbidden` and `too_large` are those with another way."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.forbidden, self.too_large = message == ROLE, message == SIZE


def require() -> None:
    """Check that CML is installed; a job of GitLab installs it.

    Not a step of the job before: if it fails there, no report is written.

    Raises:
        ToolError: CML is not installed, or cannot be.
    """
    if shutil.which("cml"):
        return
    if "CI_JOB_ID" not in os.environ:
        raise ToolError(
            "cml is not installed: npm ci --prefix ci/cml, and then make comment; it needs Node 18 "
            "to 22"
        )
    done = subprocess.run([INSTALL, "cml"], text=True, stderr=subprocess.PIPE, check=False)
    if done.returncode:
        raise ToolError(reason(done.stderr))


def comment(verb: str, file: Path, title: str, token: str) -> None:
    """Write a comment (`create`), or renew the one with the title (`update`).

    Raises:
        Refused: CML or GitLab refuses.
        ToolError: CML or Node is missing, or CML does not end.
    """
    environment = dict(os.environ) | {"REPO_TOKEN": token, "ITERATIVE_DO_NOT_TRACK": "true"}
    # Else CML takes the address of the remote, which may be another one than GitLab's.
    if "CI_PROJECT_URL" in os.environ:
        environment.setdefault("CML_REPO", os.environ["CI_PROJECT_URL"])
    environment.setdefault("CML_DRIVER", "gitlab")
    line = ["cml", "comment", verb, "--publish-native", f"--watermark-title={title}", file.name]
    try:
        done = subprocess.run(
            line,
            cwd=file.parent,
            env=environment,
            check=False,
            text=True,
            capture_output=True,
            timeout=LIMIT,
        )
    except subprocess.TimeoutExpired:
        raise ToolError(
            f"cml comment {verb} did not end in {LIMIT / 60:.0f} minutes: is there a link to a "
            f"folder in {file}, or no way to GitLab?"
        ) from None
    print(done.stdout, end="")
    if done.returncode:
        raise Refused(_explained(verb, done.returncode, done.stderr))


def _explained(verb: str, code: int, output: str) -> str:
    if code == NO_NODE:
        return "cml needs Node, which is missing: ci/install npm, or an image with Node 18 to 22"
    for pattern, sentence in CURES:
        if re.search(pattern, output, re.IGNORECASE):
            return sentence
    print(output, end="", file=sys.stderr)
    return f"cml comment {verb} ended with {code}: see above"
