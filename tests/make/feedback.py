"""Predictions and labels over HTTP, at a running service."""

from pathlib import Path
from typing import Any

import httpx

from tests.make.bundles import make_chip
from tests.make.images import npy
from tests.make.server import Server


def predict(server: Server, seed: int = 3, **headers: str) -> dict[str, Any]:
    """Predict a chip; the answer."""
    answer = httpx.post(
        server.url + "/predict",
        content=npy(make_chip(seed)),
        headers={"content-type": "application/octet-stream", **headers},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def give(server: Server, request_id: str, label: str) -> httpx.Response:
    """Give a label for a prediction."""
    body = {"request_id": request_id, "label": label}
    return httpx.post(server.url + "/feedback", json=body, timeout=60)


def everything(server: Server, **query: Any) -> list[dict[str, Any]]:
    """List all predictions, page by page."""
    found: list[dict[str, Any]] = []
    after: str | None = None
    while True:
        given = query | ({"after": after} if after else {})
        page = httpx.get(server.url + "/feedback", params=given, timeout=60)
        assert page.status_code == 200, page.text
        found += page.json()["answers"]
        after = page.json()["next"]
        if after is None:
            return found


def metrics(server: Server) -> str:
    """The text of /metrics."""
    return httpx.get(server.url + "/metrics", timeout=60).text


def waiting(server: Server) -> list[Path]:
    """Journal files that wait for the database."""
    return list((server.log.parent / "state" / "spool").glob("*.spool"))
