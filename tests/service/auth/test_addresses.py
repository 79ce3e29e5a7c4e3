"""Addresses that may carry secrets."""

import pytest

from service.auth.addresses import check_url


@pytest.mark.parametrize(
    "url", ["http://example.org", "https://", "http://", "//example.org", "", "http://127.0.0.1@x"]
)
def test_an_unencrypted_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="^field: "):
        check_url("field", url)


@pytest.mark.parametrize(
    "url", ["https://example.org", "http://127.0.0.1:8000", "http://[::1]/", "http://localhost"]
)
def test_an_encrypted_or_local_url_is_accepted(url: str) -> None:
    check_url("field", url)
