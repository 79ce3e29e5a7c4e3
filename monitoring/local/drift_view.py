"""What a service measures of drift, and what Prometheus makes of it."""

from typing import Any, NamedTuple

import httpx
from prometheus_client.parser import text_string_to_metric_families

from monitoring.errors import MonitoringError
from monitoring.local.traffic import Input

ALERT = "ModelDrift"


class Score(NamedTuple):
    """How far one signal is from the reference, by one measure."""

    signal: str
    measure: str
    value: float
    threshold: float

    @property
    def ratio(self) -> float:
        """Of the value to what would be too far; above 1 is drift."""
        return self.value / self.threshold

    def __str__(self) -> str:
        """The worst one in a line."""
        return f"{self.signal} {self.measure} {self.value:.2f} (drift above {self.threshold:.2f})"


class Look(NamedTuple):
    """What the service says about drift."""

    samples: int
    """In the window."""
    window: float
    """Seconds; 0 when it does not say."""
    scores: tuple[Score, ...]
    """The worst one first."""
    insufficient: tuple[str, ...]
    """Why signals have no score."""


def read_look(text: str) -> Look:
    """Read what `/metrics` says.

    Raises:
        MonitoringError: it does not measure drift.
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
            "the service does not measure drift: its bundle carries no reference, or it is an "
            "older one; `make demo` trains and serves one that does"
        )
    thresholds = found.get("threshold", {})
    scores = [
        Score(*key, value, thresholds[key])
        for key, value in found.get("score", {}).items()
        if thresholds.get(key, 0) > 0
    ]
    return Look(
        samples=int(max(found.get("samples", {}).values(), default=0)),
        window=max(found["window_seconds"].values()),
        scores=tuple(sorted(scores, key=lambda score: -score.ratio)),
        insufficient=tuple(
            sorted(
                {reason for (_, reason), value in found.get("insufficient", {}).items() if value}
            )
        ),
    )


class Watched:
    """The service, and the Prometheus that watches it."""

    def __init__(self, service: str, prometheus: str, client: httpx.Client, key: str = "") -> None:
        """Take their addresses; `key` is one of the service, if it wants one."""
        self.service = f"http://{service}"
        self.prometheus = f"http://{prometheus}"
        self.headers = {"authorization": f"Bearer {key}"} if key else {}
        self._client = client

    def input(self) -> Input:
        """What the model wants.

        Raises:
            MonitoringError: the service is not there, or has no model.
        """
        model = self._ask(f"{self.service}/version", "`make demo` in another terminal").get("model")
        if not model:
            raise MonitoringError(f"the service at {self.service} has no model: make demo")
        wanted = model["input"]
        return Input(len(wanted["bands"]), wanted.get("nodata"), int(wanted["valid_max"]))

    def look(self) -> Look:
        """What the service measures now."""
        try:
            answer = self._client.get(f"{self.service}/metrics", headers=self.headers)
            answer.raise_for_status()
        except httpx.HTTPError as error:
            raise MonitoringError(f"/metrics of {self.service}: {error}") from None
        return read_look(answer.text)

    def alerts(self) -> list[dict[str, Any]]:
        """The alerts of drift that Prometheus knows, pending ones too.

        Raises:
            MonitoringError: Prometheus is not there.
        """
        found = self._prometheus("/api/v1/alerts")["alerts"]
        return [alert for alert in found if alert["labels"].get("alertname") == ALERT]

    def watched(self) -> bool:
        """Whether Prometheus has a service that it scrapes."""
        query = "/api/v1/query?query=up%7Bjob%3D%22landcover%22%7D%3D%3D1"
        return bool(self._prometheus(query)["result"])

    def alertmanagers(self) -> list[str]:
        """Where Prometheus sends its alerts."""
        found = self._prometheus("/api/v1/alertmanagers")["activeAlertmanagers"]
        return [str(item["url"]).partition("/api/")[0] for item in found]

    def _prometheus(self, path: str) -> Any:
        return self._ask(self.prometheus + path, "`make monitor` in another terminal")["data"]

    def _ask(self, url: str, cure: str) -> Any:
        try:
            answer = self._client.get(url, headers=self.headers if self.service in url else {})
            answer.raise_for_status()
            return answer.json()
        except httpx.TransportError as error:
            place = url.partition("//")[2].partition("/")[0]
            reason = str(error) or type(error).__name__
            raise MonitoringError(f"nothing answers on {place} ({reason}): {cure}") from None
        except (httpx.HTTPError, ValueError) as error:
            raise MonitoringError(f"{url} is not what was expected there: {error}") from None
