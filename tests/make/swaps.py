"""Swaps of a running service over HTTP."""

from typing import Any

import httpx

from tests.make.server import Server

Label = tuple[str, str]
"""Tag and SHA-256 of a model."""


def replace(server: Server, tag: str) -> httpx.Response:
    """Ask for the model of a tag."""
    with server.client() as client:
        return client.post("/replace_ml_model", json={"tag": tag})


def version(server: Server) -> dict[str, Any]:
    """What a replica says of its models."""
    body: dict[str, Any] = httpx.get(server.url + "/version", timeout=60).json()
    return body
