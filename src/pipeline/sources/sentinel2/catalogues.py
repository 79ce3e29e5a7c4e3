"""The catalogues that are known by name.

What of their metadata is believed about the pixels is the table in `radiometry`.
"""

from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from contracts.proxies import is_loopback
from pipeline.errors import SourceError


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
        if parts.username or parts.password or parts.query:
            raise SourceError(
                "--catalogue has more than an address, which would be written into the data: "
                "remove the rest"
            )
        catalogue = Catalogue(parts.netloc, name.rstrip("/"))
    return catalogue._replace(collection=collection or catalogue.collection)
