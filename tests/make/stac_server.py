"""A real STAC API: stac-fastapi on pgstac, on a PostgreSQL of this machine with PostGIS."""

import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
import pytest

from tests.conftest import ROOT
from tests.make.databases import postgres
from tests.make.ports import free_port

PROGRAMS = ROOT / ".venv-stac" / "bin"
WITHIN = 120.0  # seconds; generous, the machine may be busy


@contextmanager
def pgstac(
    folder: Path, collections: Sequence[dict[str, Any]], items: Sequence[dict[str, Any]]
) -> Iterator[str]:
    """Run it with these items until the block ends; gives its address."""
    if not (PROGRAMS / "pypgstac").exists():
        pytest.skip("pgstac is not installed (make setup-e2e)")
    with postgres() as server:
        url = server.new()
        _load(url, folder, {"collections": collections, "items": items})
        port = free_port()
        command = [str(PROGRAMS / "uvicorn"), "--factory", "stac_fastapi.pgstac.app:create_app"]
        with (folder / "server.log").open("w") as log:
            process = subprocess.Popen(
                [*command, f"--port={port}"], env=_environment(url), stdout=log, stderr=log
            )
        try:
            _wait(f"http://127.0.0.1:{port}", process, folder / "server.log")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def _load(url: str, folder: Path, documents: Mapping[str, Sequence[dict[str, Any]]]) -> None:
    commands = [["migrate"]]
    for kind, lines in documents.items():
        path = folder / f"{kind}.json"
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
        commands.append(["load", kind, str(path)])
    for words in commands:
        command = [str(PROGRAMS / "pypgstac"), *words, "--dsn", url]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def _environment(url: str) -> dict[str, str]:
    parts = urlsplit(url)
    return os.environ | {
        "PGUSER": str(parts.username),
        "PGPASSWORD": unquote(str(parts.password)),
        "PGHOST": str(parts.hostname),
        "PGPORT": str(parts.port),
        "PGDATABASE": parts.path[1:],
    }


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + WITHIN
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text(encoding="utf-8")
        try:
            if httpx.get(f"{url}/", timeout=10).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"it does not answer: {log.read_text(encoding='utf-8')}")
