"""Prometheus' answers as arrays: `instant` for now, `over` for a time."""

import re
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

import httpx
import numpy as np
import numpy.typing as npt

from monitoring.errors import MonitoringError

TIMEOUT = 60.0  # seconds; a query over 30 days takes a while
Floats = npt.NDArray[np.float64]


class Span(NamedTuple):
    """A time, in Unix seconds, and the step between its points."""

    start: float
    end: float
    step: float

    @property
    def times(self) -> Floats:
        """(n,) Unix seconds."""
        count = int((self.end - self.start) / self.step + 1e-6) + 1
        return self.start + self.step * np.arange(count, dtype=np.float64)


class Series(NamedTuple):
    """One series of an answer."""

    name: str
    labels: Mapping[str, str]
    values: Floats
    """(n,) at the times of the span; NaN where there is none. (1,) of an instant."""

    @property
    def now(self) -> float:
        """The last value that is one, NaN without any."""
        known = self.values[~np.isnan(self.values)]
        return float(known[-1]) if len(known) else float("nan")


class Prometheus:
    """Asks one Prometheus. Every method raises MonitoringError with what it said."""

    def __init__(self, url: str) -> None:
        """Connects at the first question."""
        # No proxy of the environment: Prometheus is near.
        self._client = httpx.Client(timeout=TIMEOUT, trust_env=False)
        self.url = url.rstrip("/")

    def __enter__(self) -> Self:
        """Use it in a `with`."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        self._client.close()

    def instant(self, expr: str, legend: str, time: float) -> list[Series]:
        """What a query gives at a time."""
        found = self._ask("query", {"query": expr, "time": str(time)})
        return [_series(row, legend, np.array([float(row["value"][1])])) for row in found]

    def over(self, expr: str, legend: str, span: Span) -> list[Series]:
        """What a query gives at each step of a span."""
        form = {"query": expr, "start": str(span.start), "end": str(span.end)}
        found = self._ask("query_range", form | {"step": str(span.step)})
        return [_series(row, legend, _aligned(row["values"], span)) for row in found]

    def _ask(self, what: str, form: dict[str, str]) -> list[dict[str, Any]]:
        try:
            answer = self._client.post(f"{self.url}/api/v1/{what}", data=form)
            document = answer.json()
            if document["status"] == "success":
                result: list[dict[str, Any]] = document["data"]["result"]
                return result
            said = f"{document['errorType']}: {document['error']}"
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise MonitoringError(
                f"{self.url} can not be reached ({type(error).__name__}): give the address of a "
                "Prometheus, as `make monitor` prints it"
            ) from None
        except (ValueError, KeyError, TypeError):
            raise MonitoringError(f"{self.url}: its answer is not that of a Prometheus") from None
        raise MonitoringError(f"{form['query']}: Prometheus says {said}")


def _series(row: dict[str, Any], legend: str, values: Floats) -> Series:
    labels = row["metric"]
    name = re.sub(r"{{\s*(\w+)\s*}}", lambda found: labels.get(found[1], ""), legend)
    return Series(name.strip(), labels, values)


def _aligned(pairs: list[tuple[float, str]], span: Span) -> Floats:
    """Put values at their steps, NaN between; Prometheus leaves steps without a value out."""
    values = np.full(len(span.times), np.nan)
    given = np.array([(float(time), float(value)) for time, value in pairs])  # (m, 2)
    places = np.rint((given[:, 0] - span.start) / span.step).astype(int)
    values[places] = given[:, 1]
    return values
