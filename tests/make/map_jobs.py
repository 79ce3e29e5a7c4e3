"""Scenes sent to a running service, and the jobs that come of them."""

from pathlib import Path
from typing import Any

import httpx
import numpy.typing as npt
from rasterio.io import MemoryFile

from service.maps.jobs import FINISHED
from tests.make.processes import until
from tests.make.server import Server

TIFF = {"content-type": "image/tiff"}
ASYNC = {**TIFF, "prefer": "respond-async"}
RECORDS = {"job.json", "status.json"}


def send(
    server: Server, scene: Path | bytes, query: str = "", headers: dict[str, str] | None = None
) -> httpx.Response:
    """Send a scene, and wait for the answer."""
    content = scene if isinstance(scene, bytes) else scene.read_bytes()
    headers = TIFF if headers is None else headers
    return httpx.post(f"{server.url}/maps{query}", content=content, headers=headers, timeout=120)


def queue(server: Server, scene: Path | bytes, headers: dict[str, str] | None = None) -> str:
    """Send a scene, and take the address of its job."""
    answer = send(server, scene, headers={**ASYNC, **(headers or {})})
    assert answer.status_code == 202, answer.text
    return answer.headers["location"]


def ask(server: Server, job: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """How far a job is."""
    answer = httpx.get(server.url + job, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def begun(server: Server, job: str) -> dict[str, Any]:
    """Wait until a tile of a job is finished, and others are not."""
    found = until(lambda: [now for now in [ask(server, job)] if now["tiles_done"]], job)[0]
    assert found["status"] == "running", found
    return found


def ended(server: Server, job: str) -> dict[str, Any]:
    """Wait for the end of a job."""
    return until(lambda: [now for now in [ask(server, job)] if now["status"] in FINISHED], job)[0]


def folder(server_folder: Path, job: str) -> Path:
    """Where the files of a job lie, of a server that was started with a folder."""
    return server_folder / "state" / "maps" / "jobs" / job.rpartition("/")[2]


def pixels_of(content: bytes) -> npt.NDArray[Any]:
    """All bands of a GeoTIFF in memory, (bands, height, width)."""
    with MemoryFile(content) as memory, memory.open() as file:
        pixels: npt.NDArray[Any] = file.read()
        return pixels
