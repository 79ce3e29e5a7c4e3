"""Verifies tokens (JWT) of an issuer such as GitLab, so that a pipeline deploys without a key."""

import asyncio
import functools
import logging
import ssl
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import httpx
import jwt

from contracts.proxies import UNUSABLE
from service.auth.addresses import check_url, is_loopback_url
from service.auth.roles import Role
from service.errors import Forbidden, Unauthorized, Unavailable

log = logging.getLogger(__name__)

LEEWAY = 10  # seconds by which the clocks of issuer and service may differ
RETRY_SECONDS = 30  # between two fetches of keys, whatever tokens arrive
KEYS_SECONDS = 600  # after which keys are fetched again: an issuer withdraws a stolen one
FETCH_SECONDS = 5
MAX_BYTES = 16 * 1024  # of a token
# Signed with a private key. HS256 would take the public key as its secret; `none` signs nothing.
ASYMMETRIC = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
REQUIRED = ("exp", "iat", "iss", "aud")

INVALID = "The token is malformed, or its signature is not trusted here. Request a new one."
TOO_LONG = f"The token is longer than {MAX_BYTES // 1024} KiB. Request one with fewer claims."
# Given only once the signature is valid: others learn nothing from them.
REASONS: tuple[tuple[type[jwt.PyJWTError], str], ...] = (
    (jwt.ExpiredSignatureError, "The token has expired. Request a new one."),
    (jwt.ImmatureSignatureError, "The token is not valid yet. Compare the clocks, or wait."),
    (jwt.InvalidAudienceError, "The token is for another audience. Correct its `aud`."),
    (jwt.InvalidIssuerError, "The token is from another issuer. Correct its `iss`."),
)
NO_KEYS = (
    "The issuer's public keys cannot be fetched, so no token can be checked. Try again in "
    f"{RETRY_SECONDS} seconds, or use an API key."
)


class TokenVerifier:
    """Grants roles to the tokens of one issuer that carry the required claims."""

    def __init__(
        self,
        issuer: str,
        audience: str,
        jwks_url: str,
        required_claims: Mapping[str, str],
        roles: frozenset[Role],
        algorithms: Collection[str] = ("RS256", "ES256"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take what a token must say, where the public keys are, and the roles it then has.

        Raises ValueError for a plain http URL (loopback excepted), for no required claims (every
        project of a shared issuer could deploy) and for algorithms without a private key.
        """
        check_url("issuer", issuer)
        check_url("jwks_url", jwks_url)
        if not audience:
            raise ValueError("audience: it is empty: name this service, as the pipeline does")
        if not required_claims:
            raise ValueError(
                "required_claims: there are none, so any project of the issuer would be let in: "
                "give at least its `project_id`"
            )
        if not algorithms or not ASYMMETRIC.issuperset(algorithms):
            raise ValueError(f"algorithms: {list(algorithms)}: use some of {sorted(ASYMMETRIC)}")
        self._issuer = issuer
        self._audience = audience
        self._claims = dict(required_claims)
        self._roles = roles
        self._algorithms = list(algorithms)
        self._keys = KeySet(jwks_url, algorithms, clock)

    async def verify(self, token: str) -> frozenset[Role]:
        """Return the roles of a token.

        Raises Unauthorized for an invalid token, Forbidden for a valid one without the required
        claims, Unavailable when the issuer's keys cannot be fetched.
        """
        if len(token) > MAX_BYTES:
            raise Unauthorized(TOO_LONG)
        key = await self._keys.find(self._key_id(token))
        self._require(self._decode(token, key))
        return self._roles

    def _key_id(self, token: str) -> str:
        """Read which key signed, before anything is fetched for the token's sake."""
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise Unauthorized(INVALID) from error
        key_id = header.get("kid")
        if header.get("alg") not in self._algorithms or not isinstance(key_id, str):
            raise Unauthorized(INVALID)
        return key_id

    def _decode(self, token: str, key: jwt.PyJWK) -> dict[str, Any]:
        try:
            return jwt.decode(
                token,
                key,
                algorithms=self._algorithms,
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY,
                options={"require": list(REQUIRED), "enforce_minimum_key_length": True},
            )
        except jwt.MissingRequiredClaimError as error:
            raise Unauthorized(f"The token has no claim `{error.claim}`. Add it.") from error
        except jwt.PyJWTError as error:
            reasons = (reason for kind, reason in REASONS if isinstance(error, kind))
            raise Unauthorized(next(reasons, INVALID)) from error
        except (ValueError, OverflowError, RecursionError) as error:
            raise Unauthorized(INVALID) from error

    def _require(self, claims: Mapping[str, Any]) -> None:
        for name, value in self._claims.items():
            if _text(claims.get(name)) != value:
                raise Forbidden(
                    f"The claim `{name}` of the token is not the one that may do this: run the job "
                    "in the project, on the branch and for the environment that may deploy."
                )


class KeySet:
    """The public keys of an issuer (JWKS), cached, by their id. Belongs to one event loop."""

    def __init__(self, url: str, algorithms: Collection[str], clock: Callable[[], float]) -> None:
        """Take the URL of the JWKS and a clock in seconds; nothing is fetched yet."""
        self._url = url
        self._algorithms = frozenset(algorithms)
        self._clock = clock
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched = -float("inf")
        self._tried = -float("inf")
        self._lock = asyncio.Lock()
        self._proxies = not is_loopback_url(url)
        self._context = _ssl_context()

    async def find(self, key_id: str) -> jwt.PyJWK:
        """Return a key. Raises Unauthorized for an unknown one, Unavailable if there are none."""
        if self._is_due(key_id):
            async with self._lock:
                if self._is_due(key_id):
                    await self._refresh()
        if not self._keys:
            raise Unavailable(NO_KEYS)
        if key_id not in self._keys:
            raise Unauthorized(INVALID)
        return self._keys[key_id]

    def _is_due(self, key_id: str) -> bool:
        now = self._clock()
        wanted = key_id not in self._keys or now - self._fetched >= KEYS_SECONDS
        return wanted and now - self._tried >= RETRY_SECONDS

    async def _refresh(self) -> None:
        """Fetch the keys; when that fails, the present ones stay in use."""
        try:
            document = await self._fetch()
            self._keys = _usable(document, self._algorithms)
            self._fetched = self._clock()
        except (httpx.HTTPError, *UNUSABLE) as error:  # a time-out is an OSError
            log.warning("The issuer's keys cannot be fetched: %s", str(error) or repr(error))
        finally:
            self._tried = self._clock()

    async def _fetch(self) -> object:
        async with asyncio.timeout(FETCH_SECONDS):
            # Redirects are not followed: they could lead to plain http.
            async with httpx.AsyncClient(verify=self._context, trust_env=self._proxies) as client:
                answer = await client.get(self._url, headers={"accept": "application/json"})
                if answer.status_code != 200:
                    raise ValueError(f"it answered {answer.status_code}")
                return answer.json()


@functools.cache
def _ssl_context() -> ssl.SSLContext:
    """Read the certificates of all authorities, once: it takes 20 ms and more."""
    return httpx.create_ssl_context()


def _usable(document: object, algorithms: Collection[str]) -> dict[str, jwt.PyJWK]:
    """Keep the keys that sign with an allowed algorithm. Raises ValueError when there are none."""
    entries = document.get("keys") if isinstance(document, dict) else None
    keys = {}
    for entry in entries if isinstance(entries, list) else []:
        key = _key(entry)
        if key is not None and key.key_id and key.algorithm_name in algorithms:
            keys[key.key_id] = key
    if not keys:
        raise ValueError("it has no usable key")
    return keys


def _key(entry: object) -> jwt.PyJWK | None:
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
        return None
    try:
        return jwt.PyJWK(entry)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None  # of a kind that is not known here


def _text(claim: object) -> str | None:
    """Compare claims as GitLab writes them: true as "true", 42 as "42"; nothing else is text."""
    if isinstance(claim, bool):
        return str(claim).lower()
    return str(claim) if isinstance(claim, str | int) else None
