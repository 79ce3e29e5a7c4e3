"""Tokens: asked for when they are needed, renewed, sent to their own hosts, never shown."""

import pytest

from pipeline.errors import SourceError
from pipeline.sources.sentinel2.access import PASSWORD, USER, Access
from pipeline.sources.sentinel2.catalogues import CATALOGUES, Patience
from tests.make import scenes
from tests.pipeline.sources.sentinel2.conftest import World


@pytest.fixture
def openid(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A catalogue whose files need a log-in."""
    monkeypatch.setenv(USER, "me")
    monkeypatch.setenv(PASSWORD, "right")
    scenes.add_scene(world.state, "a")
    world.state.token = 7
    token_url = f"{world.catalogue.url}/openid"
    hosts = (".127.0.0.1",)
    return world._replace(
        catalogue=world.catalogue._replace(access="oidc", token_url=token_url, hosts=hosts)
    )


def test_one_log_in_opens_every_file(openid: World) -> None:
    assert openid.images()["a"].shape == (4, scenes.SIDE, scenes.SIDE)
    assert [form["grant_type"] for form in openid.state.forms] == ["password"]


def test_a_token_that_ends_is_renewed_in_the_same_session(openid: World) -> None:
    openid.state.trouble["/files/a/B04.tif"] += [401]
    openid.state.trouble["/openid"] += ["", 503]
    assert not isinstance(openid.images()["a"], str)
    assert [form["grant_type"] for form in openid.state.forms] == ["password", "refresh_token"]


def test_a_session_that_has_ended_becomes_a_log_in(openid: World) -> None:
    openid.state.trouble["/files/a/B04.tif"] += [401]
    openid.state.trouble["/openid"] += ["", 400]
    assert not isinstance(openid.images()["a"], str)
    assert [form["grant_type"] for form in openid.state.forms] == ["password", "password"]


def test_a_wrong_password_is_tried_once_and_not_shown(
    openid: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSWORD, "s3cret")
    with pytest.raises(
        SourceError, match=f"no token .HTTP 401, try 1 of 4.: check {USER}"
    ) as raised:
        openid.images()
    assert "s3cret" not in str(raised.value)


def test_without_an_account_nothing_is_asked(
    openid: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PASSWORD)
    with pytest.raises(SourceError, match=f"need an account: set {USER} and {PASSWORD}"):
        openid.images()
    assert not openid.state.forms


def test_a_service_for_tokens_that_fails_is_tried_again(openid: World) -> None:
    openid.state.trouble["/openid"] += [503, "hang", 429]
    assert not isinstance(openid.images()["a"], str)
    world = openid._replace(cache=openid.cache / "other")
    openid.state.trouble["/openid"] += [503] * 9
    with pytest.raises(SourceError, match="no token .HTTP 503, try 4 of 4."):
        world.images()


def test_a_redirect_to_another_host_of_the_catalogue_keeps_the_token(openid: World) -> None:
    openid.state.trouble["/files/a/B04.tif"] += ["redirect"]
    both = openid.catalogue._replace(hosts=(".127.0.0.1", ".localhost"))
    assert not isinstance(openid._replace(catalogue=both).images()["a"], str)


def test_a_redirect_to_a_foreign_host_does_not_get_the_token(openid: World) -> None:
    openid.state.trouble["/files/a/B04.tif"] += ["redirect", ""] * 4
    with pytest.raises(SourceError, match="asset B04: HTTP 403"):
        openid.images()


def test_redirects_in_a_circle_end(world: World) -> None:
    scenes.add_scene(world.state, "a")
    world.state.trouble["/files/a/B04.tif"] += ["redirect"] * 50
    with pytest.raises(SourceError, match="asset B04: no connection .TooManyRedirects."):
        world.images()


def test_tokens_go_to_the_hosts_of_their_catalogue_alone(openid: World) -> None:
    other = "http://localhost/x.tif"
    assert Access(openid.catalogue, Patience()).sign(other) == (other, {})
    assert not openid.state.forms


def test_files_of_an_encrypted_catalogue_are_encrypted() -> None:
    access = Access(CATALOGUES["earth-search"], Patience())
    assert access.sign("https://example.com/x.tif") == ("https://example.com/x.tif", {})
    with pytest.raises(SourceError, match="example.com is not encrypted"):
        access.sign("http://example.com/x.tif")


def test_addresses_that_are_not_http_need_an_alternate(world: World) -> None:
    item = scenes.add_scene(world.state, "a")
    href = item["assets"]["B03"]["href"]
    item["assets"]["B03"]["href"] = "s3://eodata/B03.jp2"
    assert "asset B03 has no address over HTTP (s3://eodata/B03.jp2)" in world.images()["a"]
    item["assets"]["B03"]["alternate"] = {"https": {"href": href}}
    assert not isinstance(world.images()["a"], str)
