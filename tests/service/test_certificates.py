"""CAs of one's own are trusted besides the public ones, by every client that the service has."""

import os
import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from service import certificates
from service.certificates import BUNDLE, VARIABLES, trust
from service.errors import UnsafeSettings
from tests.conftest import ROOT
from tests.fakes.http import Request, serving
from tests.make.certificates import authority

CLIENTS = {
    "httpx": "import httpx, sys; httpx.get(sys.argv[1])",
    "requests": "import requests, sys; requests.get(sys.argv[1])",
    "botocore": "import botocore.session, sys; "
    "from botocore.config import Config; "
    "once = Config(retries={'total_max_attempts': 1}); "
    "client = botocore.session.get_session().create_client('s3', endpoint_url=sys.argv[1], "
    "region_name='x', aws_access_key_id='x', aws_secret_access_key='x', config=once); "
    "client.list_buckets()",
    "the standard library, as aiohttp": "import ssl, sys, urllib.request; "
    "urllib.request.urlopen(sys.argv[1], context=ssl.create_default_context())",
    "httplib2": "import httplib2, sys; httplib2.Http().request(sys.argv[1])",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A server with a certificate of a private authority; its address, and the certificate."""
    pem, key = authority(tmp_path_factory.mktemp("authority"), "private")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)

    def answer(request: Request) -> None:
        request.reply(200, b"<ListAllMyBucketsResult/>", "application/xml")

    with serving(Request, answer, context) as url:
        yield url, pem


@pytest.fixture
def environment() -> dict[str, str]:
    """That of a process, without certificates."""
    return {key: value for key, value in os.environ.items() if key not in VARIABLES}


def called(environment: dict[str, str], *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(words, env=environment, text=True, capture_output=True, check=False)


@pytest.mark.parametrize("name", CLIENTS)
def test_every_client_trusts_the_private_ca_and_no_other(
    server: tuple[str, Path], environment: dict[str, str], tmp_path: Path, name: str
) -> None:
    for trusted in (False, True):
        if trusted:
            trust(str(server[1]), tmp_path, environment)
        words = (sys.executable, "-c", CLIENTS[name], server[0])
        done = called(environment, *words)
        assert (done.returncode == 0) is trusted, done.stderr[-2000:]
        assert trusted or "certificate" in done.stderr.lower()


@pytest.mark.parametrize("name", ["git", "curl"])
def test_programs_trust_it(
    server: tuple[str, Path], environment: dict[str, str], tmp_path: Path, name: str
) -> None:
    words = {
        "git": ("ls-remote", f"{server[0]}/x.git"),
        "curl": ("--silent", "--show-error", server[0]),
    }
    if not shutil.which(name):
        pytest.skip(f"{name} is not installed")
    trust(str(server[1]), tmp_path, environment)
    assert "certificate" not in called(environment, name, *words[name]).stderr


def test_the_bundle_has_the_public_cas_and_a_second_start_does_not_grow_it(
    server: tuple[str, Path], environment: dict[str, str], tmp_path: Path
) -> None:
    public = tmp_path / "public.pem"
    public.write_text("-----BEGIN CERTIFICATE-----\npublic", encoding="ascii")
    environment["SSL_CERT_FILE"] = str(public)
    state = tmp_path / "state"
    trust(str(server[1]), state, environment)
    bundle = state / BUNDLE
    assert bundle.read_text() == f"{public.read_text()}\n{server[1].read_text()}\n"
    assert {environment[name] for name in VARIABLES} == {str(bundle)}
    trust(str(server[1]), state, environment)
    assert bundle.read_text().count(server[1].read_text()) == 1


def test_without_a_file_nothing_changes(environment: dict[str, str], tmp_path: Path) -> None:
    before = dict(environment)
    trust("", tmp_path / "state", environment)
    assert environment == before and not (tmp_path / "state").exists()


def test_what_cannot_be_trusted_stops_the_start_with_the_cure(
    server: tuple[str, Path],
    environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "text").write_text("landcover")
    for file in (tmp_path / "none", tmp_path / "text", tmp_path):
        with pytest.raises(UnsafeSettings, match="SERVICE_CA_FILE: '.*' holds no certificate: mou"):
            trust(str(file), tmp_path, environment)
    with pytest.raises(UnsafeSettings, match="cannot be written .*: correct SERVICE_STATE"):
        trust(str(server[1]), tmp_path / "text", environment)
    monkeypatch.setattr(certificates, "PUBLIC", (str(tmp_path / "none"),))
    with pytest.raises(UnsafeSettings, match="install ca-certificates"):
        trust(str(server[1]), tmp_path, environment)


def test_the_service_and_the_jobs_name_the_bundle_by_the_same_variables() -> None:
    script = (ROOT / "ci" / "credentials").read_text(encoding="utf-8")
    (listed,) = re.findall(r"for name in (SSL_CERT_FILE(?:.|\\\n)*?); do", script)
    jobs = set(listed.replace("\\", "").split())
    assert jobs - {"NODE_EXTRA_CA_CERTS", "PIP_CERT"} == set(VARIABLES)
    for path in certificates.PUBLIC:
        assert path in script
