"""A fake of GitLab's REST API (v4) on loopback: one project, kept in plain attributes.

What it keeps stands in state.py, what it answers in routes.py. Written from GitLab's
API documentation (18.x) and from what python-gitlab and CML 0.20.6 send.
True to the original:
- the paths below `/api/v4`, projects by number or by URL-encoded path, and the status codes: 401
  for an unknown token, 403 with `insufficient_scope` and the scope that is missing, 403 for a role
  that is too low, 404 for a project that the token cannot see, 409 or 400 for what exists;
- PRIVATE-TOKEN and bearer tokens; JSON, form and multipart bodies;
- pages of 20 with `X-Total...` and `Link` headers; notes newest first;
- masked values of 8 characters or more, without white space; hidden values that are never answered;
  protected environments as a Premium feature; project access tokens that only a person may make,
  and that work here as tokens too;
- files that were uploaded, in chunks or not, under the address that a comment names; a comment of
  more than a million characters is refused;
- whether a merge request may be merged, by the pipeline of its newest commit (state.merge_status);
- pipelines that the API starts on a branch, with variables, and the traces of their jobs
  (pipelines.py);
- model experiments, model registry (mlflow.py) and releases (releases.py), from GitLab's own code;
  a job's token by JOB-TOKEN, which only the releases take.
Left out: everything else, above all GitLab's own reactions (a test tells of a push, a merge moves
no branch, system notes are not written), users and groups, rate limits, and the
validation of most values. What it accepts, GitLab may still refuse.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.message import Message
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

from tests.fakes import http
from tests.fakes.gitlab import mlflow, pipelines, releases
from tests.fakes.gitlab.routes import answer
from tests.fakes.gitlab.state import NUMBER, PATH, Document, FakeGitLab, Refusal, Request

__all__ = ["NUMBER", "PATH", "FakeGitLab", "mlflow", "pipelines", "releases", "serving"]


class HTTPHandler(http.Handler[FakeGitLab]):
    """Reads a request, and writes what the routes answer."""

    def handle_any(self) -> None:
        api = self.state
        address = urlsplit(self.path)
        body, files = self.form()
        query = dict(parse_qsl(address.query, keep_blank_values=True))
        token, sent = self.credentials()
        request = Request(self.command, address.path, query, token, body, sent)
        api.meanwhile(request)
        with api.lock:
            api.requests.append(request)
            for (method, pattern), reply in api.broken.items():
                if method == request.method and re.search(pattern, request.path):
                    return self.reply(reply[0], reply[1])
            request.path = request.path.removeprefix(api.prefix)
            if not address.path.startswith(f"{api.prefix}/api/v4/"):
                return self.web(request.path)
            try:
                status, document = answer(api, request, files)
            except Refusal as refusal:
                status, document = refusal.status, refusal.document
        if isinstance(document, bytes):
            return self.reply(status, document, "text/plain")
        if isinstance(document, list) and self.command == "GET" and status == 200:
            return self.page(document, query)
        self.reply(status, b"" if status == 204 else json.dumps(document).encode())

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

    def credentials(self) -> tuple[str, str]:
        """The token, and how it was sent."""
        for header, sent in (("PRIVATE-TOKEN", "private"), ("JOB-TOKEN", "job")):
            if token := self.headers.get(header):
                return token, sent
        return self.headers.get("Authorization", "").removeprefix("Bearer "), "bearer"

    def form(self) -> tuple[Document, dict[str, tuple[str, bytes]]]:
        raw = self.content()
        kind = self.headers.get("Content-Type", "")
        if kind.startswith("multipart/form-data"):
            head = f"Content-Type: {kind}\r\n\r\n".encode()
            parts = message_from_bytes(head + raw).get_payload()
            assert isinstance(parts, list)
            return {}, dict(uploaded(part) for part in parts if isinstance(part, Message))
        if kind.startswith("application/x-www-form-urlencoded"):
            form = parse_qs(raw.decode(), keep_blank_values=True)
            return {name: values[-1] for name, values in form.items()}, {}
        if kind == "application/octet-stream":  # the body is the file, as Workhorse takes it
            return {}, {"file": ("file", raw)}
        return (json.loads(raw) if raw else {}), {}

    def web(self, path: str) -> None:
        """Serve uploaded files, as the browser of a reader asks for them."""
        link = path.removeprefix(f"/{PATH}").removeprefix(f"/-/project/{NUMBER}")
        found = self.state.uploads.get(link)
        self.reply(200 if found else 404, found or b"not found", "application/octet-stream")

    def page(self, rows: list[Any], query: dict[str, str]) -> None:
        size = min(int(query.get("per_page", 20)), 100)
        number = int(query.get("page", 1))
        pages = max(1, -(-len(rows) // size))
        headers = {"X-Page": number, "X-Per-Page": size, "X-Total": len(rows)}
        headers |= {"X-Total-Pages": pages}
        more: dict[str, Any] = {"X-Next-Page": number + 1 if number < pages else ""}
        if number < pages:
            following = urlencode(query | {"page": number + 1, "per_page": size})
            address = f"{self.state.url}{urlsplit(self.path).path}?{following}"
            more["Link"] = f'<{address}>; rel="next"'
        shown_rows = rows[(number - 1) * size : number * size]
        self.reply(200, json.dumps(shown_rows).encode(), headers=headers | more)


def uploaded(part: Message) -> tuple[str, tuple[str, bytes]]:
    """Field, file name and content of a part of a form."""
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    field_name = str(part.get_param("name", header="content-disposition"))
    return field_name, (part.get_filename() or "file", content)


@contextmanager
def serving(**state: Any) -> Iterator[FakeGitLab]:
    """Run the fake in a thread."""
    api = FakeGitLab(**state)
    with http.serving(HTTPHandler, api) as api.url:
        yield api
