"""HTTP by what the environment says of proxies and certificates.

httpx reads ALL_PROXY, HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE and the like when it makes a client, and
fails then with other errors than those of a request.
"""

import ipaddress
import os
from urllib.parse import urlsplit

import httpx

UNUSABLE = (ImportError, ValueError, OSError, httpx.InvalidURL)
"""What httpx raises for an environment that it cannot use."""
_PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_OF_LIBRARIES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE")


def environment_fault(error: Exception) -> str:
    """What to correct when httpx cannot use the environment; without a value: some are secret."""
    if isinstance(error, ImportError):
        return "a proxy of SOCKS needs a package: pip install socksio, or set HTTPS_PROXY instead"
    if isinstance(error, OSError):
        return missing_certificates() or (
            f"{_named(_CERTIFICATES)} names no file of certificates: correct it, or unset it"
        )
    return (
        f"{_named(_PROXIES)} holds no address of a proxy: correct it, as in "
        "http://proxy.example.com:3128, or unset it"
    )


def missing_certificates() -> str:
    """The variable that names a file of certificates which does not exist, and the cure.

    Empty if there is none. What libraries say of it is `No such file or directory`.
    """
    for name in (*_CERTIFICATES, *_OF_LIBRARIES):
        path = os.environ.get(name)
        if path and not os.path.exists(path):
            return f"{name} is {path!r}, and no such file exists: correct it, or unset it"
    return ""


def _named(variables: tuple[str, ...]) -> str:
    return " or ".join(
        name for name in variables if name in os.environ or name.lower() in os.environ
    )


def is_loopback(url: str) -> bool:
    """Whether an address is on this machine, so that no proxy leads there."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
