"""Models by name are a room: a service without it answers everything else as before."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

CODE = """
import asyncio, json, sys
import httpx
from service.app import create_app
from service.container import Container
from service.inference.bundle import read_bundle
from service.inference.model import Model
container = Container()
app = create_app(container)
bundle = read_bundle(container.settings().bundle)
container.serving().switch(Model("local", bundle))
async def main():
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
        chip = (await client.get("/samples/0")).content
        kind = {"content-type": "application/octet-stream"}
        found = [await client.post(path, content=chip, headers=kind) for path in sys.argv[1:3]]
        found += [await client.get(path) for path in sys.argv[3:]]
        print(json.dumps([(it.status_code, it.text) for it in found]))
asyncio.run(main())
"""


def test_a_service_without_this_room_predicts_and_lists_as_before(
    bundle: Path, registry: Path, tmp_path: Path
) -> None:
    ignore = shutil.ignore_patterns("__pycache__")
    for package in ("service", "src/contracts"):
        shutil.copytree(ROOT / package, tmp_path / "code" / Path(package).name, ignore=ignore)
    shutil.rmtree(tmp_path / "code" / "service" / "models")
    kept = {key: at for key, at in os.environ.items() if not key.startswith("SERVICE_")}
    settings = {
        **{"SERVICE_BUNDLE": str(bundle), "SERVICE_STATE": str(tmp_path / "state")},
        **{"SERVICE_REPOSITORY": str(registry / "project")},
    }
    paths = ["/predict", "/predict?model=landcover@v1.0.0", "/v2", "/v2/models/landcover"]
    paths += ["/get_experiments_metas", "/openapi.json"]
    done = subprocess.run(
        [sys.executable, "-P", "-c", CODE, *paths],
        env=kept | settings | {"PYTHONPATH": str(tmp_path / "code")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    default, named, server, model, listed, document = json.loads(
        next(line for line in done.stdout.splitlines() if line.startswith("[["))
    )
    assert default[0] == listed[0] == 200
    assert (named[0], server[0], model[0]) == (404, 404, 404)
    assert "no models by name" in named[1]
    for _, text in (server, model):
        assert json.loads(text)["detail"] == "this route does not exist: /docs lists the routes"
    assert "/v2" not in document[1] and "/models/" not in document[1]


def test_nothing_but_the_wiring_knows_of_this_room() -> None:
    knowing = [
        path.relative_to(ROOT).as_posix()
        for path in ROOT.glob("service/**/*.py")
        if path.parent.name != "models"
        and re.search(r"(import|from|\") ?service\.models", path.read_text(encoding="utf-8"))
    ]
    assert sorted(knowing) == ["service/app.py", "service/container.py"]
