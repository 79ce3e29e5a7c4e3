"""`. ci/credentials`: what a job was given reaches the programs that need it."""

import os
import shutil
import ssl
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dvc.config import Config

from tests.conftest import ROOT, run
from tests.fakes.http import Handler, serving
from tests.make.certificates import authority

SOURCED = f". {ROOT / 'ci' / 'credentials'}"
CLIENTS = {
    "curl": ("curl", "--fail", "--silent", "--show-error"),
    "requests": (sys.executable, "-c", "import requests, sys; requests.get(sys.argv[1])"),
    "httpx": (sys.executable, "-c", "import httpx, sys; httpx.get(sys.argv[1])"),
    "httplib2": (
        sys.executable,
        "-c",
        "import httplib2, sys; httplib2.Http().request(sys.argv[1])",
    ),
    "boto": (
        *(sys.executable, "-c"),
        "import botocore.session, sys; botocore.session.get_session().create_client('s3', 'eu-1',"
        "endpoint_url=sys.argv[1], aws_access_key_id='a', aws_secret_access_key='b')"
        ".head_bucket(Bucket='b')",
    ),
    "node": ("node", "-e", "fetch(process.argv[1]).catch(e => { throw e.cause })"),
    "git": ("git", "ls-remote"),
    # skopeo takes an address without a scheme, and is written in Go as kubectl and trivy are.
    "skopeo": ("sh", "-c", 'skopeo inspect "docker://${0#https://}/image"'),
}
"""Client -> the command that asks the address at its end."""
MANIFEST = b'{"schemaVersion": 2, "config": {"digest": "sha256:0"}, "layers": []}'


class Website(Handler[None]):
    """Answers everybody with something that is good enough."""

    def do_GET(self) -> None:
        self.reply(200, MANIFEST if "/manifests/" in self.path else b"")

    def do_HEAD(self) -> None:
        self.reply(200)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A server with a certificate of a private CA: its address, and the CA."""
    certificate, key = authority(tmp_path_factory.mktemp("ca"), "private")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serving(Website, None, context) as address:
        yield address, certificate


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The checkout of a job without credentials, as the working directory."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "CI_", "GDRIVE_")) or name.endswith(CERTIFICATES):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CI_PROJECT_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".dvc").mkdir()
    return tmp_path


CERTIFICATES = ("_CA_BUNDLE", "SSL_CERT_FILE", "_CA_CERTS", "_CAINFO", "PIP_CERT", "SSL_CERT_DIR")


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("variable", ["CI_SERVER_TLS_CA_FILE", "PRIVATE_CA_FILE"])
def test_every_client_trusts_the_private_ca_and_no_other(
    job: Path,
    server: tuple[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    client: str,
    variable: str,
) -> None:
    address, certificate = server
    if shutil.which(CLIENTS[client][0]) is None or client == "skopeo" and not shutil.which(client):
        pytest.skip(f"{client} is not installed: make setup-e2e")
    for trusted in (False, True):
        if trusted:
            monkeypatch.setenv(variable, str(certificate))
        words = ("bash", "-euc", f'{SOURCED} && exec "$@"', "-", *CLIENTS[client], address)
        done = run(*words, check=False)
        refused = "certificate" in done.stderr.lower() and done.returncode != 0
        assert refused is not trusted, f"{client}: {done.stderr[-2000:]}"


def sourced(*words: str) -> str:
    """What a command prints in a job that has sourced ci/credentials."""
    return run("bash", "-euc", f'{SOURCED} && exec "$@"', "-", *words).stdout.strip()


def test_the_bundle_keeps_the_public_cas(
    job: Path, server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    public = job / "public.pem"
    public.write_text("-----BEGIN CERTIFICATE-----\npublic", encoding="ascii")
    monkeypatch.setenv("SSL_CERT_FILE", str(public))
    monkeypatch.setenv("CI_SERVER_TLS_CA_FILE", str(server[1]))
    bundle = Path(sourced("printenv", "SSL_CERT_FILE")).read_text(encoding="ascii")
    assert bundle == f"{public.read_text()}\n{server[1].read_text()}\n"


def test_a_job_may_source_it_twice(
    job: Path, server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRIVATE_CA_FILE", str(server[1]))
    once = Path(sourced("printenv", "CURL_CA_BUNDLE")).stat().st_size
    words = ("bash", "-euc", f"{SOURCED} && {SOURCED} && printenv CURL_CA_BUNDLE")
    assert Path(run(*words).stdout.strip()).stat().st_size == once


def test_without_a_private_ca_nothing_about_certificates_changes(job: Path) -> None:
    names = [line.partition("=")[0] for line in sourced("env").splitlines()]
    assert [name for name in names if name.endswith(CERTIFICATES)] == []


def test_a_ca_that_is_no_certificate_ends_the_job_with_the_cure(
    job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable of the type Variable holds the text, and not the path of a file."""
    (job / "ca").write_text("landcover", encoding="ascii")
    monkeypatch.setenv("PRIVATE_CA_FILE", str(job / "ca"))
    done = run("bash", "-c", f"{SOURCED}; echo went on", check=False)
    assert done.returncode == 1 and "went on" not in done.stdout
    assert "error: PRIVATE_CA_FILE: " in done.stderr
    assert "holds no certificate in PEM: set a variable of the type File" in done.stderr


def test_options_and_umask_stay_those_of_the_job(job: Path) -> None:
    done = run("bash", "-c", f"{SOURCED}; umask; echo $-; echo ${{undefined}}")
    plain = run("bash", "-c", "umask; echo $-; echo ${undefined}")
    assert done.stdout == plain.stdout


# Web identity: only with a role.

RESOLVE = (
    "import botocore.session; "
    "found = botocore.session.get_session().get_credentials(); "
    "print(found and found.method)"
)


@pytest.mark.parametrize(
    ("given", "method"),
    [
        ({"AWS_ID_TOKEN": "token"}, "None"),
        ({"AWS_ID_TOKEN": "token", "AWS_ROLE_ARN": ""}, "None"),
        (
            {"AWS_ID_TOKEN": "t", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"},
            "env",
        ),
        (
            {"AWS_ID_TOKEN": "token", "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/x"},
            "assume-role-with-web-identity",
        ),
    ],
)
def test_a_token_without_a_role_hides_no_other_credentials(
    job: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], method: str
) -> None:
    """botocore refuses a token file without a role instead of asking the instance."""
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert sourced(sys.executable, "-c", RESOLVE) == method


def test_the_token_is_for_this_user_alone(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ID_TOKEN", "secret")
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/x")
    file = Path(sourced("printenv", "AWS_WEB_IDENTITY_TOKEN_FILE"))
    assert file.read_text(encoding="ascii") == "secret"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_dvc_gets_the_key_file_of_google_drive(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GDRIVE_CREDENTIALS_FILE", "/builds/a b.tmp/GDRIVE_CREDENTIALS_FILE")
    sourced("true")
    (job / ".dvc/config").write_text(
        "['remote \"team-drive\"']\n    url = gdrive://x\n", encoding="ascii"
    )
    remote = Config(str(job / ".dvc"))["remote"]["team-drive"]
    assert remote["gdrive_service_account_json_file_path"] == os.environ["GDRIVE_CREDENTIALS_FILE"]
