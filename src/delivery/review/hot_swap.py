"""Client of a running service: swap it to the model of another tag."""

import json
import time

import httpx

from delivery.errors import RolloutError
from delivery.http import send

REACHABLE = 120.0  # seconds until the address leads to the service: DNS, certificate
FETCH = 330.0  # seconds of a swap: SERVICE_FETCH_TIMEOUT and a margin
PAUSE = 2.0
TRANSIENT = (409, 502, 503, 504)  # another swap, or not reachable yet


def swap(url: str, token: str, tag: str, allowed_by: str, limit: float = REACHABLE) -> None:
    """Swap a service to the model of a tag; wait while its address does not lead to it yet.

    `allowed_by` names the setting that grants the role `deploy`.

    Raises:
        RolloutError: it refuses, or does not respond within `limit` seconds.
    """
    deadline = time.monotonic() + limit
    while True:
        refusal = _request(url, token, tag)
        if refusal is None:
            return
        status, reason = refusal
        if status in (401, 403):
            reason += f" ({allowed_by} sets whose tokens may deploy)"
        if status not in TRANSIENT or time.monotonic() > deadline:
            raise RolloutError(f"/replace_ml_model: {reason}")
        print(f"wait  {reason}", flush=True)
        time.sleep(PAUSE)


def _request(url: str, token: str, tag: str) -> tuple[int, str] | None:
    """Send one request; returns None for success, else status and reason."""
    headers = {"authorization": f"Bearer {token}"}
    try:
        response = send(
            "POST",
            f"{url}/replace_ml_model",
            json={"tag": tag},
            headers=headers,
            timeout=FETCH,
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return 503, f"no response from {url}: {error or type(error).__name__}"
    if response.status_code == 200:
        return None
    try:
        detail = str(json.loads(response.content)["detail"])[:300]
    except (ValueError, KeyError, TypeError, RecursionError):
        # An ingress that does not know the host yet responds with a page of its own.
        return 503, f"{response.status_code} from another server, not the service"
    return response.status_code, f"{response.status_code} {detail}"
