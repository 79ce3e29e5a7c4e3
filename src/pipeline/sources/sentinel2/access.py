"""Opening the files of a catalogue: a token at the moment of use, for its own hosts, in no file."""

import os
import time
from contextlib import suppress
from datetime import datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import requests

from pipeline.errors import SourceError
from pipeline.sources.sentinel2.catalogues import Catalogue, Patience

USER, PASSWORD = "COPERNICUS_USER", "COPERNICUS_PASSWORD"  # variables; never printed
EARLY = 60  # seconds before it ends that a token is renewed
LASTS = 600  # seconds, if its end is not named


class Access:
    """Signs requests for files, with a token that is renewed before it ends."""

    def __init__(self, catalogue: Catalogue, patience: Patience) -> None:
        self._catalogue, self._patience = catalogue, patience
        self._token, self._ends = "", 0.0
        self._session = ""
        """Of a log-in (OpenID's refresh token): many log-ins get an account blocked."""

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
            SourceError: the catalogue gives no token, or the address is not encrypted.
        """
        parts, own = urlsplit(url), urlsplit(self._catalogue.url)
        if parts.scheme != "https" and own.scheme == "https":
            raise SourceError(f"{parts.hostname} is not encrypted: choose another --catalogue")
        if not self.renewable or not f".{parts.hostname}".endswith(self._catalogue.hosts):
            return url, {}
        if time.time() >= self._ends - EARLY:
            self._renew()
        if self._catalogue.access == "sas":
            return f"{url}{'&' if parts.query else '?'}{self._token}", {}
        return url, {"Authorization": f"Bearer {self._token}"}

    def _renew(self) -> None:
        answer = self._ask()
        self._token = str(answer.get("access_token") or answer.get("token") or "")
        self._session = str(answer.get("refresh_token") or "")
        self._ends = time.time() + LASTS
        with suppress(TypeError, ValueError):
            if "expires_in" in answer:
                self._ends = time.time() + float(answer["expires_in"])
            elif "msft:expiry" in answer:
                self._ends = datetime.fromisoformat(answer["msft:expiry"]).timestamp()
        if not self._token:
            raise SourceError(f"{self._catalogue.name} gives an empty token: try again later")

    def _ask(self) -> dict[str, Any]:
        """Ask for a token, with more tries after temporary failures."""
        problem, attempt = "", 0
        while attempt < self._patience.tries:
            time.sleep(self._patience.wait * (2**attempt - 1))
            attempt += 1
            try:
                response = self._request()
                if response.ok:
                    return dict(response.json())
            except (requests.RequestException, ValueError, TypeError) as error:
                problem = type(error).__name__  # its text may quote a password
                continue
            problem = f"HTTP {response.status_code}"
            if response.status_code < HTTPStatus.INTERNAL_SERVER_ERROR and self._session:
                self._session = ""  # it has ended: log in again
            elif response.status_code in (400, 401, 403):
                break
        cure = f"check {USER} and {PASSWORD}" if self._catalogue.access == "oidc" else "wait"
        raise SourceError(
            f"{self._catalogue.name} gives no token ({problem}, try {attempt} of "
            f"{self._patience.tries}): {cure}, and run it again"
        )

    def _request(self) -> requests.Response:
        url = self._catalogue.token_url.format(collection=self._catalogue.collection)
        if self._catalogue.access == "sas":
            return requests.get(url, timeout=self._patience.timeout)
        form = {"client_id": "cdse-public", "grant_type": "refresh_token"}
        form["refresh_token"] = self._session
        if not self._session:
            user, password = os.environ.get(USER, ""), os.environ.get(PASSWORD, "")
            if not (user and password):
                raise SourceError(
                    f"files of {self._catalogue.name} need an account: set {USER} and {PASSWORD}, "
                    "or choose --catalogue earth-search"
                )
            form |= {"grant_type": "password", "username": user, "password": password}
            del form["refresh_token"]
        return requests.post(url, data=form, timeout=self._patience.timeout)
