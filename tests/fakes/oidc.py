"""A small issuer of tokens: real RSA and EC keys, their public halves served as a JWKS."""

import functools
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from service.auth.roles import Role
from service.auth.tokens import TokenVerifier
from tests.fakes import http

ISSUER = "https://gitlab.example.org"
AUDIENCE = "conveyor"
CLAIMS = {"project_id": "42", "ref_protected": "true", "environment": "production"}

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@functools.cache
def key(name: str) -> PrivateKey:
    """Make the key of this name, once: rsa-..., ec-... or weak-..."""
    if name.startswith("ec"):
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(65537, 1024 if name.startswith("weak") else 2048)


def public(name: str) -> dict[str, Any]:
    """The public half of a key as a JWK."""
    half = key(name).public_key()
    if isinstance(half, rsa.RSAPublicKey):
        return RSAAlgorithm.to_jwk(half, as_dict=True) | {"kid": name, "use": "sig", "alg": "RS256"}
    return ECAlgorithm.to_jwk(half, as_dict=True) | {"kid": name, "use": "sig", "alg": "ES256"}


def claims(**changes: Any) -> dict[str, Any]:
    """What a job of GitLab says about itself; a claim that is None is left out."""
    now = int(time.time())
    said = {"iss": ISSUER, "aud": AUDIENCE, "iat": now, "nbf": now - 5, "exp": now + 300}
    said |= CLAIMS | {"sub": "project_path:group/project:ref_type:branch:ref:main"} | changes
    return {name: value for name, value in said.items() if value is not None}


def token(name: str = "rsa-1", signed_by: str | None = None, **changes: Any) -> str:
    """Sign `claims(**changes)`, naming the key `name`, with the key `signed_by`."""
    algorithm = "ES256" if name.startswith("ec") else "RS256"
    return jwt.encode(claims(**changes), key(signed_by or name), algorithm, {"kid": name})


class Issuer:
    """The JWKS as it is served, and how often it was asked for."""

    def __init__(self) -> None:
        self.names = ["rsa-1", "ec-1"]
        self.answer: tuple[int, bytes] | None = None  # instead of the keys
        self.hanging = threading.Event()
        self.released = threading.Event()
        self.fetches = 0
        self.url = ""

    def document(self) -> bytes:
        """The JWKS."""
        return json.dumps({"keys": [public(name) for name in self.names]}).encode()

    def verifier(self, **changes: Any) -> TokenVerifier:
        """Make a verifier of the tokens of this issuer, which then have the role `deploy`."""
        return TokenVerifier(
            **{
                "issuer": ISSUER,
                "audience": AUDIENCE,
                "jwks_url": self.url,
                "required_claims": CLAIMS,
                "roles": frozenset({Role.DEPLOY}),
            }
            | changes
        )


class Handler(http.Handler[Issuer]):
    """Answers every GET with the JWKS."""

    def do_GET(self) -> None:
        issuer = self.state
        issuer.fetches += 1
        if issuer.hanging.is_set():
            issuer.released.wait(60)
        self.reply(*(issuer.answer or (200, issuer.document())), headers={"Location": "/elsewhere"})


@contextmanager
def issuing() -> Iterator[Issuer]:
    """Serve the JWKS on loopback."""
    issuer = Issuer()
    with http.serving(Handler, issuer) as url:
        issuer.url = f"{url}/oauth/discovery/keys"
        try:
            yield issuer
        finally:
            issuer.released.set()
