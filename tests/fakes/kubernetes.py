"""A fake of the Kubernetes API: ConfigMaps of one namespace, on loopback.

True to the original: the paths, GET, POST and PATCH with a merge patch, the optimistic lock by
resourceVersion (409), Status bodies, bearer tokens (401), verbs that are not allowed (403), TLS.
Left out: everything else, such as PUT, DELETE, watches, lists, other kinds of patches, validation
of names and sizes, the quorum of etcd, admission, namespaces that do not exist, and RBAC by roles.
What it accepts, a real API server may still refuse.
"""

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.fakes import http

PREFIX = "/api/v1/namespaces/ml/configmaps"
REASONS = {401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 415: "UnsupportedMediaType"}

Document = dict[str, Any]


class FakeKubernetes:
    """The state of the API, which tests look into and disturb."""

    def __init__(self) -> None:
        self.configmaps: dict[str, Document] = {}
        self.tokens = {"token-1"}
        self.forbidden: set[str] = set()  # methods
        self.broken: tuple[int, bytes] | None = None  # status and body of every answer
        self.hanging = threading.Event()
        self.released = threading.Event()
        self.meanwhile: Callable[[str], None] = lambda method: None  # before a request is handled
        self.requests: list[tuple[str, str]] = []  # method, bearer token
        self._lock = threading.Lock()
        self._revision = 100
        self.url = ""

    def put(self, name: str, data: dict[str, str] | None, **metadata: Any) -> None:
        """Store a ConfigMap as somebody else would."""
        with self._lock:
            self._store(name, {"metadata": metadata} | ({"data": data} if data else {}))

    def answer(self, method: str, path: str, kind: str, body: Document) -> tuple[int, Document]:
        """Handle a request whose credentials are good; returns status and document."""
        name = path.removeprefix(PREFIX).lstrip("/")
        with self._lock:
            if method == "POST":
                return self._create(body)
            if name not in self.configmaps:
                return status(404, "NotFound")
            if method == "PATCH":
                return self._patch(name, kind, body)
            return 200, self.configmaps[name]

    def _create(self, body: Document) -> tuple[int, Document]:
        name = body["metadata"]["name"]
        if name in self.configmaps:
            return status(409, "AlreadyExists")
        return 201, self._store(name, body)

    def _patch(self, name: str, kind: str, body: Document) -> tuple[int, Document]:
        if kind != "application/merge-patch+json":
            return status(415, REASONS[415])
        stored = self.configmaps[name]
        expected = body.get("metadata", {}).get("resourceVersion")
        if expected is not None and expected != stored["metadata"]["resourceVersion"]:
            return status(409, "Conflict")
        return 200, self._store(name, merged(stored, body))

    def _store(self, name: str, document: Document) -> Document:
        self._revision += 1
        metadata = document.get("metadata", {}) | {
            "name": name,
            "namespace": "ml",
            "resourceVersion": str(self._revision),
        }
        found = document | {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
        self.configmaps[name] = found
        return found


def status(code: int, reason: str) -> tuple[int, Document]:
    """Build the answer of a failure, as Kubernetes does."""
    return code, {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": reason,
        "code": code,
    }


def merged(document: Any, patch: Any) -> Any:
    """Apply a merge patch (RFC 7386)."""
    if not isinstance(patch, dict):
        return patch
    found = dict(document) if isinstance(document, dict) else {}
    for key, value in patch.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = merged(found.get(key), value)
    return found


class Handler(http.Handler[FakeKubernetes]):
    """Checks credentials, then lets the state answer."""

    def handle_any(self) -> None:
        api = self.state
        body = self.content()
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        api.requests.append((self.command, token))
        if api.hanging.is_set():
            api.released.wait(60)
        api.meanwhile(self.command)
        if api.broken:
            self.reply(*api.broken)
        elif token not in api.tokens:
            self.reply_document(*status(401, REASONS[401]))
        elif self.command in api.forbidden:
            self.reply_document(*status(403, REASONS[403]))
        elif not self.path.startswith(PREFIX):
            self.reply(404, b"404 page not found")
        else:
            kind = self.headers.get("Content-Type", "")
            document = json.loads(body) if body else {}
            self.reply_document(*api.answer(self.command, self.path, kind, document))

    do_GET = do_POST = do_PATCH = handle_any

    def reply_document(self, code: int, document: Document) -> None:
        self.reply(code, json.dumps(document).encode())


@contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[FakeKubernetes]:
    """Run the fake in a thread, with TLS if a context is given."""
    api = FakeKubernetes()
    with http.serving(Handler, api, context) as api.url:
        try:
            yield api
        finally:
            api.released.set()
