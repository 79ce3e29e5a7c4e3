"""The Kubernetes API over HTTP: its refusals become sentences, its silence EngineAway.

Inside a cluster the account of the pod is used. From elsewhere `kubectl proxy` leads there with
whatever credentials kubectl has: then `credentials` is empty and `api` is on this machine.
"""

import json
import ssl
import time
import weakref
from pathlib import Path
from typing import Any

import httpx

from contracts.proxies import is_loopback
from jobs.errors import EngineAway, Refused

Document = dict[str, Any]
SECONDS = 10.0  # for one request
NO_RIGHT = "give the account the Role of docs/jobs-engines.md"
SAID = 300  # letters of a message that are passed on


class Api:
    """One namespace of a cluster."""

    def __init__(self, url: str, credentials: str, namespace: str) -> None:
        """Take the address, the folder with `token` and `ca.crt`, and the namespace.

        Raises:
            Refused: a token would travel in the clear.
        """
        if credentials and not url.startswith("https://") and not is_loopback(url):
            raise Refused(f"executors.kubernetes.api: {url} would get a token in the clear: https")
        self.namespace = namespace
        self._url = url.rstrip("/")
        self._folder = Path(credentials) if credentials else None
        self._client: httpx.Client | None = None
        self._not_before = 0.0

    def find(self, path: str, **query: str) -> Document | None:
        """An object or a list; None if there is none."""
        answer = self._call("GET", path, query)
        return None if answer.status_code == 404 else self._document(answer)

    def items(self, path: str, **query: str) -> list[Document]:
        """The objects of a list; none where the cluster does not know the kind."""
        found = self.find(path, **query)
        return list(found.get("items") or []) if found else []

    def text(self, path: str, **query: str) -> str:
        """A log; empty while there is none, as before its container has started."""
        answer = self._call("GET", path, query)
        if answer.status_code in (400, 404):
            return ""
        self._require(answer)
        return answer.content.decode(errors="replace")

    def create(self, path: str, document: Document) -> Document:
        """Create an object, or return the one that has its name.

        Raises:
            Refused: the API takes no such object.
        """
        answer = self._call("POST", path, {}, document)
        if answer.status_code == 409:
            name = document["metadata"]["name"]
            return self.find(f"{path}/{name}") or self.create(path, document)
        return self._document(answer)

    def delete(self, path: str, **options: object) -> None:
        """Delete an object and all that belongs to it; one that is gone is no error."""
        options = {"propagationPolicy": "Foreground", **options}
        answer = self._call("DELETE", path, {}, {"kind": "DeleteOptions", **options})
        if answer.status_code not in (404, 409):
            self._require(answer)

    def _call(
        self, method: str, path: str, query: dict[str, str], body: Document | None = None
    ) -> httpx.Response:
        if (left := self._not_before - time.monotonic()) > 0:
            raise EngineAway(f"Kubernetes wants no request for {left:.0f} s more")
        headers = {"accept": "application/json, */*", "content-type": "application/json"}
        content = None if body is None else json.dumps(body)
        try:
            if self._folder:
                # Read each time: tokens of accounts change within the hour.
                token = (self._folder / "token").read_text("ascii").strip()
                headers["authorization"] = f"Bearer {token}"
            answer = self._connected().request(
                method, self._url + path, params=query, content=content, headers=headers
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            self._client = None  # its certificates may be new
            raise EngineAway(f"the Kubernetes API cannot be reached ({error})") from None
        except (OSError, ValueError) as error:  # ssl.SSLError and UnicodeError are among them
            self._client = None
            raise EngineAway(f"{self._folder} has no usable token and ca.crt: {error}") from None
        if answer.status_code == 429 or answer.status_code >= 500:
            wait = answer.headers.get("retry-after", "1")
            self._not_before = time.monotonic() + (min(int(wait), 60) if wait.isdecimal() else 1)
            raise EngineAway(f"the Kubernetes API answered {answer.status_code}: {_said(answer)}")
        if answer.status_code == 401:
            self._client = None
            raise EngineAway("the Kubernetes API does not take the token (401): renew it")
        if answer.status_code == 403 and method == "GET":
            raise EngineAway(f"{_said(answer)}: {NO_RIGHT}")
        return answer

    def _connected(self) -> httpx.Client:
        if self._client is None:
            check: ssl.SSLContext | bool = True
            if self._folder and self._url.startswith("https:"):
                check = ssl.create_default_context(cafile=str(self._folder / "ca.crt"))
            # No proxies, redirects or .netrc: only the API may get the token.
            self._client = httpx.Client(verify=check, timeout=SECONDS, trust_env=False)
            weakref.finalize(self, self._client.close)
        return self._client

    def _document(self, answer: httpx.Response) -> Document:
        self._require(answer)
        try:
            found: Document = answer.json()
            if not isinstance(found, dict) or "kind" not in found:
                raise ValueError
        except ValueError:
            raise EngineAway("executors.kubernetes.api: no Kubernetes answers there") from None
        return found

    def _require(self, answer: httpx.Response) -> None:
        if answer.status_code >= 400:
            cure = (
                f": {NO_RIGHT}" if answer.status_code == 403 and " cannot " in answer.text else ""
            )
            raise Refused(f"Kubernetes: {_said(answer)}{cure}")


def _said(answer: httpx.Response) -> str:
    """The message of a Status, or what else was answered."""
    try:
        text = str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        text = answer.text or answer.reason_phrase
    return " ".join(text.split())[:SAID]
