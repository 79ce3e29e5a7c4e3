"""S3 and STS on loopback: moto's server, which lives in .venv-checks (ci/checks.txt)."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.conftest import ROOT
from tests.make.ports import free_port

READY_WITHIN = 120.0  # seconds; generous, the machine may be busy
KEYS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def serving(bucket: str) -> Iterator[str]:
    """Run it until the block ends, with one bucket; gives its address."""
    own = ROOT / ".venv-checks" / "bin" / "moto_server"
    program = str(own) if own.exists() else shutil.which("moto_server")
    if program is None:
        pytest.skip("moto is not installed: make setup-e2e")
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    words = [program, "--host=127.0.0.1", f"--port={port}"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(address, process)
        located = "<CreateBucketConfiguration><LocationConstraint>eu-central-1"
        body = f"{located}</LocationConstraint></CreateBucketConfiguration>"
        httpx.put(f"{address}/{bucket}", content=body, timeout=60).raise_for_status()
        yield address
    finally:
        process.terminate()
        process.wait(30)


def demand_known_keys(address: str, demanded: bool) -> None:
    """Let it refuse keys that belong to no user, as Amazon does; moto takes any by default."""
    count = b"0" if demanded else b"inf"
    httpx.post(f"{address}/moto-api/reset-auth", content=count, timeout=60).raise_for_status()


def forget_environment(patch: pytest.MonkeyPatch, home: Path) -> None:
    """Without credentials of the machine that runs the tests."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        patch.delenv(name)
    patch.setenv("HOME", str(home))
    patch.setenv("NO_PROXY", "127.0.0.1")


def _wait(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_WITHIN
    while time.monotonic() < deadline:
        assert process.poll() is None, "moto ended"
        try:
            if httpx.get(f"{address}/moto-api/", timeout=10).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError("moto never answered")
