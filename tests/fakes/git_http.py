"""A Git server over HTTP that asks for user and password: Git's own `git http-backend` behind it.

True to GitLab: Basic authentication, 401 with a challenge for none and for a wrong or expired
token, 403 for one without the right. Not true: everything else, such as pushes.
"""

import base64
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from tests.fakes import http

DENIED = (
    b"HTTP Basic: Access denied. If a password was provided for Git authentication, it was wrong."
)


@dataclass
class GitServer:
    """What the server admits, and what it was asked."""

    root: Path
    """Folder of the repositories: `<name>/.git` is `<address>/<name>/.git`."""
    user: str = "gitlab+deploy-token-1"
    token: str = "gldt-first-one"
    forbidden: bool = False
    """The token is right, and may not read the repository."""
    shown: list[str] = field(default_factory=list)
    """The credentials of each request, `user:token`; empty if there were none."""


class Handler(http.Handler[GitServer]):
    """Admits requests, and gives them to Git."""

    def do_GET(self) -> None:
        body = self.content()
        kind, _, value = self.headers.get("Authorization", "").partition(" ")
        shown = base64.b64decode(value).decode() if kind == "Basic" else ""
        self.state.shown.append(shown)
        if shown != f"{self.state.user}:{self.state.token}":
            challenge = {"WWW-Authenticate": 'Basic realm="GitLab"'}
            self.reply(401, DENIED, "text/plain", challenge)
        elif self.state.forbidden:
            self.reply(403, b"You are not allowed to download code from this project.")
        else:
            self.give_to_git(body)

    do_POST = do_GET

    def give_to_git(self, body: bytes) -> None:
        parts = urlsplit(self.path)
        variables = {
            "GIT_PROJECT_ROOT": str(self.state.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": parts.path,
            "QUERY_STRING": parts.query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        done = subprocess.run(
            ["git", "http-backend"],
            input=body,
            capture_output=True,
            env=os.environ | variables,
            check=True,
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        status = int(headers.pop("Status", "200").split()[0])
        self.reply(status, content, headers.pop("Content-Type"), headers)


@contextmanager
def serving(root: Path) -> Iterator[tuple[str, GitServer]]:
    """Run it for the repositories below a folder; gives its address, and what it admits."""
    state = GitServer(root)
    with http.serving(Handler, state) as url:
        yield url, state
