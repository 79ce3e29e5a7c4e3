"""The catalogues that are known by name, and how their files are opened.

What of their metadata is believed about the pixels is the table in `radiometry`. A token is asked
for when it is needed, goes to the hosts of its catalogue alone, and is written in no file.
"""

import os
import time
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import requests

from contracts.proxies import is_loopback
from pipeline.errors import SourceError

USER, PASSWORD = "COPERNICUS_USER", "COPERNICUS_PASSWORD"  # variables; never printed
EARLY = 60  # seconds before it ends that a token is renewed


class Patience(NamedTuple):
    """How long a catalogue may take. The first error comes within a minute."""

    connect: float = 6
    """Seconds."""
    read: float = 14
    """Seconds between two packets."""
    tries: int = 4
    wait: float = 1
    """Seconds before the second try; each further wait is twice as long."""
    longest: float = 30
    """Seconds, of what the server asks for (Retry-After)."""

    @property
    def timeout(self) -> tuple[float, float]:
        """As requests takes it."""
        return self.connect, self.read


class Catalogue(NamedTuple):
    """A STAC API."""

    name: str
    url: str
    collection: str = ""
    access: Literal["open", "sas", "oidc"] = "open"
    """How files are read: by anyone, by a signed address (Azure), by a bearer token (OpenID)."""
    token_url: str = ""
    hosts: tuple[str, ...] = ()
    """Ends of the names of hosts that get the token."""


CATALOGUES = {
    catalogue.name: catalogue
    for catalogue in (
        Catalogue("earth-search", "https://earth-search.aws.element84.com/v1", "sentinel-2-c1-l2a"),
        Catalogue(
            "planetary-computer",
            "https://planetarycomputer.microsoft.com/api/stac/v1",
            "sentinel-2-l2a",
            "sas",
            "https://planetarycomputer.microsoft.com/api/sas/v1/token/{collection}",
            (".blob.core.windows.net",),
        ),
        Catalogue(
            "copernicus",
            "https://stac.dataspace.copernicus.eu/v1",
            "sentinel-2-l2a",
            "oidc",
            "https://identity.dataspace.copernicus.eu/auth/realms/CDSE/protocol/openid-connect"
            "/token",
            (".dataspace.copernicus.eu",),
        ),
    )
}


def find_catalogue(name: str, collection: str) -> Catalogue:
    """Look up a catalogue by name, or take an address.

    Raises:
        SourceError: the name is unknown, the address is no address, or no collection is named.
    """
    catalogue = CATALOGUES.get(name)
    if catalogue is None:
        parts = urlsplit(name)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SourceError(
                f"--catalogue {name} is unknown: choose {', '.join(CATALOGUES)}, or give the "
                "address of a STAC API"
            )
        if parts.scheme == "http" and not is_loopback(name):
            raise SourceError(f"--catalogue {name} is not encrypted: use https://")
        if parts.username or parts.password:
            raise SourceError("--catalogue holds a password, which would be printed: remove it")
        catalogue = Catalogue(parts.netloc, name.rstrip("/"))
    return catalogue._replace(collection=collection or catalogue.collection)


class Access:
    """Signs requests for files with the token of a catalogue, renewed before it ends."""

    def __init__(self, catalogue: Catalogue, patience: Patience) -> None:
        self._catalogue, self._patience = catalogue, patience
        self._token, self._ends = "", 0.0
        self._refresh = ""

    @property
    def renewable(self) -> bool:
        """Whether a refused request is worth another try with a new token."""
        return self._catalogue.access != "open"

    def forget(self) -> None:
        """The token was refused: ask for a new one before the next request."""
        self._ends = 0.0

    def sign(self, url: str) -> tuple[str, dict[str, str]]:
        """The address and the headers that open a file now.

        Raises:
            SourceError: the catalogue gives no token.
        """
        host = f".{urlsplit(url).hostname or ''}"
        if not self.renewable or not host.endswith(self._catalogue.hosts):
            return url, {}
        if time.time() >= self._ends - EARLY:
            self._renew()
        if self._catalogue.access == "sas":
            return f"{url}{'&' if urlsplit(url).query else '?'}{self._token}", {}
        return url, {"Authorization": f"Bearer {self._token}"}

    def _renew(self) -> None:
        answer = self._ask()
        if self._catalogue.access == "sas":
            self._token = str(answer.get("token", ""))
            self._ends = time.time() + 600  # its own end is later
        else:
            self._token = str(answer.get("access_token", ""))
            self._refresh = str(answer.get("refresh_token", ""))
            self._ends = time.time() + float(answer.get("expires_in", 600))
        if not self._token:
            raise SourceError(
                f"{self._catalogue.name} gave no token for its files: try again later"
            )

    def _ask(self) -> Mapping[str, Any]:
        """Ask for a token, with more tries after temporary failures."""
        url = self._catalogue.token_url.format(collection=self._catalogue.collection)
        problem = ""
        for attempt in range(self._patience.tries):
            time.sleep(self._patience.wait * (2**attempt - 1))
            form = self._form() if self._catalogue.access == "oidc" else None
            try:
                response = requests.request(
                    "POST" if form else "GET", url, data=form, timeout=self._patience.timeout
                )
                if response.ok:
                    return dict(response.json())
                problem = f"HTTP {response.status_code}"
            except (requests.RequestException, ValueError, TypeError) as error:
                problem = type(error).__name__  # the text of an error may quote the address
                continue
            if self._refresh and response.status_code < 500:
                self._refresh = ""  # the session has ended: log in again
            elif response.status_code in (400, 401, 403):
                break
        cure = f"check {USER} and {PASSWORD}" if self._catalogue.access == "oidc" else "wait"
        raise SourceError(
            f"{self._catalogue.name} gives no token ({problem}, try {attempt + 1} of "
            f"{self._patience.tries}): {cure} and run it again"
        )

    def _form(self) -> dict[str, str]:
        """Log in once, then go on with the session: many log-ins at once get an account blocked."""
        form = {"client_id": "cdse-public"}
        if self._refresh:
            return form | {"grant_type": "refresh_token", "refresh_token": self._refresh}
        user, password = os.environ.get(USER, ""), os.environ.get(PASSWORD, "")
        if not (user and password):
            raise SourceError(
                f"{self._catalogue.name} gives files to accounts alone: set {USER} and {PASSWORD}, "
                "or choose --catalogue earth-search"
            )
        return form | {"grant_type": "password", "username": user, "password": password}
