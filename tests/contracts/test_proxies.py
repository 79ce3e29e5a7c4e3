"""What the environment says of certificates."""

from pathlib import Path

import pytest

from contracts.proxies import environment_fault, missing_certificates


def test_a_file_of_certificates_that_does_not_exist_is_named_with_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    assert missing_certificates() == ""
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "/nowhere.pem")
            said = f"{name} is '/nowhere.pem', and no such file exists: correct it, or unset it"
            assert missing_certificates() == said
            assert environment_fault(FileNotFoundError()) == said
    assert "SSL_CERT_FILE or SSL_CERT_DIR names no file" in environment_fault(OSError("garbage"))
