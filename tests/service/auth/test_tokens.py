"""Tokens of a real issuer on loopback: which are good, and what they are refused for."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization

from service.auth import tokens
from service.auth.roles import Role
from service.auth.tokens import TokenVerifier
from service.errors import Forbidden, Unauthorized, Unavailable
from tests.fakes.oidc import CLAIMS, ISSUER, Issuer, claims, issuing, key, public, token

DEPLOY = frozenset({Role.DEPLOY})


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with issuing() as found:
        yield found


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def verify(verifier: TokenVerifier, text: str) -> frozenset[Role]:
    return asyncio.run(verifier.verify(text))


def part(document: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()


def forged(header: dict[str, Any], secret: bytes | None) -> str:
    """Make a token by hand, as an attacker would: signed by HMAC or not at all."""
    text = f"{part(header)}.{part(claims())}"
    if secret is None:
        return f"{text}."
    signature = hmac.new(secret, text.encode(), hashlib.sha256).digest()
    return f"{text}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def pem(name: str) -> bytes:
    return (
        key(name)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


# Good tokens


def test_a_good_token_has_the_roles(issuer: Issuer) -> None:
    verifier = issuer.verifier()
    assert verify(verifier, token("rsa-1")) == verify(verifier, token("ec-1")) == DEPLOY


def test_variations_that_are_good(issuer: Issuer) -> None:
    verifier = issuer.verifier()
    variations: list[dict[str, Any]] = [
        *({"project_id": 42}, {"ref_protected": True}, {"aud": ["other", "conveyor"]}),
        *({"nbf": None}, {"sub": None}, {"user_login": "somebody"}),
    ]
    for changes in variations:
        assert verify(verifier, token(**changes)) == DEPLOY, changes


def test_the_clocks_may_differ_by_the_leeway(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "LEEWAY", 3600)  # so that a slow machine cannot use it up
    now = int(time.time())
    apart: dict[str, Any] = {"exp": now - 1000, "nbf": now + 1000, "iat": now + 1000}
    assert verify(issuer.verifier(), token(**apart)) == DEPLOY


# Tokens that are refused


WRONG_CLAIMS: list[tuple[dict[str, Any], str]] = [
    ({"aud": "other"}, "another audience"),
    ({"aud": ["other"]}, "another audience"),
    ({"iss": "https://gitlab.example.com"}, "another issuer"),
    ({"iss": ISSUER + "/"}, "another issuer"),
    *[({name: None}, f"no claim `{name}`") for name in ("exp", "iat", "iss", "aud")],
    ({"exp": "soon"}, "malformed"),
    ({"exp": float("inf")}, "malformed"),
]
WRONG_TIMES = [
    ("exp", -60, "has expired"),
    ("nbf", 3600, "not valid yet"),
    ("iat", 3600, "not valid yet"),
]


def refused(verifier: TokenVerifier, text: str, sentence: str) -> None:
    """Hold a token to be refused with this sentence."""
    with pytest.raises(Unauthorized, match=sentence):
        verify(verifier, text)


def test_a_token_with_a_wrong_claim_is_refused_with_the_reason(issuer: Issuer) -> None:
    verifier, now = issuer.verifier(), int(time.time())
    times = [({claim: now + seconds}, sentence) for claim, seconds, sentence in WRONG_TIMES]
    for changes, sentence in (*WRONG_CLAIMS, *times):
        refused(verifier, token(**changes), sentence)


@pytest.mark.parametrize("name", ["rsa-1", "ec-1"])
def test_a_token_that_its_key_did_not_sign_is_refused(issuer: Issuer, name: str) -> None:
    verifier = issuer.verifier()
    refused(verifier, token(name, signed_by=name.replace("1", "2")), "not trusted")
    header, _, signature = token(name, project_id="7").split(".")
    refused(verifier, f"{header}.{part(claims())}.{signature}", "not trusted")


def test_a_token_without_a_signature_is_refused(issuer: Issuer) -> None:
    for algorithm in ("none", "None", "NONE", "", None):
        text = forged({"typ": "JWT", "alg": algorithm, "kid": "rsa-1"}, None)
        refused(issuer.verifier(), text, "not trusted")
    assert issuer.fetches == 0


def test_the_public_key_does_not_sign_tokens_as_a_secret_of_hs256(issuer: Issuer) -> None:
    for secret in (pem("rsa-1"), json.dumps(public("rsa-1")).encode(), b""):
        text = forged({"typ": "JWT", "alg": "HS256", "kid": "rsa-1"}, secret)
        refused(issuer.verifier(), text, "not trusted")
    assert issuer.fetches == 0


def test_a_token_names_the_algorithm_of_its_own_key(issuer: Issuer) -> None:
    _, body, signature = token("rsa-1").split(".")
    for header in ({"alg": "RS256", "kid": "ec-1"}, {"alg": "ES256", "kid": "rsa-1"}):
        with pytest.raises(Unauthorized):
            verify(issuer.verifier(), f"{part(header)}.{body}.{signature}")


def test_a_key_inside_the_token_is_not_used(issuer: Issuer) -> None:
    header = {"kid": "rsa-1", "jwk": public("rsa-2"), "jku": issuer.url + "/other"}
    text = jwt.encode(claims(), key("rsa-2"), "RS256", header)
    with pytest.raises(Unauthorized):
        verify(issuer.verifier(), text)
    assert issuer.fetches == 1


MALFORMED = [
    "",
    "..",
    "a.b.c",
    "a.b",
    "\x00.\x00.\x00",
    "é.é.é",
    "\ud800.a.b",
    "=.=.=",
    f"{part([])}.{part({})}.aa",
    f"{part({'alg': 'RS256'})}.{part({})}.aa",
    f"{part({'alg': 'RS256', 'kid': 7})}.{part({})}.aa",
    f"{part({'alg': 'RS256', 'kid': None})}.{part({})}.aa",
    f"{part({'alg': ['RS256'], 'kid': 'rsa-1'})}.{part({})}.aa",
    f"{part({'alg': 'RS256', 'kid': 'rsa-1'})}.{part([])}.",
    f"{part({'alg': 'RS256', 'kid': 'rsa-1', 'b64': False, 'crit': ['b64']})}..aa",
    base64.urlsafe_b64encode(b"[" * 9000).decode() + ".e30.aa",
    base64.urlsafe_b64encode(b'{"alg":' + b"9" * 9000 + b"}").decode().strip("=") + ".e30.aa",
]


def test_a_malformed_token_is_refused(issuer: Issuer) -> None:
    for text in MALFORMED:
        refused(issuer.verifier(), text, "malformed")


def test_a_token_may_have_16_kib(issuer: Issuer) -> None:
    spare = tokens.MAX_BYTES - len(token(note="")) - 8
    long = token(note="a" * (spare * 3 // 4))
    assert tokens.MAX_BYTES - 32 < len(long) <= tokens.MAX_BYTES
    assert verify(issuer.verifier(), long) == DEPLOY
    with pytest.raises(Unauthorized, match="longer than 16 KiB"):
        verify(issuer.verifier(), token(note="a" * spare))


OF_ANOTHER_JOB: dict[str, list[Any]] = {
    "project_id": ["43", 43, ["42"], " 42", 42.0, None],
    "ref_protected": ["false", False, 1],
    "environment": [None, "staging", {"name": "production"}],
}


def test_a_good_token_of_another_job_is_refused_with_the_claim_but_not_its_value(
    issuer: Issuer,
) -> None:
    for name, values in OF_ANOTHER_JOB.items():
        for value in values:
            with pytest.raises(Forbidden, match=f"claim `{name}`") as caught:
                verify(issuer.verifier(), token(**{name: value}))
            assert CLAIMS[name] not in caught.value.detail


# The keys of the issuer


def test_keys_are_fetched_once_for_many_tokens(issuer: Issuer) -> None:
    verifier = issuer.verifier()

    async def many() -> None:
        await asyncio.gather(*(verifier.verify(token(name)) for name in ["rsa-1", "ec-1"] * 10))

    asyncio.run(many())
    assert issuer.fetches == 1


def test_random_key_ids_cause_one_fetch_in_30_seconds(issuer: Issuer) -> None:
    clock = Clock()
    verifier = issuer.verifier(clock=clock)

    async def attack() -> None:
        header = [part({"alg": "RS256", "kid": f"random-{number}"}) for number in range(50)]
        ends = await asyncio.gather(
            *(verifier.verify(f"{text}.{part(claims())}.aaaa") for text in header),
            return_exceptions=True,
        )
        assert all(isinstance(end, Unauthorized) for end in ends)

    async def attacks() -> None:
        assert await verifier.verify(token()) == DEPLOY
        for seconds, fetches in [(0, 1), (29, 1), (1, 2), (29, 2), (1, 3)]:
            clock.now += seconds
            await attack()
            assert issuer.fetches == fetches
        assert await verifier.verify(token()) == DEPLOY

    asyncio.run(attacks())


def test_a_new_key_is_found_and_a_withdrawn_one_is_forgotten(issuer: Issuer) -> None:
    clock = Clock()
    verifier = issuer.verifier(clock=clock)
    assert verify(verifier, token("rsa-1")) == DEPLOY
    issuer.names = ["rsa-2"]
    with pytest.raises(Unauthorized):
        verify(verifier, token("rsa-2"))
    clock.now += 30
    assert verify(verifier, token("rsa-2")) == DEPLOY
    with pytest.raises(Unauthorized):
        verify(verifier, token("rsa-1"))


def test_a_withdrawn_key_is_forgotten_without_a_new_one_in_use(issuer: Issuer) -> None:
    clock = Clock()
    verifier = issuer.verifier(clock=clock)
    assert verify(verifier, token("rsa-1")) == DEPLOY
    issuer.names = ["ec-1"]
    clock.now += tokens.KEYS_SECONDS - 1
    assert verify(verifier, token("rsa-1")) == DEPLOY
    clock.now += 1
    with pytest.raises(Unauthorized):
        verify(verifier, token("rsa-1"))


BROKEN = [
    (500, b""),
    (404, b"{}"),
    (302, b""),
    (200, b""),
    (200, b"<html>"),
    (200, b"[]"),
    (200, b"{}"),
    (200, b'{"keys": null}'),
    (200, b'{"keys": []}'),
    (200, b'{"keys": [1, null, {}, {"kid": "rsa-1"}, {"kid": "rsa-1", "kty": "RSA"}]}'),
    (200, b'{"keys": [{"kid": "rsa-1", "kty": "oct", "k": "c2VjcmV0"}]}'),
]


def test_while_the_issuer_is_broken_its_known_keys_serve_on(issuer: Issuer) -> None:
    clock = Clock()
    verifier = issuer.verifier(clock=clock)
    assert verify(verifier, token()) == DEPLOY
    for number, issuer.answer in enumerate(BROKEN, 2):
        clock.now += tokens.KEYS_SECONDS
        assert verify(verifier, token()) == DEPLOY, issuer.answer
        assert issuer.fetches == number


def test_without_any_key_tokens_are_unavailable_until_the_issuer_answers(issuer: Issuer) -> None:
    for broken in BROKEN:
        clock = Clock()
        verifier = issuer.verifier(clock=clock)
        before, issuer.answer = issuer.fetches, broken
        for _ in range(3):
            with pytest.raises(Unavailable, match="use an API key"):
                verify(verifier, token())
        assert issuer.fetches == before + 1, broken
        issuer.answer = None
        clock.now += 30
        assert verify(verifier, token()) == DEPLOY


def test_tokens_are_unavailable_without_the_issuer() -> None:
    with issuing() as gone:
        pass
    with pytest.raises(Unavailable):
        verify(gone.verifier(), token())


def test_tokens_are_unavailable_while_the_issuer_hangs(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "FETCH_SECONDS", 0.2)
    issuer.hanging.set()
    with pytest.raises(Unavailable):
        verify(issuer.verifier(), token())


def test_unusable_keys_do_not_hide_the_good_ones(issuer: Issuer) -> None:
    document = json.loads(issuer.document())
    document["keys"] = [
        {"kty": "oct", "kid": "rsa-1", "k": "c2VjcmV0"},
        {"kty": "unheard-of", "kid": "a"},
        public("rsa-2") | {"use": "enc"},
        *document["keys"],
    ]
    issuer.answer = (200, json.dumps(document).encode())
    verifier = issuer.verifier()
    assert verify(verifier, token()) == DEPLOY
    with pytest.raises(Unauthorized):
        verify(verifier, token("rsa-2"))


@pytest.mark.filterwarnings("ignore:The RSA key is 1024 bits:UserWarning")
def test_a_key_that_is_too_short_is_not_trusted(issuer: Issuer) -> None:
    issuer.names = ["weak-1"]
    with pytest.raises(Unauthorized):
        verify(issuer.verifier(), token("weak-1"))


def test_the_allowed_algorithms_can_be_fewer(issuer: Issuer) -> None:
    verifier = issuer.verifier(algorithms=("ES256",))
    assert verify(verifier, token("ec-1")) == DEPLOY
    with pytest.raises(Unauthorized):
        verify(verifier, token("rsa-1"))


# Settings


UNSAFE: dict[str, list[Any]] = {
    "issuer": ["http://gitlab.example.org", "gitlab.example.org", ""],
    "jwks_url": [
        "http://gitlab.example.org/oauth/discovery/keys",
        "http://localhost.example.org/keys",
        "file:///etc/keys",
    ],
    "audience": [""],
    "required_claims": [{}],
    "algorithms": [(), ("none",), ("RS256", "HS256")],
}


def test_unsafe_settings_are_refused(issuer: Issuer) -> None:
    for name, values in UNSAFE.items():
        for value in values:
            with pytest.raises(ValueError, match=f"^{name}: "):
                issuer.verifier(**{name: value})


def test_loopback_may_be_plain_http(issuer: Issuer) -> None:
    for host in ("localhost:1", "127.0.0.1", "127.8.8.8:9", "[::1]:80"):
        assert issuer.verifier(issuer=f"http://{host}", jwks_url=f"http://{host}/keys")
