"""Authorization: one table of roles per route, API keys and tokens; everything else is denied."""

import base64
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Protocol

from service.errors import Forbidden, Unauthorized


class Role(StrEnum):
    """What credentials allow. A role includes no other one."""

    PREDICT = "predict"
    VIEW = "view"
    LABEL = "label"
    DEPLOY = "deploy"
    TRAIN = "train"
    """Of jobs (docs/jobs.md); no route of the service asks for it."""


# The one table: (method, route template) -> the role it needs; None is open to everybody.
ROLES: dict[tuple[str, str], Role | None] = {
    ("POST", "/predict"): Role.PREDICT,
    ("POST", "/models/{name}/predict"): Role.PREDICT,
    ("POST", "/preview"): Role.PREDICT,
    ("GET", "/samples"): Role.VIEW,
    ("GET", "/samples/{index}"): Role.VIEW,
    ("GET", "/samples/{index}.png"): Role.VIEW,
    ("GET", "/get_experiments_metas"): Role.VIEW,
    ("GET", "/get_experiment_metas"): Role.VIEW,
    ("GET", "/live"): Role.VIEW,
    ("POST", "/feedback"): Role.LABEL,
    ("GET", "/feedback"): Role.LABEL,
    ("GET", "/feedback/{id}.npy"): Role.LABEL,
    ("POST", "/replace_ml_model"): Role.DEPLOY,
    ("POST", "/rollback_ml_model"): Role.DEPLOY,
    ("GET", "/routing"): Role.VIEW,
    ("PUT", "/routing"): Role.DEPLOY,
    ("POST", "/maps"): Role.PREDICT,
    ("GET", "/jobs"): Role.PREDICT,
    ("GET", "/jobs/{id}"): Role.PREDICT,
    ("DELETE", "/jobs/{id}"): Role.PREDICT,
    ("GET", "/jobs/{id}/{file}"): Role.PREDICT,
    ("GET", "/v2/models/{name}"): Role.PREDICT,
    ("GET", "/v2/models/{name}/ready"): Role.PREDICT,
    ("POST", "/v2/models/{name}/infer"): Role.PREDICT,
    ("GET", "/v2/models/{name}/versions/{version}"): Role.PREDICT,
    ("GET", "/v2/models/{name}/versions/{version}/ready"): Role.PREDICT,
    ("POST", "/v2/models/{name}/versions/{version}/infer"): Role.PREDICT,
    ("GET", "/v2"): None,
    ("GET", "/v2/health/live"): None,
    ("GET", "/v2/health/ready"): None,
    ("GET", "/"): None,
    ("GET", "/web/{file}"): None,
    ("GET", "/healthz"): None,
    ("GET", "/readyz"): None,
    ("GET", "/version"): None,
    ("GET", "/metrics"): None,
    ("GET", "/docs"): None,
    ("GET", "/openapi.json"): None,
}

KEY_PREFIX = "cvy_"  # lets scanners for leaked secrets find a key
SHA256 = re.compile(r"[0-9a-f]{64}")
OF_NOTHING = hashlib.sha256(b"").hexdigest()

MISSING = (
    "This route needs credentials: send the header `Authorization: Bearer <key or token>` or "
    "`X-API-Key: <key>`."
)
SEVERAL = "The request carries credentials more than once: send one Authorization or one X-API-Key."
UNKNOWN = "The credentials are not known here. Check the key, or ask the operator for a new one."


def role_of(method: str, template: str) -> Role | None:
    """Return the role that a route needs, None for an open one. Raises Forbidden if unlisted."""
    route = ("GET" if method == "HEAD" else method, template)
    if route not in ROLES:
        raise Forbidden(
            f"{method} {template} has no entry in the table of roles, so it is denied. "
            "Use a route of GET /docs."
        )
    return ROLES[route]


def new_key() -> tuple[str, str]:
    """Make an API key of 256 random bits; returns it with its SHA-256, the part to configure."""
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    return key, hashlib.sha256(key.encode()).hexdigest()


class Tokens(Protocol):
    """Verifies JWTs: `service.auth.tokens.TokenVerifier`."""

    async def verify(self, token: str) -> frozenset[Role]:
        """Return the roles of a token. Raises Unauthorized, Forbidden, Unavailable."""


class Guard:
    """Checks the credentials of a request against the role that its route needs."""

    def __init__(
        self,
        keys: Mapping[str, frozenset[Role]],
        open_roles: frozenset[Role],
        tokens: Tokens | None,
        current: Callable[[], Mapping[str, frozenset[Role]]] | None = None,
    ) -> None:
        """Take SHA-256 (hex) of each key -> its roles, the roles that need no credentials, JWTs.

        `current` gives the keys of the moment instead, if they can change.

        Raises ValueError for an invalid hash (without its value: it may be a key), and for
        `deploy` among the open roles.
        """
        for digest in keys:
            if not SHA256.fullmatch(digest) or digest == OF_NOTHING:
                raise ValueError(
                    "keys: one of them is not the SHA-256 of a key: give 64 digits 0-9a-f, as "
                    "`printf %s KEY | sha256sum` prints them"
                )
        if Role.DEPLOY in open_roles:
            raise ValueError("open_roles: `deploy` cannot be open to everybody: remove it")
        fixed = dict(keys)
        self._keys = current or (lambda: fixed)
        self._open: frozenset[Role | None] = frozenset({None, *open_roles})
        self._tokens = tokens

    def is_open(self, role: Role | None) -> bool:
        """Return whether a route with this role needs no credentials."""
        return role in self._open

    async def authorize(self, role: Role, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Pass a request whose credentials carry `role`; `headers` are those of ASGI.

        Raises Unauthorized without valid credentials, Forbidden when they lack the role,
        Unavailable when the issuer of a token cannot be reached.
        """
        if role not in await self._roles(*_credentials(headers)):
            raise Forbidden(
                f"This route needs the role `{role}`, which these credentials do not carry: use "
                "others, or ask the operator for the role."
            )

    def identity(self, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """Tell apart who sends credentials that `authorize` has passed: a text without secrets.

        A key is its own, all tokens of one subject are one.
        """
        secret, _ = _credentials(headers)
        if self._key_roles(secret) is None:
            secret = b"subject " + (_subject(secret) or secret)
        return hashlib.sha256(secret).hexdigest()

    async def _roles(self, secret: bytes, bearer: bool) -> frozenset[Role]:
        roles = self._key_roles(secret)
        if roles is not None:
            return roles
        if self._tokens and bearer and secret.count(b".") == 2 and secret.isascii():
            return await self._tokens.verify(secret.decode("ascii"))
        raise Unauthorized(UNKNOWN)

    def _key_roles(self, secret: bytes) -> frozenset[Role] | None:
        # Plain SHA-256 is enough for 256 random bits. Every hash is compared, in constant time,
        # so that the time reveals neither how near a guess was nor which key it was.
        presented = hashlib.sha256(secret).hexdigest()
        found = None
        for digest, roles in self._keys().items():
            if hmac.compare_digest(digest, presented):
                found = roles
        return found


def _subject(token: bytes) -> bytes:
    """The claim `sub` of a JWT that is verified; empty without one."""
    try:
        claims = json.loads(base64.urlsafe_b64decode(token.split(b".")[1] + b"=="))
        return json.dumps([claims.get("iss"), claims["sub"]]).encode()
    except (ValueError, LookupError, TypeError, AttributeError):
        return b""


def _credentials(headers: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, bool]:
    """Find the one secret of a request, and whether it came as a bearer token."""
    sent = [(name.lower(), value.strip()) for name, value in headers]
    keys = [item for item in sent if item[0] == b"x-api-key"]
    # Beside a key, `Basic` is for a proxy in front, which passes it on.
    found = keys + [
        (name, value)
        for name, value in sent
        if name == b"authorization" and not (keys and value[:6].lower() == b"basic ")
    ]
    if not found:
        raise Unauthorized(MISSING)
    if len(found) > 1:
        raise Unauthorized(SEVERAL)
    name, value = found[0]
    if name == b"x-api-key":
        return value, False
    scheme, _, secret = value.partition(b" ")
    # Another scheme counts as the empty secret, which no key has.
    return (secret.strip() if scheme.lower() == b"bearer" else b""), True
