"""The desired model in a Kubernetes ConfigMap, for replicas that share no disk."""

import asyncio
import json
import os
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import httpx
from pydantic import BaseModel, Field, ValidationError

from service.auth.addresses import check_url
from service.errors import Conflict, Unavailable
from service.settings import KEY, NAME
from service.swap.desired import CHANGED, DesiredModel, parse_desired, require_next

VERBS = {"GET": "get", "PATCH": "patch", "POST": "create"}
NO_CREDENTIALS = (
    "The file {file} of the service account is unusable. Mount the token of a service account "
    "(automountServiceAccountToken: true) or correct the setting of its folder."
)


class ConfigMapStore:
    """Keeps the desired model in a key of a ConfigMap.

    The service account needs the verbs get and patch on that ConfigMap, and create where it does
    not exist yet. A store belongs to one event loop: `close` it before that loop ends.
    """

    def __init__(
        self,
        api: str,
        namespace: str,
        name: str,
        credentials: Path,
        timeout: float = 5.0,
        key: str = "wanted",
    ) -> None:
        """Take the URL of the API, the folder with `token` and `ca.crt`, a time limit in seconds.

        Raises ValueError for a plain http URL (loopback excepted) and for impossible names.
        """
        check_url("api", api)
        for field, value in (("namespace", namespace), ("name", name)):
            if not NAME.fullmatch(value):
                raise ValueError(
                    f"{field}: {value!r} is not a Kubernetes name: use a-z, 0-9, - and ."
                )
        if not KEY.fullmatch(key):
            raise ValueError(f"key: {key!r} is not a key of a ConfigMap: use a-z, 0-9, -, _ and .")
        self._name = name
        self._key = key
        self._namespace = namespace
        self._collection = f"{api.rstrip('/')}/api/v1/namespaces/{namespace}/configmaps"
        self._timeout = timeout
        self._account = _Account(credentials, encrypted=api.startswith("https:"))
        self._client: httpx.AsyncClient | None = None

    async def read(self) -> DesiredModel | None:
        """Ask the API for the desired model. Raises Unavailable."""
        return (await self._get()).model

    async def write(self, model: DesiredModel) -> None:
        """Compare and set by the resourceVersion. Raises Conflict or Unavailable."""
        stored = await self._get()
        require_next(stored.model, model)
        data = {self._key: model.model_dump_json()}
        if stored.resource_version is None:
            answer = await self._create(data)
        else:
            # A merge patch keeps labels, annotations and other keys as they are.
            metadata = {"resourceVersion": stored.resource_version}
            answer = await self._call("PATCH", self._item, {"metadata": metadata, "data": data})
        vanished = stored.resource_version is not None and _is_absent(answer)
        if answer.status_code == 409 or vanished:
            raise Conflict(CHANGED)
        if answer.status_code not in (200, 201):
            raise self._refusal(answer)

    async def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    @property
    def _item(self) -> str:
        return f"{self._collection}/{self._name}"

    async def _get(self) -> "_Stored":
        answer = await self._call("GET", self._item)
        if _is_absent(answer):
            return _Stored(None, None)
        if answer.status_code != 200:
            raise self._refusal(answer)
        return _stored(answer, self._name, self._key)

    async def _create(self, data: Mapping[str, str]) -> httpx.Response:
        metadata = {"name": self._name}
        document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
        return await self._call("POST", self._collection, document)

    async def _call(
        self, method: str, url: str, body: Mapping[str, Any] | None = None
    ) -> httpx.Response:
        headers = {"authorization": f"Bearer {self._account.token()}", "accept": "application/json"}
        if body is not None:
            kind = "merge-patch+json" if method == "PATCH" else "json"
            headers["content-type"] = f"application/{kind}"
        content = None if body is None else json.dumps(body)
        client = self._connected()
        try:
            # httpx limits the time between two bytes; this limit is for the whole response.
            async with asyncio.timeout(self._timeout):
                return await client.request(method, url, content=content, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            raise Unavailable(
                "The Kubernetes API, which keeps the desired model, does not answer. Try again; "
                "if it lasts, check the setting of its address and the network policy."
            ) from error

    def _connected(self) -> httpx.AsyncClient:
        context = self._account.context()
        if self._client is None:
            # No proxies, redirects or .netrc: only the API may get the token.
            self._client = httpx.AsyncClient(verify=context, timeout=self._timeout, trust_env=False)
        return self._client

    def _refusal(self, answer: httpx.Response) -> Unavailable:
        status, verb = answer.status_code, VERBS[answer.request.method]
        if status in (401, 403):
            return Unavailable(
                f"The service account may not {verb} the ConfigMap {self._name} ({status}): give "
                f"it the verbs get, patch and create on configmaps in {self._namespace}."
            )
        return Unavailable(
            f"The Kubernetes API answered {status} to {verb} of the ConfigMap {self._name}. "
            "Try again; if it lasts, read the log of the API."
        )


class _Account:
    """Credentials that Kubernetes mounts into a pod, and renews while it runs."""

    def __init__(self, folder: Path, encrypted: bool) -> None:
        self._folder = folder
        self._encrypted = encrypted
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts no authority yet
        self._loaded: tuple[int, int] | None = None  # inode and time of the ca.crt in the context

    def token(self) -> str:
        """Read the token. Raises Unavailable when it is missing or malformed."""
        # Read each time, some microseconds: tokens of service accounts rotate within the hour.
        try:
            token = (self._folder / "token").read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Unavailable(NO_CREDENTIALS.format(file="token")) from error
        if not re.fullmatch(r"[!-~]+", token):
            raise Unavailable(NO_CREDENTIALS.format(file="token"))
        return token

    def context(self) -> ssl.SSLContext:
        """Return a context that trusts the current ca.crt. Raises Unavailable."""
        if self._encrypted:
            path = self._folder / "ca.crt"
            try:
                found = os.stat(path)
                if self._loaded != (found.st_ino, found.st_mtime_ns):
                    self._context.load_verify_locations(path)
                    self._loaded = (found.st_ino, found.st_mtime_ns)
            except OSError as error:  # ssl.SSLError is one
                raise Unavailable(NO_CREDENTIALS.format(file="ca.crt")) from error
        return self._context


class _Stored(NamedTuple):
    model: DesiredModel | None
    resource_version: str | None  # None: the ConfigMap does not exist


class _Metadata(BaseModel):
    resource_version: str = Field(alias="resourceVersion")


class _ConfigMap(BaseModel):
    kind: Literal["ConfigMap"]
    metadata: _Metadata
    data: dict[str, str] | None = None


class _Status(BaseModel):
    kind: Literal["Status"]
    reason: str


def _stored(answer: httpx.Response, name: str, key: str) -> _Stored:
    try:
        found = _ConfigMap.model_validate_json(answer.content)
    except ValidationError as error:
        raise Unavailable(
            "The Kubernetes API did not answer with a ConfigMap. Check the setting of its address."
        ) from error
    text = (found.data or {}).get(key)
    place = f"key `{key}` of the ConfigMap {name}"
    model = None if text is None else parse_desired(text, place)
    return _Stored(model, found.metadata.resource_version)


def _is_absent(answer: httpx.Response) -> bool:
    """Tell an absent ConfigMap from a 404 of something else, such as a proxy."""
    if answer.status_code != 404:
        return False
    try:
        return _Status.model_validate_json(answer.content).reason == "NotFound"
    except ValidationError:
        return False
