"""Settings: read from the environment, refused when unsafe, and all of them documented."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from service.auth.roles import Role, new_key
from service.auth.addresses import is_loopback
from service.errors import UnsafeSettings
from service.settings import Settings, read_settings
from tests.conftest import ROOT
from tests.make.mounts import mount

DOCUMENT = ROOT / "docs" / "service.md"


def table() -> str:
    """The table of settings as docs/service.md must have it."""
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        lines.append(f"| `SERVICE_{name.upper()}` | {_default(field)} | {field.description} |")
    return "\n".join(lines) + "\n"


def _default(field: Any) -> str:
    if field.default_factory is not None and field.default is PydanticUndefined:
        return {"cores": "cores", "dict": "`{}`", "list": "`[]`"}[field.default_factory.__name__]
    if field.default is None:
        return "by address"
    if isinstance(field.default, SecretStr):
        return "empty"
    if isinstance(field.default, frozenset):
        return f"`{json.dumps(sorted(field.default))}`"
    return f"`{field.default}`" if str(field.default) else "empty"


def test_the_table_of_settings_is_the_code() -> None:
    assert table() in DOCUMENT.read_text(encoding="utf-8")


def test_the_defaults_are_safe_and_open_what_a_demo_needs() -> None:
    settings = read_settings()
    assert settings.host == "127.0.0.1"
    assert settings.roles_open_to_everybody() == {Role.PREDICT, Role.VIEW, Role.LABEL}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "models.example.com"])
def test_an_address_for_others_needs_keys(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_HOST", host)
    with pytest.raises(UnsafeSettings, match=r"no key is configured.*python -m service key"):
        read_settings()
    monkeypatch.setenv("SERVICE_API_KEYS", json.dumps({new_key()[1]: ["predict"]}))
    assert read_settings().roles_open_to_everybody() == frozenset()


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("localhost", True), ("", False)],
)
def test_loopback_is_recognised(host: str, local: bool) -> None:
    assert is_loopback(host) is local


def test_certificates_that_are_not_there_stop_the_start_and_not_each_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
    read_settings()
    monkeypatch.setenv("SERVICE_JWT_ISSUER", "https://gitlab.example.com")
    monkeypatch.setenv("SERVICE_JWT_AUDIENCE", "https://models.example.com")
    monkeypatch.setenv("SERVICE_JWT_JWKS", "https://gitlab.example.com/oauth/discovery/keys")
    monkeypatch.setenv("SERVICE_JWT_CLAIMS", '{"project_id": "42"}')
    with pytest.raises(UnsafeSettings, match="^SSL_CERT_FILE is '/nowhere.pem', and no such file"):
        read_settings()


def test_no_setting_is_refused_in_the_words_of_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        with monkeypatch.context() as patch:
            patch.setenv(f"SERVICE_{name.upper()}", "[{é")
            try:
                read_settings()
            except UnsafeSettings as error:
                assert "SERVICE_" in str(error), error
                assert "nput should" not in str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        (
            "PORT",
            "abc",
            "^SERVICE_PORT is 'abc', wanted a whole number: port to listen on; 0 takes",
        ),
        ("PORT", "70000", "^SERVICE_PORT is '70000', wanted at most 65535: port to listen on"),
        ("PORT", "", "^SERVICE_PORT is '', wanted a whole number"),
        ("WORKERS", "0", "^SERVICE_WORKERS is '0', wanted at least 1: processes"),
        ("DRAIN", "nan", "^SERVICE_DRAIN is 'nan', wanted "),
        ("LOG_LEVEL", "loud", "^SERVICE_LOG_LEVEL is 'loud', wanted one of 'debug', 'info'"),
        ("RELEASE", "a b", "^SERVICE_RELEASE: 'a b' is not a key of a ConfigMap: write letters"),
        ("TAG", "latest", "^SERVICE_TAG: 'latest' is not the tag of a model: write name@v1.2.3"),
        ("API_KEYS", "not JSON", "^SERVICE_API_KEYS is a value that is not shown, it is not JSON"),
        ("API_KEYS", "[]", r"wanted a mapping .JSON, such as {.SHA-256 of a key.: .*python -m"),
        ("OPEN_ROLES", "view", r"^SERVICE_OPEN_ROLES is 'view', it is not JSON .JSON, such as .."),
        ("JWT_ROLES", '["root"]', "SERVICE_JWT_ROLES is 'root', wanted one of .*'deploy'"),
        ("JWT_CLAIMS", '{"project_id": 42}', "SERVICE_JWT_CLAIMS is '42', wanted a text .JSON"),
        ("API_KEYS", '{"my-key": ["deploy"]}', "SHA-256.*python -m service key"),
        ("API_KEYS", json.dumps({"0" * 64: ["root"]}), "SERVICE_API_KEYS"),
        ("OPEN_ROLES", '["deploy"]', "deploy cannot be open to everybody"),
        ("JWT_ISSUER", "https://gitlab.example.com", "SERVICE_JWT_CLAIMS"),
        ("CONFIGMAP", "name", "^SERVICE_CONFIGMAP: 'name' is not namespace/name of a ConfigMap"),
        ("CONFIGMAP", "a/B", "^SERVICE_CONFIGMAP: 'a/B' is not namespace/name of a ConfigMap"),
        (
            "KUBERNETES_API",
            "x",
            "^SERVICE_KUBERNETES_API: address: 'x' is not encrypted: use https",
        ),
        ("JWT_JWKS", "http://a.example/k", "^SERVICE_JWT_JWKS: .* is not encrypted: use https"),
        (
            "REPOSITORY",
            "https://user:pass@git.example.com/a.git",
            "^SERVICE_REPOSITORY has a password in it, which command lines show: write the addre",
        ),
        ("HOST", "", "^SERVICE_HOST '' can be reached from elsewhere"),
        ("FEEDBACK", "mysql://host/name", "SERVICE_FEEDBACK: write postgresql://"),
        ("FEEDBACK_DAYS", "0", "SERVICE_FEEDBACK_DAYS is '0', wanted at least 1"),
        ("KEEP_IMAGES", "-1", "SERVICE_KEEP_IMAGES"),
        ("KEEP_BELOW", "1.5", "SERVICE_KEEP_BELOW is '1.5', wanted at most 1"),
        ("MAX_UPLOADS", "1", "unknown setting; did you mean SERVICE_MAX_UPLOAD?"),
        ("ZZZ", "1", "docs/service.md"),
    ],
)
def test_a_value_that_can_not_be_used_is_refused_with_the_cure(
    variable: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"SERVICE_{variable}", value)
    with pytest.raises(UnsafeSettings, match=said.replace("?", r"\?")):
        read_settings()


def test_keys_and_database_can_be_mounted_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVICE_HOST", "0.0.0.0")
    monkeypatch.setenv("SERVICE_SECRETS", str(tmp_path))
    with pytest.raises(UnsafeSettings, match="no key is configured"):
        read_settings()
    mount(tmp_path, "keys", {"api-keys": json.dumps({"1" * 64: ["view"]}) + "\n"})
    mount(tmp_path, "feedback", {"url": "postgresql://user:secret-word@host/name\n"})
    mount(tmp_path, "stream", {"client": '{"sasl.password": "secret-word"}\n'})
    settings = read_settings()
    assert settings.stream_client.get_secret_value() == '{"sasl.password": "secret-word"}'
    assert settings.api_keys == {"1" * 64: {Role.VIEW}}
    assert settings.feedback.get_secret_value() == "postgresql://user:secret-word@host/name"
    monkeypatch.setenv("SERVICE_API_KEYS", json.dumps({"0" * 64: ["deploy"]}))
    with pytest.raises(UnsafeSettings, match="SERVICE_API_KEYS: keys/api-keys is mounted in SER"):
        read_settings()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("keys/api-keys", b"cvy_secret", "SERVICE_SECRETS: keys/api-keys: it is not JSON"),
        ("keys/api-keys", b'{"cvy_secret": ["view"]}', "keys/api-keys: a key is given as its SHA"),
        ("keys/api-keys", b"\xff", "SERVICE_SECRETS: keys/api-keys: it is no text: write it ag"),
        ("keys/api-keys/x", b"", "SERVICE_SECRETS: keys/api-keys: Is a directory: let the user"),
        (
            "feedback/url",
            b"mysql://user:cvy_secret@host/name",
            "SERVICE_FEEDBACK: write postgresql:",
        ),
        ("stream/client", b"cvy_secret", "SERVICE_STREAM_CLIENT: write "),
        ("stream/client", b'["cvy_secret"]', "SERVICE_STREAM_CLIENT: write "),
    ],
)
def test_a_mounted_secret_that_cannot_be_used_stops_the_start_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_bytes(content)
    monkeypatch.setenv("SERVICE_SECRETS", str(tmp_path))
    with pytest.raises(UnsafeSettings, match=said) as caught:
        read_settings()
    assert "cvy_" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_of_secrets_that_is_not_there_stops_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVICE_SECRETS", str(tmp_path / "mistyped"))
    with pytest.raises(UnsafeSettings, match="^SERVICE_SECRETS: .* is no folder: mount the"):
        read_settings()


def test_a_token_is_not_sent_over_a_connection_that_others_can_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVICE_SECRETS", str(tmp_path))
    monkeypatch.setenv("SERVICE_REPOSITORY", "http://git.example.com/team/name.git")
    read_settings()  # without a token it is a repository that everybody may read
    mount(tmp_path, "git", {"username": "a", "password": "b"})
    with pytest.raises(UnsafeSettings, match="SERVICE_REPOSITORY: .* is not encrypted: use https"):
        read_settings()


def test_a_password_never_shows_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_FEEDBACK", "postgresql//user:secret-word@host/name")
    with pytest.raises(UnsafeSettings) as caught:
        read_settings()
    assert "secret-word" not in str(caught.value)
    monkeypatch.setenv("SERVICE_FEEDBACK", "postgresql://user:secret-word@host/name")
    assert "secret-word" not in repr(read_settings())


def test_a_plain_key_never_shows_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_API_KEYS", '{"cvy_secret": ["deploy"]}')
    with pytest.raises(UnsafeSettings) as caught:
        read_settings()
    assert "cvy_secret" not in str(caught.value)
