"""Addresses that may carry secrets."""

import pytest

from service.auth.addresses import check_url


def test_an_unencrypted_url_is_refused() -> None:
    unsafe = ("http://example.org", "https://", "http://", "//example.org", "")
    for url in (*unsafe, "http://127.0.0.1@x"):
        with pytest.raises(ValueError, match="^field: "):
            check_url("field", url)


def test_an_encrypted_or_local_url_is_accepted() -> None:
    for url in ("https://example.org", "http://127.0.0.1:8000", "http://[::1]/"):
        check_url("field", url)
    check_url("field", "http://localhost")
