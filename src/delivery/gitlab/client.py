"""Client of GitLab's API: its errors become sentences with a cure; idempotent requests are retried.

python-gitlab sends the requests.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import gitlab
import requests
from gitlab.v4.objects import CurrentUser
from urllib3.util import Retry

from contracts.proxies import missing_certificates
from delivery.errors import GitLabError

TIMEOUT = 30.0  # seconds until GitLab must have started its response
RETRIES = Retry(3, backoff_factor=0.3, status_forcelist=(502, 503, 504), raise_on_status=False)
TOKEN = re.compile(r"[!-~]+")
TokenKind = Literal["private_token", "oauth_token", "job_token"]

NOTES_SEEN_BY_CML = 20
"""CML 0.20.6 searches its comment on the first page of a merge request's notes, newest first."""
WATERMARK = r'!\[\]\(https://cml\.dev/watermark\.png#[0-9a-fA-F]+ "CML watermark {}"\)'
"""What it searches for, with the title of the comment; whoever wrote the note."""


class Comments(NamedTuple):
    """The comments of a merge request that have a watermark of CML."""

    own: list[int]
    """Ids of those that the token's user wrote."""
    chosen: int | None
    """Id of the one that CML would renew, whoever wrote it."""
    state: str
    """State of the merge request: opened, closed, locked or merged."""


class GitLab:
    """One project on a GitLab. Every method raises GitLabError with GitLab's message."""

    def __init__(self, url: str, project: str, token: str, called: str = "the token") -> None:
        self._client = connect(url, token, called)
        self.project = self._client.projects.get(project, lazy=True)

    @classmethod
    def from_environment(cls, token: str = "BOT_TOKEN") -> "GitLab":
        """The project of the job, as the bot.

        Args:
            token: variable with the token.

        Raises:
            GitLabError: a variable is missing.
        """
        names = ("CI_SERVER_URL", "CI_PROJECT_ID", token)
        missing = [name for name in names if not os.environ.get(name)]
        if missing:
            raise GitLabError(
                f"{', '.join(missing)}: not set. GitLab sets CI_... in a job; BOT_TOKEN comes from "
                "`make gitlab-setup` (docs/gitlab-setup.md)"
            )
        url, project, secret = (os.environ[name] for name in names)
        return cls(url, project, secret, token)

    def user(self) -> tuple[str, str]:
        """Name and address of the token's owner; push rules want commits of users of GitLab."""
        me = self._me()
        email = me.attributes.get("commit_email") or me.attributes.get("email")
        return str(me.name), str(email or "")

    def _me(self) -> CurrentUser:
        with asking("reading the user of the token"):
            self._client.auth()
        assert self._client.user is not None
        return self._client.user

    def comments(self, iid: int, title: str) -> Comments:
        """The comments of a merge request that have CML's watermark with a title."""
        mark = re.compile(WATERMARK.format(re.escape(title)))
        me = self._me()
        with asking(f"listing the comments of merge request !{iid}"):
            merge_request = self.project.mergerequests.get(iid)
            notes = merge_request.notes.list(get_all=True, order_by="created_at", sort="desc")
        marked = [note.id for note in notes if mark.search(note.body)]
        mine = {note.id for note in notes if note.author["username"] == me.username}
        seen = {note.id for note in notes[:NOTES_SEEN_BY_CML]}
        return Comments(
            [number for number in marked if number in mine],
            next((number for number in reversed(marked) if number in seen), None),
            merge_request.state,
        )

    def delete_comments(self, iid: int, numbers: Iterable[int]) -> None:
        """Delete comments of a merge request."""
        merge_request = self.project.mergerequests.get(iid, lazy=True)
        with asking(f"deleting an outdated comment of merge request !{iid}"):
            for number in numbers:
                merge_request.notes.delete(number)


class Refused(GitLabError):
    """GitLab responded with an error."""

    def __init__(self, message: str, status: int | None) -> None:
        super().__init__(message)
        self.status = status


def connect(
    url: str, token: str, called: str = "the token", kind: TokenKind = "private_token"
) -> gitlab.Gitlab:
    """A client that retries idempotent requests.

    Args:
        called: name of the token in messages, such as its variable.
        kind: how it is sent: as PRIVATE-TOKEN, as `Authorization: Bearer`, or as JOB-TOKEN.

    Raises:
        GitLabError: the URL or the token is malformed.
    """
    if not url.startswith(("http://", "https://")):
        raise GitLabError(f"URL of GitLab: {url!a} is not a URL: write https://gitlab.example.com")
    if not TOKEN.fullmatch(
        token
    ):  # a header cannot carry it, and the error of the library would show it
        raise GitLabError(
            f"{called}: a token has no spaces, line breaks or characters beyond ASCII "
            "(it is not shown): copy it again"
        )
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=RETRIES))
    return gitlab.Gitlab(
        url,
        private_token=token if kind == "private_token" else None,
        oauth_token=token if kind == "oauth_token" else None,
        job_token=token if kind == "job_token" else None,
        timeout=TIMEOUT,
        session=session,
        keep_base_url=True,
    )


@contextmanager
def asking(doing: str) -> Iterator[None]:
    """Turn the errors of requests to GitLab into sentences.

    Raises:
        Refused: GitLab responded with an error.
        GitLabError: GitLab cannot be reached.
    """
    try:
        yield
    except gitlab.exceptions.GitlabError as error:
        raise Refused(f"{doing}: {explained(error)}", error.response_code) from None
    except requests.RequestException as error:
        raise GitLabError(
            f"{doing}: GitLab cannot be reached ({type(error).__name__}): "
            "check its URL, the network and its certificate"
        ) from None
    except OSError:
        if fault := missing_certificates():
            raise GitLabError(f"{doing}: {fault}") from None
        raise


def explained(error: gitlab.exceptions.GitlabError) -> str:
    """The meaning of GitLab's error, with the cure."""
    if isinstance(error, gitlab.exceptions.GitlabParsingError):
        return "the response is not GitLab's: check the address"
    scope = _missing_scope(error.response_body)
    if scope:
        return f"the token lacks the scope {scope!a}: create one that has it"
    if error.response_code == 401:
        return "GitLab does not know the token: it is wrong, expired or revoked; create a new one"
    if error.response_code == 403:
        return "the token's role is too low: it needs Maintainer to set up, Developer in jobs"
    if error.response_code == 404:
        return "not found, or not visible to the token: check project and token"
    status = f"{error.response_code}: " if error.response_code else ""
    return f"GitLab responded {status}{_plain(error.error_message)}"


def _missing_scope(body: bytes | None) -> str:
    try:
        answer = json.loads(body or b"")
    except ValueError:
        return ""
    refused = isinstance(answer, dict) and answer.get("error") == "insufficient_scope"
    # "api read_api": either suffices to read, the first to write.
    return str(answer.get("scope") or "api").split()[0] if refused else ""


def _plain(message: Any) -> str:
    """A message as one printable line; GitLab's messages are texts, lists or mappings."""
    if isinstance(message, bytes):
        message = message.decode(errors="replace")
    if isinstance(message, list):
        message = "; ".join(map(str, message))
    if isinstance(message, dict):
        message = "; ".join(f"{field}: {_plain(text)}" for field, text in message.items())
    line = " ".join(str(message).split())
    return "".join(letter if letter.isprintable() else " " for letter in line)[:300]
