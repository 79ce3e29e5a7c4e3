"""Every route, with every kind of credentials: who is admitted, and what a refusal says."""

import asyncio
import base64
import hashlib
import json
import hmac
import re
import time
from collections.abc import Iterator

import pytest

from service.auth import roles as access
from service.auth.roles import ROLES, Guard, Role, new_key, role_of
from service.errors import Forbidden, ServiceError, Unauthorized, Unavailable
from tests.fakes.oidc import Issuer, issuing, token

Headers = list[tuple[bytes, bytes]]

# Written out a second time on purpose: a change of the table has to be made in two places.
ROUTES = {
    "POST /predict": "predict",
    "POST /models/{name}/predict": "predict",
    "POST /preview": "predict",
    "GET /samples": "view",
    "GET /samples/{index}": "view",
    "GET /samples/{index}.png": "view",
    "GET /get_experiments_metas": "view",
    "GET /get_experiment_metas": "view",
    "GET /live": "view",
    "GET /routing": "view",
    "PUT /routing": "deploy",
    "POST /feedback": "label",
    "GET /feedback": "label",
    "GET /feedback/{id}.npy": "label",
    "POST /replace_ml_model": "deploy",
    "POST /rollback_ml_model": "deploy",
    "POST /maps": "predict",
    "GET /jobs": "predict",
    "GET /jobs/{id}": "predict",
    "DELETE /jobs/{id}": "predict",
    "GET /jobs/{id}/{file}": "predict",
    "GET /v2/models/{name}": "predict",
    "GET /v2/models/{name}/ready": "predict",
    "POST /v2/models/{name}/infer": "predict",
    "GET /v2/models/{name}/versions/{version}": "predict",
    "GET /v2/models/{name}/versions/{version}/ready": "predict",
    "POST /v2/models/{name}/versions/{version}/infer": "predict",
    "GET /v2": "open",
    "GET /v2/health/live": "open",
    "GET /v2/health/ready": "open",
    "GET /": "open",
    "GET /web/{file}": "open",
    "GET /healthz": "open",
    "GET /readyz": "open",
    "GET /version": "open",
    "GET /metrics": "open",
    "GET /docs": "open",
    "GET /openapi.json": "open",
}

KEYS = {
    "predict": frozenset({Role.PREDICT}),
    "view": frozenset({Role.VIEW}),
    "label": frozenset({Role.LABEL}),
    "deploy": frozenset({Role.DEPLOY}),
    "two": frozenset({Role.PREDICT, Role.VIEW}),
    "all": frozenset(Role),
    "none": frozenset[Role](),
}
HASHES = {hashlib.sha256(f"key-{name}".encode()).hexdigest(): KEYS[name] for name in KEYS}

# Credentials -> the roles they carry, or the error of somebody who is not known.
CREDENTIALS: dict[str, frozenset[Role] | type[ServiceError]] = {
    "nothing": Unauthorized,
    **{f"bearer key-{name}": roles for name, roles in KEYS.items()},
    **{f"x-api-key key-{name}": roles for name, roles in KEYS.items()},
    "bearer key-unknown": Unauthorized,
    "x-api-key key-unknown": Unauthorized,
    "token good": frozenset({Role.DEPLOY}),
    "token ec": frozenset({Role.DEPLOY}),
    "token expired": Unauthorized,
    "token wrong signature": Unauthorized,
    "token wrong audience": Unauthorized,
    "token wrong issuer": Unauthorized,
    "token unknown key id": Unauthorized,
    "token alg none": Unauthorized,
    "token no environment": Forbidden,
    "token not protected": Forbidden,
    "token other project": Forbidden,
    "x-api-key with a good token": Unauthorized,
}


def headers_of(kind: str, known: dict[str, str] | None = None) -> Headers:
    first, _, rest = kind.partition(" ")
    if first == "token":
        rest = (known or tokens())[rest]
    if first in ("bearer", "token"):
        return [(b"authorization", f"Bearer {rest}".encode())]
    if kind == "x-api-key with a good token":
        return [(b"x-api-key", token().encode())]
    return [(b"x-api-key", rest.encode())] if first == "x-api-key" else []


def tokens() -> dict[str, str]:
    good = token()
    unsigned = "eyJhbGciOiJub25lIiwia2lkIjoicnNhLTEifQ." + good.split(".")[1] + "."
    return {
        "good": good,
        "ec": token("ec-1"),
        "expired": token(exp=int(time.time()) - 60),
        "wrong signature": token(signed_by="rsa-2"),
        "wrong audience": token(aud="other"),
        "wrong issuer": token(iss="https://gitlab.example.com"),
        "unknown key id": token("rsa-9", signed_by="rsa-1"),
        "alg none": unsigned,
        "no environment": token(environment=None),
        "not protected": token(ref_protected="false"),
        "other project": token(project_id="43"),
    }


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with issuing() as found:
        yield found


async def enter(guard: Guard, route: str, headers: Headers) -> None:
    """Do what the service does before a route runs."""
    method, _, template = route.partition(" ")
    role = role_of(method, template)
    if not guard.is_open(role):
        assert role is not None
        await guard.authorize(role, headers)


def outcome(guard: Guard, route: str, headers: Headers) -> type[ServiceError] | None:
    try:
        asyncio.run(enter(guard, route, headers))
    except ServiceError as error:
        return type(error)
    return None


def expected(
    needed: str, carried: frozenset[Role] | type[ServiceError], open_roles: frozenset[Role]
) -> type[ServiceError] | None:
    if needed == "open" or needed in open_roles:
        return None
    if isinstance(carried, type):
        return carried
    return None if needed in carried else Forbidden


def refusal(guard: Guard, headers: Headers) -> str:
    with pytest.raises(Unauthorized) as caught:
        asyncio.run(guard.authorize(Role.DEPLOY, headers))
    return caught.value.detail


# The table


@pytest.mark.parametrize(
    "open_roles", [frozenset[Role](), {Role.PREDICT}, {Role.PREDICT, Role.VIEW}], ids=len
)
def test_every_route_admits_exactly_the_credentials_with_its_role(
    issuer: Issuer, open_roles: frozenset[Role]
) -> None:
    guard = Guard(HASHES, frozenset(open_roles), issuer.verifier())
    known = tokens()
    wrong = []
    for kind, carried in CREDENTIALS.items():
        headers = headers_of(kind, known)
        for route, needed in ROUTES.items():
            found = outcome(guard, route, headers)
            if found is not expected(needed, carried, frozenset(open_roles)):
                wrong.append((route, kind, found))
    assert not wrong


def test_the_table_has_these_routes_and_no_others() -> None:
    table = {f"{method} {template}": role or "open" for (method, template), role in ROLES.items()}
    assert table == ROUTES


UNLISTED = (
    *("GET /predict", "PUT /predict", "POST /", "POST /metrics", "DELETE /replace_ml_model"),
    *("OPTIONS /predict", "GET /replace_ml_model", "GET /unheard-of", "GET ", "get /version"),
    *("GET /version/", "GET //version", "HEAD /predict"),
)


def test_an_unlisted_route_is_denied_to_everybody() -> None:
    guard = Guard(HASHES, frozenset({Role.PREDICT, Role.VIEW}), None)
    headers = headers_of("bearer key-all")
    assert [route for route in UNLISTED if outcome(guard, route, headers) is not Forbidden] == []


def token_of(**claims: object) -> list[tuple[bytes, bytes]]:
    """The header of a token with these claims, whose signature somebody else has verified."""
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=")
    return [(b"authorization", b"Bearer e30." + payload + b".signature-%d" % id(claims))]


def test_who_sends_credentials_is_told_apart_without_a_secret() -> None:
    guard = Guard(HASHES, frozenset(), None)
    key = guard.identity([(b"authorization", b"Bearer key-predict")])
    assert key == guard.identity([(b"x-api-key", b"key-predict")])
    assert key != guard.identity([(b"x-api-key", b"key-all")])
    one = guard.identity(token_of(iss="https://a", sub="job 1", exp=1))
    assert one == guard.identity(token_of(iss="https://a", sub="job 1", exp=2))
    assert one != guard.identity(token_of(iss="https://a", sub="job 2", exp=1))
    assert one != guard.identity(token_of(iss="https://b", sub="job 1", exp=1))
    assert guard.identity(token_of(iss="https://a")) != guard.identity(token_of(iss="https://a"))
    assert "job" not in one and "key" not in key


def test_head_is_like_get() -> None:
    assert role_of("HEAD", "/version") is None
    assert role_of("HEAD", "/samples") is Role.VIEW


def test_the_role_deploy_is_never_open() -> None:
    for roles in (frozenset({Role.DEPLOY}), frozenset(Role)):
        with pytest.raises(ValueError, match="^open_roles: `deploy`"):
            Guard(HASHES, roles, None)


def test_a_key_without_the_role_is_refused_with_the_name_of_the_role() -> None:
    guard = Guard(HASHES, frozenset(), None)
    with pytest.raises(Forbidden, match="the role `deploy`"):
        asyncio.run(guard.authorize(Role.DEPLOY, headers_of("bearer key-view")))


# Keys


def test_a_key_is_taken_from_either_header_in_any_case() -> None:
    sent: list[Headers] = [
        [(b"Authorization", b"Bearer key-deploy")],
        [(b"AUTHORIZATION", b"bearer key-deploy")],
        [(b"authorization", b"BEARER   key-deploy  ")],
        [(b"X-Api-Key", b" key-deploy")],
        [(b"host", b"x"), (b"x-api-key", b"key-deploy"), (b"accept", b"*/*")],
    ]
    for headers in sent:
        asyncio.run(Guard(HASHES, frozenset(), None).authorize(Role.DEPLOY, headers))


SECRETS = [
    *(b"", b" ", b"key-unknown", b"key-deploy\x00", b"key-deploy,key-deploy", b"KEY-DEPLOY"),
    *(b"key-deplo", hashlib.sha256(b"key-deploy").hexdigest().encode()),
    *("schlüssel-ключ-鍵".encode(), b"\xff\xfe\x00\x80", b"a" * 1_000_000, b"." * 1_000_000),
    *(b"a.b.c", b"..", b"\xff.\xff.\xff"),
]
NO_TOKENS = [b"\xff.\xff.\xff", b"." * 1_000_000, b"a.b", b"x" * 1_000_000]
NO_BEARER = [b"key-deploy", b"Basic a2V5LWRlcGxveQ==", b"Basic key-deploy", b"Bearer", b"", b" "]


def test_every_wrong_key_is_refused_with_the_same_sentence() -> None:
    guard = Guard(HASHES, frozenset(), None)
    bearers = [b"Bearer " + secret for secret in SECRETS] + NO_BEARER
    sent = [(b"x-api-key", secret) for secret in SECRETS]
    sent += [(b"authorization", value) for value in bearers]
    wrong = [header for header in sent if refusal(guard, [header]) != access.UNKNOWN]
    assert not wrong
    assert "key-" not in access.UNKNOWN


def test_a_malformed_token_is_not_given_to_the_verifier(issuer: Issuer) -> None:
    guard = Guard(HASHES, frozenset(), issuer.verifier())
    for secret in NO_TOKENS:
        assert refusal(guard, [(b"authorization", b"Bearer " + secret)]) == access.UNKNOWN


def test_credentials_sent_twice_are_refused() -> None:
    sent: list[Headers] = [
        [(b"authorization", b"Bearer key-deploy"), (b"x-api-key", b"key-deploy")],
        [(b"authorization", b"Bearer key-deploy"), (b"Authorization", b"Bearer key-deploy")],
        [(b"x-api-key", b"key-deploy"), (b"X-API-Key", b"key-view")],
        [(b"x-api-key", b""), (b"authorization", b"Bearer key-deploy")],
    ]
    for headers in sent:
        assert "more than once" in refusal(Guard(HASHES, frozenset(), None), headers)


def test_without_credentials_the_headers_to_send_are_named() -> None:
    sentence = refusal(Guard(HASHES, frozenset(), None), [(b"host", b"x")])
    assert "Authorization: Bearer" in sentence and "X-API-Key" in sentence


def test_a_key_is_compared_with_every_hash_in_constant_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[str] = []
    compare = hmac.compare_digest

    def counted(one: str, other: str) -> bool:
        assert len(one) == len(other) == 64
        compared.append(one)
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counted)
    guard = Guard(HASHES, frozenset(), None)
    for secret in (b"key-predict", b"key-none", b"key-unknown", b"", b"\xff", b"a" * 1_000_000):
        compared.clear()
        with pytest.raises((Unauthorized, Forbidden)):
            asyncio.run(guard.authorize(Role.DEPLOY, [(b"x-api-key", secret)]))
        assert compared == list(HASHES), secret[:20]


def test_a_key_is_checked_without_the_issuer() -> None:
    with issuing() as gone:
        pass
    guard = Guard(HASHES, frozenset(), gone.verifier())
    asyncio.run(guard.authorize(Role.DEPLOY, headers_of("bearer key-deploy")))
    with pytest.raises(Unavailable):
        asyncio.run(guard.authorize(Role.DEPLOY, headers_of("token good")))


def test_a_new_key_has_the_roles_that_are_configured_for_its_hash() -> None:
    key, digest = new_key()
    assert re.fullmatch(r"cvy_[A-Za-z0-9_-]{43}", key)
    guard = Guard({digest: frozenset({Role.DEPLOY})}, frozenset(), None)
    asyncio.run(guard.authorize(Role.DEPLOY, [(b"x-api-key", key.encode())]))
    assert new_key()[0] != key


def test_a_malformed_hash_of_a_key_is_refused_and_not_repeated() -> None:
    malformed = ("cvy_a-plain-key", "0" * 63, "0" * 64 + "\n", "G" * 64)
    for digest in (*malformed, hashlib.sha256().hexdigest(), ""):
        with pytest.raises(ValueError, match="^keys: ") as caught:
            Guard({digest: frozenset({Role.VIEW})}, frozenset(), None)
        assert not digest or digest not in str(caught.value)
