"""Maps are a room: a service without it answers everything else as before."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx

from tests.conftest import ROOT
from tests.make import bundles
from tests.make.server import Server, address

CHIP = {"content-type": "application/octet-stream"}


def test_a_service_without_the_room_of_maps_classifies_and_maps_nothing(tmp_path: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__")
    for package in ("service", "src/contracts"):
        shutil.copytree(ROOT / package, tmp_path / "code" / Path(package).name, ignore=ignore)
    shutil.rmtree(tmp_path / "code" / "service" / "maps")
    kept = {key: at for key, at in os.environ.items() if not key.startswith("SERVICE_")}
    settings = {
        **{"SERVICE_BUNDLE": str(bundles.make_bundle(tmp_path / "model")), "SERVICE_PORT": "0"},
        **{"SERVICE_STATE": str(tmp_path / "state"), "SERVICE_WORKERS": "1"},
    }
    log = tmp_path / "log"
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "service"],
            cwd=tmp_path / "code",
            env=kept | settings | {"PYTHONPATH": str(tmp_path / "code")},
            stdout=stream,
            stderr=subprocess.STDOUT,
            text=True,
        )
    server = Server(process, log)
    try:
        server.url = address(server)
        server.wait_for()
        chip = httpx.get(f"{server.url}/samples/0").content
        answer = httpx.post(f"{server.url}/predict", content=chip, headers=CHIP, timeout=60)
        assert answer.status_code == 200
        for method, route in (("POST", "/maps"), ("GET", "/jobs"), ("GET", "/jobs/1/map.tif")):
            refused = httpx.request(method, server.url + route)
            assert (refused.status_code, refused.json()["detail"]) == (
                404,
                "this route does not exist: /docs lists the routes",
            )
        assert "/maps" not in httpx.get(f"{server.url}/openapi.json").text
    finally:
        server.stop()
