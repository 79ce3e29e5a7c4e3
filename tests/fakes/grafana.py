"""A Grafana on loopback, as far as the acceptance speaks to it.

True to Grafana 11.6 to 13.2 by its documentation and source: /api/health needs no token and has the
version; an unknown token is 401, a role that may not 403 with the missing permission; a viewer
reads settings and queries, an editor makes folders and dashboards. A folder's uid is used once
(409), a dashboard needs a title, a uid of 40 known characters, a folder that is there, and
`overwrite` to replace one (412); a deleted folder takes its dashboards along. /api/ds/query wants a
data source that is there (404); one failed query makes the answer 400, and its result has the
error; NaN travels as null. Not true: PromQL. What a query gives is up to the test: `answer`.
"""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tests.fakes.http import Handler, serving

Document = dict[str, Any]
EDITOR, VIEWER = "glsa_editor", "glsa_viewer"
NEEDED = "You'll need additional permissions to perform this action. Permissions needed: "
SOURCES = {
    "-- Grafana --": {"type": "datasource", "uid": "grafana"},
    "Prometheus": {"type": "prometheus", "uid": "PBFA97CFB590B2093"},
    "Loki": {"type": "loki", "uid": "loki"},
}


class BadQuery(Exception):
    """Prometheus refuses an expression."""


def one(expr: str) -> list[float | None]:
    """The answer of a busy service: every expression has a number."""
    return [1.0]


@dataclass
class Grafana:
    """What it has, what it was asked, and what goes wrong."""

    version: str = "13.2.3"
    sources: dict[str, Document] = field(default_factory=lambda: dict(SOURCES))
    default: str = "Prometheus"
    answer: Callable[[str], list[float | None]] = one
    folders: set[str] = field(default_factory=set)
    dashboards: dict[str, Document] = field(default_factory=dict)
    """uid -> what was posted."""
    exprs: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    """Methods and paths of what changed something, refused or not."""
    trouble: dict[str, int] = field(default_factory=dict)
    """Beginning of a method and path -> the status that it gets, or 0: no answer."""
    released: threading.Event = field(default_factory=threading.Event)
    """Ends what hangs."""


class Answer(Handler[Grafana]):
    """Answers a request."""

    def do_GET(self) -> None:
        """Health, settings, a dashboard."""
        path = urlsplit(self.path).path
        if self.troubled():
            return
        if path == "/api/health":
            found = {"commit": "0123456", "database": "ok", "version": self.state.version}
            self.json(200, {key: value for key, value in found.items() if value})
        elif not self.role():
            self.json(401, {"message": "Invalid API key", "messageId": "api-key.invalid"})
        elif path == "/api/frontend/settings":
            self.json(
                200, {"datasources": self.state.sources, "defaultDatasource": self.state.default}
            )
        elif path.startswith("/api/dashboards/uid/"):
            posted = self.state.dashboards.get(path.rpartition("/")[2])
            if posted is None:
                self.json(404, {"message": "Dashboard not found"})
            else:
                meta = {"folderUid": posted["folderUid"]}
                self.json(200, {"dashboard": posted["dashboard"], "meta": meta})
        else:
            self.json(404, {"message": "Not found"})

    def do_POST(self) -> None:
        """A folder, a dashboard, a query."""
        path, body = urlsplit(self.path).path, json.loads(self.content())
        if path != "/api/ds/query":
            self.state.changes.append(f"POST {path}")
        if self.troubled():
            return
        if path == "/api/ds/query" and self.role():
            self.query(body)
        elif self.may("folders:create" if path == "/api/folders" else "dashboards:create"):
            {"/api/folders": self.folder, "/api/dashboards/db": self.dashboard}[path](body)

    def do_DELETE(self) -> None:
        """A folder with what is in it, or a dashboard."""
        path = urlsplit(self.path).path
        self.state.changes.append(f"DELETE {path}")
        uid = path.rpartition("/")[2]
        if self.troubled() or not self.may("folders:delete"):
            return
        dashboards = self.state.dashboards
        if path.startswith("/api/folders/") and uid in self.state.folders:
            self.state.folders.remove(uid)
            for name in [name for name, it in dashboards.items() if it["folderUid"] == uid]:
                del dashboards[name]
        elif path.startswith("/api/dashboards/uid/") and uid in dashboards:
            del dashboards[uid]
        else:
            self.json(404, {"message": "not found", "status": "not-found"})
            return
        self.json(200, {"message": "deleted"})

    def folder(self, body: Document) -> None:
        """Make a folder."""
        if body["uid"] in self.state.folders:
            self.json(409, {"message": "a folder/dashboard with the same uid already exists"})
            return
        self.state.folders.add(body["uid"])
        self.json(200, {"id": 7, "uid": body["uid"], "title": body["title"], "version": 1})

    def dashboard(self, body: Document) -> None:
        """Store a dashboard."""
        document = body["dashboard"]
        uid = document.get("uid", "")
        if not document.get("title"):
            self.json(400, {"message": "Dashboard title cannot be empty", "status": "empty-name"})
        elif len(uid) > 40:
            self.json(400, {"message": "uid too long, max 40 characters"})
        elif not re.fullmatch(r"[a-zA-Z0-9_-]*", uid):
            self.json(400, {"message": "uid contains illegal characters"})
        elif body.get("folderUid") not in self.state.folders:
            self.json(404, {"message": "Folder not found"})
        elif uid in self.state.dashboards and not body.get("overwrite"):
            changed = "The dashboard has been changed by someone else"
            self.json(412, {"message": changed, "status": "version-mismatch"})
        else:
            self.state.dashboards[uid] = body
            self.json(200, {"id": 8, "uid": uid, "status": "success", "version": 1})

    def query(self, body: Document) -> None:
        """Ask what the test says."""
        uids = {source["uid"] for source in self.state.sources.values()}
        results = {}
        for query in body["queries"]:
            if query["datasource"]["uid"] not in uids:
                self.json(404, {"message": "Data source not found"})
                return
            self.state.exprs.append(query["expr"])
            results[query["refId"]] = self.result(query)
        failed = any("error" in result for result in results.values())
        self.json(400 if failed else 200, {"results": results})

    def result(self, query: Document) -> Document:
        """The result of one query."""
        try:
            values = self.state.answer(query["expr"])
        except BadQuery as error:
            return {"error": str(error), "errorSource": "downstream", "status": 400}
        fields = [{"name": "Time", "type": "time"}, {"name": "Value", "type": "number"}]
        data = {"values": [[1700000000000] * len(values), values] if values else []}
        frames = [{"schema": {"refId": query["refId"], "fields": fields}, "data": data}]
        return {"status": 200, "frames": frames if values else []}

    def role(self) -> str:
        """Of the token; empty for one that is not known."""
        given = self.headers.get("Authorization", "")
        return {f"Bearer {EDITOR}": "Editor", f"Bearer {VIEWER}": "Viewer"}.get(given, "")

    def may(self, permission: str) -> bool:
        """Whether the token may change something; it has been refused if not."""
        role = self.role()
        if not role:
            self.json(401, {"message": "Invalid API key", "messageId": "api-key.invalid"})
        elif role != "Editor":
            self.json(403, {"title": "Access denied", "message": NEEDED + permission})
        return role == "Editor"

    def troubled(self) -> bool:
        """Whether the test has something go wrong; then it has been answered."""
        named = [it for it in self.state.trouble if f"{self.command} {self.path}".startswith(it)]
        if not named:
            return False
        status = self.state.trouble[named[0]]
        if status == 0:
            self.state.released.wait(10)
            self.close_connection = True
        elif status == 302:
            self.reply(302, headers={"Location": "https://login.example.com/"})
        else:
            self.json(status, {"message": "trouble"})
        return True

    def json(self, status: int, document: Document) -> None:
        """Answer with JSON."""
        self.reply(status, json.dumps(document).encode())


@contextmanager
def grafana(state: Grafana) -> Iterator[str]:
    """Run it until the block ends; gives its address."""
    with serving(Answer, state) as url:
        try:
            yield url
        finally:
            state.released.set()
