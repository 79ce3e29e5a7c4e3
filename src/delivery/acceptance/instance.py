"""One Grafana, through its HTTP API; what it refuses becomes one sentence with the cure."""

import re
from typing import Any, NamedTuple

import httpx

from contracts.proxies import missing_certificates
from delivery.errors import GrafanaError
from delivery.http import EnvironmentFault, send

Document = dict[str, Any]
TOKEN = "GRAFANA_TOKEN"
OLDEST = (11, 6)
"""Of what the dashboards' builder writes."""
TIMEOUT = 30.0  # seconds for each answer
ROLE = "the service account of the token needs the role Editor"


class Refused(GrafanaError):
    """Grafana answered with an error."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Source(NamedTuple):
    """A data source of the kind Prometheus."""

    name: str
    uid: str
    default: bool


class Instance:
    """A Grafana and the token of a service account. Every method raises GrafanaError."""

    def __init__(self, url: str, token: str, timeout: float = TIMEOUT) -> None:
        self.url, self._timeout = parse_url(url), timeout
        accounts = f"{self.url}/org/serviceaccounts"
        if not token:
            raise GrafanaError(
                f"{TOKEN}: not set: add a token to a service account with the role Editor at "
                f"{accounts}"
            )
        if not re.fullmatch(r"[!-~]+", token):
            raise GrafanaError(
                f"{TOKEN}: it has a blank or a letter that no token has: copy it again, or make "
                f"another one at {accounts}"
            )
        self._headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        self._accounts = accounts

    def version(self) -> str:
        """Its version; empty where its administrator hides it.

        Raises:
            GrafanaError: no Grafana answers there, or it is too old.
        """
        response = self._send("GET", "/api/health")
        if response.is_redirect:
            self._answer(response, "a question for its health")
        found = _document(response)
        if "database" not in found:
            raise GrafanaError(
                f"URL: {self.url} is no Grafana (its /api/health answers {response.status_code}): "
                "give the address of its start page, with the path if it has one"
            )
        version = str(found.get("version", ""))
        numbers = re.match(r"(\d+)\.(\d+)", version)
        if numbers and tuple(map(int, numbers.groups())) < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            raise GrafanaError(
                f"URL: {self.url} is Grafana {version}, which is too old: the dashboards need "
                f"{oldest} or newer (compose.yaml has one)"
            )
        return version

    def sources(self) -> list[Source]:
        """Its data sources of the kind Prometheus, as a browser asks: no Admin is needed."""
        found = self._ask("GET", "/api/frontend/settings", "the list of data sources")
        rows = found.get("datasources") or {}
        return [
            Source(name, str(row.get("uid")), name == found.get("defaultDatasource"))
            for name, row in sorted(rows.items())
            if row.get("type") == "prometheus"
        ]

    def make_folder(self, uid: str) -> None:
        """Make an empty folder whose title is its uid."""
        self._ask("POST", "/api/folders", "a new folder", {"uid": uid, "title": uid})

    def load(self, document: Document, folder: str) -> Document:
        """Import a dashboard into a folder; returns it as Grafana has stored it."""
        uid = document["uid"]
        body = {"dashboard": document, "folderUid": folder, "overwrite": False}
        self._ask("POST", "/api/dashboards/db", f"the dashboard {document['title']!a}", body)
        stored: Document = self._ask(
            "GET", f"/api/dashboards/uid/{uid}", f"reading {document['title']!a} again"
        )
        return stored

    def query(self, queries: list[Document], start: str, end: str) -> dict[str, Document]:
        """Results by refId; one that failed has an `error`."""
        body = {"queries": queries, "from": start, "to": end}
        response = self._send("POST", "/api/ds/query", body)
        # 400, in versions also 207, when one of the queries failed.
        found = _document(response) if response.status_code in (200, 207, 400) else {}
        if isinstance(found.get("results"), dict):
            return dict(found["results"])
        self._answer(response, "a query")
        raise GrafanaError(f"{self.url}: /api/ds/query answers without results: look at its log")

    def remove(self, kind: str, uid: str) -> None:
        """Delete a folder (`folders`) or dashboard (`dashboards/uid`); one that is gone is fine."""
        try:
            self._ask("DELETE", f"/api/{kind}/{uid}", f"the deletion of {uid}")
        except Refused as refused:
            if refused.status != 404:
                raise

    def _ask(self, method: str, path: str, what: str, body: Document | None = None) -> Document:
        return self._answer(self._send(method, path, body), what)

    def _send(self, method: str, path: str, body: Document | None = None) -> httpx.Response:
        try:
            return send(
                method,
                f"{self.url}{path}",
                headers=self._headers,
                json=body,
                timeout=self._timeout,
            )
        except EnvironmentFault as error:
            raise GrafanaError(str(error)) from None
        except httpx.TimeoutException:
            raise GrafanaError(
                f"URL: {self.url} does not answer {method} {path} within {self._timeout:g} s: look "
                "at the load of Grafana and of its Prometheus, or wait longer with --seconds"
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            cure = missing_certificates() or "SSL_CERT_FILE takes the certificate of a private CA"
            raise GrafanaError(
                f"URL: {self.url} cannot be reached ({error}): check the address and the way "
                f"there; {cure}"
            ) from None

    def _answer(self, response: httpx.Response, what: str) -> Document:
        """The document of a response.

        Raises:
            Refused: it is an error.
        """
        status = response.status_code
        if response.is_success:
            return _document(response)
        if response.is_redirect:
            target = response.headers.get("location", "elsewhere")
            text = (
                f"URL: {self.url} leads to {target!a}: give the address where that ends; a login "
                "page before Grafana has to let its token through"
            )
        elif status == 401:
            text = (
                f"{TOKEN}: Grafana does not know the token, or it has expired: make another one at "
                f"{self._accounts}"
            )
        elif status == 403:
            text = f"{TOKEN}: Grafana refuses {what} ({_message(response)}): {ROLE}"
        else:
            text = f"Grafana refuses {what}: {status}, {_message(response)}"
        raise Refused(text, status)


def parse_url(text: str) -> str:
    """The address of a Grafana, without a slash at its end."""
    try:
        url = httpx.URL(text.strip())
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host or url.query or url.userinfo:
        raise GrafanaError(
            f"URL: {text!a} is not the address of a Grafana: write https://grafana.example.com, "
            "with the path of its start page if it has one"
        )
    return str(url).rstrip("/")


def choose(sources: list[Source], wanted: str) -> Source:
    """The data source of that name or uid; without one the default, or the only one.

    Raises:
        GrafanaError: there is none, or several.
    """
    names = ", ".join(source.name for source in sources)
    if not sources:
        raise GrafanaError(
            "SOURCE: this Grafana has no data source of the kind Prometheus: add one under "
            "Connections, Data sources, with the address of the Prometheus that scrapes the service"
        )
    if wanted:
        chosen = [source for source in sources if wanted in (source.name, source.uid)]
        cure = f"write one of {names}"
    else:
        chosen = [source for source in sources if source.default] or sources
        cure = f"write SOURCE= and one of {names}"
    if len(chosen) != 1:
        what = f"{wanted!a} is not a Prometheus of this Grafana" if wanted else "several fit"
        raise GrafanaError(f"SOURCE: {what}: {cure}")
    return chosen[0]


def _document(response: httpx.Response) -> Document:
    """Its JSON object; empty for anything else."""
    try:
        found = response.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _message(response: httpx.Response) -> str:
    """What Grafana says of an error, printable and not long."""
    text = str(_document(response).get("message") or response.reason_phrase)
    return " ".join(text.split())[:300].rstrip(".")
