"""What stands in front of the service: containers, quotas, addresses, proxies with a prefix."""

import asyncio
import hashlib
import os
import re
import resource
import signal
import socket
import sys
from pathlib import Path

import httpx
import pytest

from service import __main__ as program
from service import settings as module
from service.auth.roles import Guard, Role
from service.errors import Unauthorized
from service.http.page import WEB
from service.server import descriptors, supervisor
from service.settings import cores, read_settings
from tests.make.server import Server


def test_a_stop_while_the_service_starts_ends_it_also_as_process_1(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel drops a signal for process 1 that has no handler."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sys, "argv", ["service"])
    monkeypatch.setattr(module, "read_settings", lambda: os.kill(os.getpid(), signal.SIGTERM))
    try:
        with pytest.raises(SystemExit) as ended:
            program.main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("text", "most"),
    [
        ("100000 100000", 1),
        ("50000 100000", 1),
        ("150000 100000", 2),
        ("max 100000", 10_000),
        ("9900000 100000", 99),
        ("", 10_000),
        ("nonsense", 10_000),
    ],
)
def test_a_cpu_quota_decides_the_number_of_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, most: int
) -> None:
    (tmp_path / "cpu.max").write_text(text)
    monkeypatch.setattr(module, "CPU_MAX", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64))
    assert cores() == min(64, most)


def test_without_cgroups_the_cores_of_the_process_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CPU_MAX", tmp_path / "missing")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(3))
    assert cores() == 3


def test_all_addresses_means_those_of_both_families(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_API_KEYS", '{"' + "0" * 64 + '": ["deploy"]}')
    with supervisor._listen(read_settings(host="::", port=0)) as listener:
        port = listener.getsockname()[1]
        for address in ("127.0.0.1", "::1"):
            socket.create_connection((address, port), timeout=60).close()


def test_the_address_that_is_logged_can_be_opened() -> None:
    urls = [supervisor.as_url(host, 80) for host in ("127.0.0.1", "0.0.0.0", "::", "fd00::7")]
    assert urls == [
        "http://127.0.0.1:80",
        "http://127.0.0.1:80",
        "http://[::1]:80",
        "http://[fd00::7]:80",
    ]


def test_the_page_works_behind_any_prefix() -> None:
    absolute = re.compile(r"""(?:src|href)="/|from "/|fetch\([`"]/""")
    texts = {
        item.name: item.read_text("utf-8")
        for item in WEB.iterdir()
        if item.name.endswith((".html", ".js"))
    }
    assert len(texts) > 5
    assert [name for name, text in texts.items() if absolute.search(text)] == []


def test_the_api_documentation_works_behind_any_prefix(server: Server) -> None:
    assert "url: 'openapi.json'" in httpx.get(server.url + "/docs").text
    assert httpx.get(server.url + "/openapi.json").json()["servers"] == [{"url": "."}]


@pytest.mark.parametrize("quote", ["'", '"'])
def test_quotes_that_an_env_file_keeps_are_taken_off(
    monkeypatch: pytest.MonkeyPatch, quote: str
) -> None:
    keys = '{"' + "0" * 64 + '": ["deploy"]}'
    monkeypatch.setenv("SERVICE_API_KEYS", f"{quote}{keys}{quote}")
    monkeypatch.setenv("SERVICE_LOG_LEVEL", f"{quote}debug{quote}")
    settings = read_settings()
    assert list(settings.api_keys) == ["0" * 64]
    assert settings.log_level == "debug"


def test_a_key_beside_the_credentials_of_a_proxy_is_taken() -> None:
    guard = Guard({hashlib.sha256(b"key").hexdigest(): frozenset({Role.VIEW})}, frozenset(), None)
    proxied = (b"authorization", b"Basic dXNlcjpwYXNzd29yZA==")
    asyncio.run(guard.authorize(Role.VIEW, [proxied, (b"x-api-key", b"key")]))
    for headers in ([proxied], [(b"authorization", b"Bearer key"), (b"x-api-key", b"key")]):
        with pytest.raises(Unauthorized):
            asyncio.run(guard.authorize(Role.VIEW, headers))


def test_the_service_may_open_as_many_descriptors_as_the_system_allows() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, before[1]), before[1]))
        descriptors.raise_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
