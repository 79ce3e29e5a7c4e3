"""GitLab's API as commands need it: a client, its errors, and the comments of a merge request.

python-gitlab speaks to GitLab; here its errors become sentences with a cure, and a network that
fails for a moment is tried again (not for what would then be made twice).
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gitlab
import requests
from urllib3.util import Retry

from delivery.errors import GitLabError

TIMEOUT = 30.0  # seconds until GitLab must have begun to answer
RETRIES = Retry(3, backoff_factor=0.3, status_forcelist=(502, 503, 504), raise_on_status=False)
TOKEN = re.compile(r"[!-~]+")

BOT = "comes from `make gitlab-setup` (docs/gitlab-setup.md)"
NOTES_SEEN_BY_CML = 20
"""CML 0.20.6 looks for its comment on the first page of a merge request's notes, newest first."""


class GitLab:
    """One project on a GitLab. Every method raises GitLabError with what GitLab said."""

    def __init__(self, url: str, project: str, token: str, called: str = "the token") -> None:
        self._client = connect(url, token, called)
        self.project = self._client.projects.get(project, lazy=True)

    @classmethod
    def from_environment(cls, token: str = "BOT_TOKEN", what: str = BOT) -> "GitLab":
        """The project of the job, as the bot or whose token a variable has.

        Raises:
            GitLabError: a variable is missing; `what` says where the token comes from.
        """
        names = ("CI_SERVER_URL", "CI_PROJECT_ID", token)
        missing = [name for name in names if not os.environ.get(name)]
        if missing:
            raise GitLabError(
                f"{', '.join(missing)}: not set. GitLab sets CI_... in a job; {token} {what}"
            )
        url, project, secret = (os.environ[name] for name in names)
        return cls(url, project, secret, token)

    def drop_buried_comment(self, iid: int, mark: str) -> int:
        """Delete the comment with a mark when so many came after it that CML would miss it.

        CML would write a second one then; so it writes the only one. Returns how many went.
        """
        with asking(f"listing the comments of merge request !{iid}"):
            merge_request = self.project.mergerequests.get(iid, lazy=True)
            notes = merge_request.notes.list(get_all=True, order_by="created_at", sort="desc")
            buried = [note for note in notes[NOTES_SEEN_BY_CML:] if mark in note.body]
        with asking(f"deleting an outdated comment of merge request !{iid}"):
            for note in buried:
                note.delete()
        return len(buried)


class Refused(GitLabError):
    """GitLab answered, and the answer was no."""

    def __init__(self, message: str, status: int | None) -> None:
        super().__init__(message)
        self.status = status


def connect(url: str, token: str, called: str = "the token") -> gitlab.Gitlab:
    """A client that tries again when a request can be repeated without harm.

    Args:
        called: what a message calls the token, such as the name of its variable.

    Raises:
        GitLabError: the URL is none, or the token.
    """
    if not url.startswith(("http://", "https://")):
        raise GitLabError(f"URL of GitLab: {url!a} is none: write https://gitlab.example.com")
    if not TOKEN.fullmatch(token):  # no header takes it, and what says so would show it
        raise GitLabError(
            f"{called}: no token has spaces, ends of lines or letters beyond ASCII "
            "(it is not shown): copy it again"
        )
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=RETRIES))
    return gitlab.Gitlab(
        url, private_token=token, timeout=TIMEOUT, session=session, keep_base_url=True
    )


@contextmanager
def asking(doing: str) -> Iterator[None]:
    """Turn what goes wrong while asking GitLab into a sentence.

    Raises:
        Refused: GitLab's answer was no.
        GitLabError: GitLab can not be reached.
    """
    try:
        yield
    except gitlab.exceptions.GitlabError as error:
        raise Refused(f"{doing}: {explained(error)}", error.response_code) from None
    except requests.RequestException as error:
        raise GitLabError(
            f"{doing}: GitLab can not be reached ({type(error).__name__}): "
            "look at its URL, the network and its certificate"
        ) from None


def explained(error: gitlab.exceptions.GitlabError) -> str:
    """What GitLab's answer means, with the cure."""
    if isinstance(error, gitlab.exceptions.GitlabParsingError):
        return "the answer is not that of a GitLab: check the address"
    scope = _missing_scope(error.response_body)
    if scope:
        return f"the token lacks the scope {scope!a}: make one that has it"
    if error.response_code == 401:
        return "GitLab does not know the token: it is wrong, expired or revoked; make a new one"
    if error.response_code == 403:
        return "the token's role is too low: it needs Maintainer to set up, Developer in jobs"
    if error.response_code == 404:
        return "there is no such thing, or the token can not see it: check project and token"
    status = f"{error.response_code}: " if error.response_code else ""
    return f"GitLab answered {status}{_plain(error.error_message)}"


def _missing_scope(body: bytes | None) -> str:
    try:
        answer = json.loads(body or b"")
    except ValueError:
        return ""
    refused = isinstance(answer, dict) and answer.get("error") == "insufficient_scope"
    # "api read_api": either would do, the first is what is needed to change something.
    return str(answer.get("scope") or "api").split()[0] if refused else ""


def _plain(message: Any) -> str:
    """An answer in one printable line; GitLab's messages are texts, lists or mappings."""
    if isinstance(message, bytes):
        message = message.decode(errors="replace")
    if isinstance(message, list):
        message = "; ".join(map(str, message))
    if isinstance(message, dict):
        message = "; ".join(f"{field}: {_plain(said)}" for field, said in message.items())
    line = " ".join(str(message).split())
    return "".join(letter if letter.isprintable() else " " for letter in line)[:300]
