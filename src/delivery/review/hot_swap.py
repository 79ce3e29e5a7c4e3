"""Asking a running service for the model of another tag."""

import json
import time

import httpx

from delivery.errors import RolloutError

ANSWERS = 120.0  # seconds until the address leads to it: names and certificates take a while
FETCHES = 330.0  # seconds that a swap may take: SERVICE_FETCH_TIMEOUT and some to spare
PAUSE = 2.0
TRANSIENT = (409, 502, 503, 504)  # another swap, or not there yet


def replace(url: str, token: str, tag: str, allowed_by: str, limit: float = ANSWERS) -> None:
    """Let a service serve the model of a tag; where its address does not lead to it yet, wait.

    `allowed_by` says where it stands who may ask for that.

    Raises:
        RolloutError: it refuses, or does not answer within `limit` seconds.
    """
    deadline = time.monotonic() + limit
    while True:
        refusal = _ask(url, token, tag)
        if refusal is None:
            return
        status, reason = refusal
        if status in (401, 403):
            reason += f" ({allowed_by} says whose tokens may deploy)"
        if status not in TRANSIENT or time.monotonic() > deadline:
            raise RolloutError(f"/replace_ml_model: {reason}")
        print(f"wait  {reason}", flush=True)
        time.sleep(PAUSE)


def _ask(url: str, token: str, tag: str) -> tuple[int, str] | None:
    """Ask once; why not, and a status of which some can change by waiting."""
    headers = {"authorization": f"Bearer {token}"}
    try:
        answer = httpx.post(
            f"{url}/replace_ml_model", json={"tag": tag}, headers=headers, timeout=FETCHES
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return 503, f"no answer from {url}: {error or type(error).__name__}"
    if answer.status_code == 200:
        return None
    try:
        detail = str(json.loads(answer.content)["detail"])[:300]
    except (
        ValueError,
        KeyError,
        TypeError,
        RecursionError,
    ):  # of the ingress, which knows no such host yet
        return 503, f"{answer.status_code} from something that is not the service"
    return answer.status_code, f"{answer.status_code} {detail}"
