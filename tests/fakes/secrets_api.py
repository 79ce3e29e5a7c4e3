"""A Kubernetes API for `kubectl apply --server-side` of Secrets, on loopback.

True to the original: discovery, apply patches of Secrets by a field manager, whose keys are those
that it sends (one that it sends no more goes), 403 of RBAC. Not true: everything else.
"""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.fakes import http

PREFIX = "/api/v1/namespaces/"
KIND = {"name": "secrets", "singularName": "secret", "namespaced": True, "kind": "Secret"}
DISCOVERY: dict[str, Any] = {
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
    "/api/v1": {
        "kind": "APIResourceList",
        "groupVersion": "v1",
        "resources": [KIND | {"verbs": ["get", "patch", "create"]}],
    },
}


class SecretsApi:
    """The Secrets that were applied."""

    def __init__(self) -> None:
        self.documents: dict[str, Any] = {}
        self.forbidden = False
        self.managers: set[str] = set()

    def content(self) -> dict[str, dict[str, str]]:
        """namespace/name -> the values of its keys, as a pod reads them."""
        return {
            name: {key: base64.b64decode(text).decode() for key, text in item["data"].items()}
            for name, item in self.documents.items()
        }


class Handler(http.Handler[SecretsApi]):
    """Answers kubectl."""

    def do_GET(self) -> None:
        found = DISCOVERY.get(urlsplit(self.path).path)
        self.answer(found or failure(404, "NotFound", "not found"))

    def do_PATCH(self) -> None:
        parts = urlsplit(self.path)
        space, _, name = parts.path.removeprefix(PREFIX).split("/")
        assert self.headers["Content-Type"] == "application/apply-patch+yaml"
        document = yaml.load(self.content(), yaml.CSafeLoader)
        if self.state.forbidden:
            said = (
                f'secrets "{name}" is forbidden: User "gitlab-agent" cannot patch resource '
                f'"secrets" in API group "" in the namespace "{space}"'
            )
            self.answer(failure(403, "Forbidden", said))
            return
        self.state.managers |= set(parse_qs(parts.query)["fieldManager"])
        self.state.documents[f"{space}/{name}"] = document
        self.answer(document)

    def answer(self, document: dict[str, Any]) -> None:
        self.reply(document.get("code", 200), json.dumps(document).encode())


def failure(code: int, reason: str, message: str) -> dict[str, Any]:
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure"}
    return status | {"code": code, "reason": reason, "message": message}


@contextmanager
def serving(kubeconfig: Path) -> Iterator[SecretsApi]:
    """Run it, and write a configuration of kubectl with the context `cluster`."""
    state = SecretsApi()
    with http.serving(Handler, state) as url:
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "cluster", "cluster": {"server": url}}],
            "contexts": [{"name": "cluster", "context": {"cluster": "cluster", "user": ""}}],
        }
        kubeconfig.write_text(yaml.safe_dump(document), encoding="utf-8")
        yield state
