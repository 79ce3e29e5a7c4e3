"""Rules of traffic are a room: a service without it answers everything else as before."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

CODE = """
import asyncio
import httpx
from service.app import create_app
from service.container import Container
from service.inference.bundle import read_bundle
from service.inference.model import Model
container = Container()
app = create_app(container)
container.serving().switch(Model("local", read_bundle(container.settings().bundle)))
async def main():
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
        chip = (await client.get("/samples/0")).content
        kind = {"content-type": "application/octet-stream"}
        answer = await client.post("/predict", content=chip, headers=kind)
        print("FOUND", answer.status_code, (await client.get("/routing")).status_code)
asyncio.run(main())
"""


def test_a_service_without_this_room_predicts_and_refuses_rules(
    bundle: Path, tmp_path: Path
) -> None:
    ignore = shutil.ignore_patterns("__pycache__")
    for package in ("service", "src/contracts"):
        shutil.copytree(ROOT / package, tmp_path / "code" / Path(package).name, ignore=ignore)
    shutil.rmtree(tmp_path / "code" / "service" / "routing")
    kept = {key: at for key, at in os.environ.items() if not key.startswith("SERVICE_")}
    settings = {"SERVICE_BUNDLE": str(bundle), "SERVICE_STATE": str(tmp_path / "state")}

    def run(*command: str, **more: str) -> subprocess.CompletedProcess[str]:
        environment = kept | settings | more | {"PYTHONPATH": str(tmp_path / "code")}
        return subprocess.run(
            [sys.executable, "-P", *command],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    done = run("-c", CODE)
    assert "FOUND 200 404" in done.stdout, done.stderr
    refused = run("-m", "service", SERVICE_ROUTING="routing.yaml")
    assert refused.returncode != 0
    said = "SERVICE_ROUTING: this service has no rules of traffic: unset it"
    assert said in refused.stdout + refused.stderr
    assert "Traceback" not in refused.stdout + refused.stderr


def test_nothing_but_the_wiring_knows_of_this_room() -> None:
    knowing = [
        path.relative_to(ROOT).as_posix()
        for path in ROOT.glob("service/**/*.py")
        if path.parent.name != "routing"
        and re.search(r"(import|from|\") ?service\.routing", path.read_text(encoding="utf-8"))
    ]
    wiring = ("app", "container", "settings", "stream/serve")
    assert sorted(knowing) == [f"service/{name}.py" for name in wiring]
