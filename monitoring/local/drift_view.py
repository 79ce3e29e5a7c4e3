"""Drift as a service measures it, and the alerts that Prometheus derives from it."""

from typing import Any, NamedTuple
from urllib.parse import urlencode

import httpx
from prometheus_client.parser import text_string_to_metric_families

from monitoring.errors import MonitoringError
from monitoring.local.traffic import Input
from monitoring.objectives import SERVICE

ALERT = "ModelDrift"


class Score(NamedTuple):
    """The distance of one signal from the reference, by one measure."""

    signal: str
    measure: str
    value: float
    threshold: float

    @property
    def ratio(self) -> float:
        """Value divided by threshold; above 1 is drift."""
        return self.value / self.threshold

    def __str__(self) -> str:
        """For people, in one line."""
        return f"{self.signal} {self.measure} {self.value:.2f} (drift above {self.threshold:.2f})"


class Drift(NamedTuple):
    """The drift metrics of a service."""

    samples: int
    """In the window."""
    window: float
    """Seconds."""
    scores: tuple[Score, ...]
    """The worst first."""
    insufficient: tuple[str, ...]
    """Reasons why signals have no score."""


def read_drift(text: str) -> Drift:
    """Read the drift metrics of a text of `/metrics`.

    Raises:
        MonitoringError: the service does not measure drift.
    """
    found: dict[str, dict[tuple[str, str], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith("model_drift_"):
                rest = sample.labels.get("measure") or sample.labels.get("reason") or ""
                place = found.setdefault(sample.name.removeprefix("model_drift_"), {})
                place[sample.labels.get("signal", ""), rest] = sample.value
    if "window_seconds" not in found:
        raise MonitoringError(
            "the service does not measure drift: its bundle has no reference; "
            "`make demo` trains and serves a bundle that has one"
        )
    thresholds = found.get("threshold", {})
    scores = [
        Score(*key, value, thresholds[key])
        for key, value in found.get("score", {}).items()
        if thresholds.get(key, 0) > 0
    ]
    return Drift(
        samples=int(max(found.get("samples", {}).values(), default=0)),
        window=max(found["window_seconds"].values()),
        scores=tuple(sorted(scores, key=lambda score: -score.ratio)),
        insufficient=tuple(
            sorted(
                {reason for (_, reason), value in found.get("insufficient", {}).items() if value}
            )
        ),
    )


class MonitoredService:
    """A service, and the Prometheus that scrapes it."""

    def __init__(self, service: str, prometheus: str, client: httpx.Client, key: str = "") -> None:
        """Take their addresses as host:port; `key` is a key of the service, if it wants one."""
        self.service = f"http://{service}"
        self.prometheus = f"http://{prometheus}"
        self.headers = {"authorization": f"Bearer {key}"} if key else {}
        self._client = client

    def model_input(self) -> Input:
        """The input of the model.

        Raises:
            MonitoringError: the service does not respond, or has no model.
        """
        model = self._get(f"{self.service}/version", "`make demo` in another terminal").get("model")
        if not model:
            raise MonitoringError(f"the service at {self.service} has no model: make demo")
        wanted = model["input"]
        return Input(len(wanted["bands"]), wanted.get("nodata"), int(wanted["valid_max"]))

    def drift(self) -> Drift:
        """The drift that the service measures now."""
        try:
            response = self._client.get(f"{self.service}/metrics", headers=self.headers)
            response.raise_for_status()
        except httpx.HTTPError as error:
            raise MonitoringError(f"/metrics of {self.service}: {error}") from None
        return read_drift(response.text)

    def alerts(self) -> list[dict[str, Any]]:
        """The alerts of drift in Prometheus, pending ones too.

        Raises:
            MonitoringError: Prometheus does not respond.
        """
        found = self._prometheus("/api/v1/alerts")["alerts"]
        return [alert for alert in found if alert["labels"].get("alertname") == ALERT]

    def is_scraped(self) -> bool:
        """Whether Prometheus scrapes a service."""
        query = urlencode({"query": f"up{{{SERVICE}}} == 1"})
        return bool(self._prometheus(f"/api/v1/query?{query}")["result"])

    def alertmanagers(self) -> list[str]:
        """The addresses to which Prometheus sends its alerts."""
        found = self._prometheus("/api/v1/alertmanagers")["activeAlertmanagers"]
        return [str(item["url"]).partition("/api/")[0] for item in found]

    def _prometheus(self, path: str) -> Any:
        return self._get(self.prometheus + path, "`make monitor` in another terminal")["data"]

    def _get(self, url: str, cure: str) -> Any:
        try:
            response = self._client.get(url, headers=self.headers if self.service in url else {})
            response.raise_for_status()
            return response.json()
        except httpx.TransportError as error:
            place = url.partition("//")[2].partition("/")[0]
            reason = str(error) or type(error).__name__
            raise MonitoringError(f"nothing responds on {place} ({reason}): {cure}") from None
        except (httpx.HTTPError, ValueError) as error:
            raise MonitoringError(f"{url}: unexpected response: {error}") from None
