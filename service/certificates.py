"""CAs of your own, which every client of the service trusts besides the public ones.

One bundle of both is named by the variable that each client reads: OpenSSL and httpx, requests,
botocore, curl, httplib2 (Google Drive) and Git. ci/credentials does the same for a job.
"""

import os
from collections.abc import MutableMapping
from pathlib import Path

from service.errors import UnsafeSettings
from service.files import replace_file

PUBLIC = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)
"""Where distributions keep the public CAs."""
VARIABLES = (
    *("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE"),
    *("AWS_CA_BUNDLE", "HTTPLIB2_CA_CERTS", "GIT_SSL_CAINFO"),
)
BUNDLE = "ca-bundle.pem"


def trust(file: str, state: Path, environment: MutableMapping[str, str] = os.environ) -> None:
    """Write the bundle into the state, and name it to all clients; without a file, do nothing.

    Raises:
        UnsafeSettings: the file has no certificate, there are no public CAs, or the state cannot be
            written.
    """
    if not file:
        return
    public = next((path for path in _public(environment) if _is_bundle(path)), None)
    if not _is_bundle(file):
        raise UnsafeSettings(
            f"SERVICE_CA_FILE: {file!a} holds no certificate: mount a file with CAs in PEM"
        )
    if public is None:
        raise UnsafeSettings("SERVICE_CA_FILE: no public CAs are here: install ca-certificates")
    bundle = (state / BUNDLE).absolute()
    try:
        state.mkdir(parents=True, exist_ok=True)
        # The last line of a file often lacks its end.
        content = b"".join(Path(path).read_bytes() + b"\n" for path in (public, file))
        replace_file(bundle, content, durable=False)
    except OSError as error:
        raise UnsafeSettings(
            f"SERVICE_CA_FILE: {str(bundle)!a} cannot be written ({error.strerror}): "
            "correct SERVICE_STATE"
        ) from None
    environment.update(dict.fromkeys(VARIABLES, str(bundle)))


def _public(environment: MutableMapping[str, str]) -> tuple[str, ...]:
    given = environment.get("SSL_CERT_FILE", "")
    return PUBLIC if Path(given).name == BUNDLE else (given, *PUBLIC)


def _is_bundle(path: str) -> bool:
    try:
        return b"BEGIN CERTIFICATE" in Path(path).read_bytes()
    except (OSError, ValueError):
        return False
