"""Addresses: which of them only this machine can reach, and which may carry secrets."""

from ipaddress import ip_address
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host, judged by its name alone."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def is_loopback_url(url: str) -> bool:
    """Whether the host of a URL is this machine."""
    return is_loopback(urlsplit(url).hostname or "")


def check_url(field: str, url: str) -> None:
    """Raise ValueError for a URL that would carry secrets or keys unencrypted."""
    parts = urlsplit(url)
    if not parts.hostname or not (
        parts.scheme == "https" or parts.scheme == "http" and is_loopback_url(url)
    ):
        raise ValueError(f"{field}: {url!r} is not encrypted: use https:// (or http on loopback)")
