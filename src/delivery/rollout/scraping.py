"""Whether Prometheus scrapes a stage: without that no alert fires, and a canary has no data.

`PROMETHEUS_URL` is its address; it may contain a password and is never printed.
"""

import os

import httpx

from delivery.errors import RolloutError
from delivery.http import send

VARIABLE = "PROMETHEUS_URL"
TIMEOUT = 10.0  # seconds


class Unscraped(RolloutError):
    """Prometheus answers, and measures no pod of the stage."""


def describe(app: str, namespace: str) -> str:
    """One line: how many pods of the stage Prometheus scrapes, or why that is unknown.

    Raises:
        Unscraped: none.
    """
    url = os.environ.get(VARIABLE, "")
    if not url:
        return f"scraping: not checked, {VARIABLE} is not set"
    query = f'up{{job="{app}",namespace="{namespace}"}}'
    try:
        values = _ask(url, query)
    except httpx.HTTPStatusError as error:
        return f"scraping: not checked, {VARIABLE} answers {error.response.status_code}"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return f"scraping: not checked, no answer from {VARIABLE} ({type(error).__name__})"
    except (ValueError, LookupError, TypeError):
        return f"scraping: not checked, {VARIABLE} is not the address of a Prometheus"
    if not values:
        raise Unscraped(
            f"Prometheus does not scrape {namespace}: no series {query}. It selects "
            "ServiceMonitors by label: compare monitorLabels in values.yaml with `kubectl get "
            "prometheus --all-namespaces --output yaml`"
        )
    if not any(values):
        raise Unscraped(
            f"Prometheus reaches no pod of {namespace}: write its namespace into callers "
            "in values.yaml"
        )
    return f"scraping: {sum(map(bool, values))} of {len(values)} pods"


def _ask(url: str, query: str) -> list[float]:
    """Values of the series that a query gives.

    Raises:
        httpx.HTTPError: no answer, or not 200.
        ValueError, LookupError, TypeError: the answer is not Prometheus'.
    """
    response = send(
        "GET", f"{url.rstrip('/')}/api/v1/query", params={"query": query}, timeout=TIMEOUT
    )
    response.raise_for_status()
    return [float(series["value"][1]) for series in response.json()["data"]["result"]]
