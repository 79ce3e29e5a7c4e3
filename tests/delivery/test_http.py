"""What the environment says of proxies: as companies set it, and as people mistype it."""

import asyncio
import time

import httpx
import pytest

from delivery.http import EnvironmentFault, send
from pipeline.errors import SourceError
from pipeline.sources.answers import Service
from service.auth.tokens import KeySet
from service.errors import Unavailable
from tests.fakes import http as fakes_http

READ = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
AWAY = "http://127.0.0.1:9"  # a proxy where nothing listens
FAULTS = [
    ("ALL_PROXY", "socks5://127.0.0.1:1080", "pip install socksio"),
    ("HTTPS_PROXY", "http://me:secret@proxy:port", "HTTPS_PROXY holds no address of a proxy"),
    ("HTTPS_PROXY", "ftp://proxy.example.com", "HTTPS_PROXY holds no address of a proxy"),
    ("NO_PROXY", "[::1],.example.com", "NO_PROXY holds no address"),
]


class Here(fakes_http.Handler[None]):
    """A service on this machine."""

    def do_GET(self) -> None:
        self.reply(200, b"here")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in READ:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.parametrize(("name", "value", "message"), FAULTS)
def test_a_proxy_that_cannot_be_used_is_named_with_its_cure(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(EnvironmentFault) as delivery:
        send("GET", "https://landcover.example.com/version")
    with pytest.raises(SourceError) as pipeline:
        Service("https://landcover.example.com", "")
    for error in (delivery.value, pipeline.value):
        assert message in str(error)
        assert "secret" not in str(error)
    keys = KeySet("https://issuer.example.com/keys", ["RS256"], time.monotonic)
    with pytest.raises(Unavailable):
        asyncio.run(keys.find("key"))


def test_no_proxy_leads_to_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in READ[:3]:
        monkeypatch.setenv(name, AWAY)
    with fakes_http.serving(Here, None) as url:
        assert send("GET", url).text == "here"
    with pytest.raises(httpx.ConnectError):
        send("GET", "https://landcover.example.com/")
