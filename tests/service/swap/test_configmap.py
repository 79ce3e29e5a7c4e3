"""The wanted model in a ConfigMap: over a real socket, against a fake of the API."""

import asyncio
import ssl
from pathlib import Path

import pytest

from service.errors import Conflict, Unavailable
from service.swap.configmap import ConfigMapStore
from tests.fakes.kubernetes import FakeKubernetes, serving
from tests.make.certificates import authority
from tests.make.stores import Place, Store, model


@pytest.fixture
def cluster(path: Path, api: FakeKubernetes, credentials: Path) -> Place:
    return Place(path, api, credentials)


def test_an_empty_configmap_holds_no_model_and_can_be_written(
    cluster: Place, api: FakeKubernetes
) -> None:
    api.put("wanted-model", None)
    assert cluster.read() is None
    cluster.write(model(1))
    assert cluster.read() == model(1)


def test_keys_of_others_in_the_configmap_are_kept(cluster: Place, api: FakeKubernetes) -> None:
    api.put("wanted-model", {"note": "by hand"}, labels={"app": "conveyor"}, annotations={"a": "b"})
    cluster.write(model(1))
    found = api.configmaps["wanted-model"]
    assert found["metadata"]["labels"] == {"app": "conveyor"}
    assert found["metadata"]["annotations"] == {"a": "b"}
    assert found["data"]["note"] == "by hand"


def test_a_label_that_changes_in_between_is_a_conflict_and_not_lost(
    cluster: Place, api: FakeKubernetes
) -> None:
    cluster.write(model(1))

    def relabel(method: str) -> None:
        if method == "PATCH":
            api.put("wanted-model", api.configmaps["wanted-model"]["data"], labels={"new": "1"})

    api.meanwhile = relabel
    with pytest.raises(Conflict):
        cluster.write(model(2))
    assert api.configmaps["wanted-model"]["metadata"]["labels"] == {"new": "1"}


def test_a_configmap_deleted_in_between_is_a_conflict(cluster: Place, api: FakeKubernetes) -> None:
    cluster.write(model(1))
    api.meanwhile = lambda method: api.configmaps.clear() if method == "PATCH" else None
    with pytest.raises(Conflict):
        cluster.write(model(2))


def test_a_token_that_rotates_is_read_again(cluster: Place, api: FakeKubernetes) -> None:
    async def rotate(store: Store) -> None:
        await store.write(model(1))
        api.tokens = {"token-2"}
        with pytest.raises(Unavailable, match="401"):
            await store.read()
        (cluster.credentials / "token").write_text("token-2")
        assert await store.read() == model(1)

    cluster.run(rotate)
    assert api.requests[-1] == ("GET", "token-2")


@pytest.mark.parametrize(
    ("method", "verb"), [("GET", "get"), ("PATCH", "patch"), ("POST", "create")]
)
def test_a_missing_verb_is_named(
    cluster: Place, api: FakeKubernetes, method: str, verb: str
) -> None:
    if method == "PATCH":
        cluster.write(model(1))
    api.forbidden = {method}
    with pytest.raises(Unavailable, match=f"may not {verb} .*get, patch and create on configmaps"):
        cluster.write(model(2 if method == "PATCH" else 1))


NONSENSE = (
    (200, b""),
    (200, b"<html>sign in</html>"),
    (200, b"[]"),
    (200, b"{}"),
    (200, b'{"kind":"ConfigMap","metadata":{}}'),
    (200, b'{"kind":"ConfigMap","metadata":{"resourceVersion":"1"},"data":[]}'),
    (200, b'{"kind":"ConfigMap","metadata":{"resourceVersion":"1"},"data":{"wanted":1}}'),
    (200, b"[" * 100_000),
    (200, b"\xff\xfe\x00"),
    (302, b""),
    (404, b"404 page not found"),
    (404, b'{"kind":"Status","reason":"Other"}'),
    (422, b'{"kind":"Status","reason":"Invalid"}'),
    (429, b""),
    (500, b"{}"),
    (503, b""),
)


def test_an_api_that_answers_nonsense_is_unavailable(cluster: Place, api: FakeKubernetes) -> None:
    for answer in NONSENSE:
        api.broken = answer
        for work in (cluster.read, lambda: cluster.write(model(1))):
            with pytest.raises(Unavailable, match="Try again|Check the setting"):
                pytest.fail(f"{answer} was taken: {work()}")
    assert {method for method, _ in api.requests} == {"GET"}


def test_an_api_that_hangs_is_given_up_and_then_used_again(
    cluster: Place, api: FakeKubernetes
) -> None:
    async def wait(store: Store) -> None:
        api.hanging.set()
        with pytest.raises(Unavailable, match="does not answer"):
            await store.read()
        api.hanging.clear()
        api.released.set()
        async with asyncio.timeout(30):
            while True:
                try:
                    assert await store.read() is None
                    return
                except Unavailable:
                    pass

    cluster.run(wait, timeout=0.3)


def test_an_unreachable_api_is_unavailable(credentials: Path, path: Path) -> None:
    with serving() as api:
        gone = api
    place = Place(path, gone, credentials)
    for work in (place.read, lambda: place.write(model(1))):
        with pytest.raises(Unavailable, match="does not answer"):
            work()


@pytest.mark.parametrize("content", [None, b"", b"\n", b"two words", b"line\r\nx: y", b"\xff"])
def test_a_missing_or_unusable_token_raises_an_error(
    cluster: Place, api: FakeKubernetes, content: bytes | None
) -> None:
    token = cluster.credentials / "token"
    token.unlink() if content is None else token.write_bytes(content)
    with pytest.raises(Unavailable, match="file token of the service account") as caught:
        cluster.read()
    assert "words" not in caught.value.detail
    assert api.requests == []


def test_a_closed_store_opens_again(cluster: Place) -> None:
    async def reopen(store: Store) -> None:
        await store.write(model(1))
        await store.close()
        await store.close()
        assert await store.read() == model(1)

    cluster.run(reopen)


@pytest.mark.parametrize(
    ("api", "namespace", "name", "field"),
    [
        ("http://10.0.0.1", "ml", "wanted", "api"),
        ("http://127.0.0.1.example.org", "ml", "wanted", "api"),
        ("ftp://127.0.0.1", "ml", "wanted", "api"),
        ("10.0.0.1", "ml", "wanted", "api"),
        ("https://10.0.0.1", "../..", "wanted", "namespace"),
        ("https://10.0.0.1", "ml", "a/b", "name"),
        ("https://10.0.0.1", "ml", "", "name"),
        ("https://10.0.0.1", "ml", "wanted\n", "name"),
    ],
)
def test_settings_that_are_not_safe_are_refused(
    api: str, namespace: str, name: str, field: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"^{field}: "):
        ConfigMapStore(api, namespace, name, tmp_path)


def test_only_the_authority_in_ca_crt_is_trusted_and_it_may_rotate(
    credentials: Path, path: Path, tmp_path: Path
) -> None:
    certificate, key = authority(tmp_path, "cluster")
    other, _ = authority(tmp_path, "other")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    trusted = credentials / "ca.crt"
    with serving(context) as api:

        async def rotate(store: Store) -> None:
            with pytest.raises(Unavailable, match="file ca.crt"):
                await store.read()
            trusted.write_text("no certificate")
            with pytest.raises(Unavailable, match="file ca.crt"):
                await store.read()
            trusted.write_bytes(other.read_bytes())
            with pytest.raises(Unavailable, match="does not answer"):
                await store.read()
            assert api.requests == []
            trusted.unlink()
            trusted.write_bytes(certificate.read_bytes())
            await store.write(model(1))
            assert await store.read() == model(1)

        Place(path, api, credentials).run(rotate)
