"""Cheap starts of the service: a process that has imported it forks one child a start.

Importing takes 1.3 s of CPU, forking milliseconds. A child runs what `python -m service` runs, with
its own environment, working directory, log and descriptors; its parent is the zygote, which passes
its exit code on. What is about the program itself starts the program.
"""

import functools
import importlib
import json
import os
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
# What the supervisor and its workers import, as `python -m service` does: with these variables set.
VARIABLES = {
    "OPENBLAS_NUM_THREADS": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "PROMETHEUS_MULTIPROC_DIR": "/dev/null",
}
MODULES = (
    "service.server.supervisor",
    "service.server.worker",
    "service.feedback.store",
    "service.feedback.postgres",
    "service.feedback.retention",
    "alembic.command",
    "uvicorn.loops.uvloop",
)


class Forked:
    """A child of the zygote, with as much of `subprocess.Popen` as the tests use."""

    def __init__(self, channel: socket.socket) -> None:
        """Follow a child through the channel that tells its process id, then its exit code."""
        with channel:  # it closes with the file
            self._channel = channel.makefile("r")
        self.pid = int(self._channel.readline())
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; its exit code.

        Raises:
            subprocess.TimeoutExpired: it runs on.
        """
        if self.returncode is None:
            if not select.select([self._channel], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("service", timeout or 0)
            with self._channel:
                self.returncode = int(self._channel.readline())
        return self.returncode

    def poll(self) -> int | None:
        """Its exit code, or None while it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


def fork(environment: Mapping[str, str], log: Path) -> Forked:
    """Start the service in a child of this test worker's zygote."""
    channel = socket.socket(socket.AF_UNIX)
    channel.connect(_address())
    request = {"environment": dict(environment), "log": str(log)}
    channel.sendall(json.dumps(request).encode() + b"\n")
    return Forked(channel)


@functools.cache
def _address() -> str:
    """Start the zygote; where it listens. It ends when this process closes its input, by ending."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.make.zygote"],
        cwd=ROOT,
        env=os.environ | VARIABLES,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    _address.process = process  # type: ignore[attr-defined]  # its input stays open
    return f"\0{address}"


def _serve_forks() -> dict[str, Any]:
    """Fork a child a request, until the tests end; returns in each child, with its request."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the tests, which end the children
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"\0conveyor-zygote-{os.getpid()}")
    listener.listen()
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    selector.register(0, selectors.EVENT_READ)
    print(listener.getsockname()[1:].decode(), flush=True)
    channels: dict[int, tuple[int, socket.socket]] = {}  # pidfd -> pid, channel
    while True:
        for key, _ in selector.select():
            if key.fd == 0:
                sys.exit()
            elif key.fileobj is listener:
                channel = listener.accept()[0]
                with channel.makefile("r") as lines:
                    request: dict[str, Any] = json.loads(lines.readline())
                if (pid := os.fork()) == 0:
                    for handle in channels:
                        os.close(handle)
                    return request  # the sockets go out of scope, and so are closed
                channel.sendall(b"%d\n" % pid)
                channels[handle := os.pidfd_open(pid)] = pid, channel
                selector.register(handle, selectors.EVENT_READ)
            else:
                selector.unregister(key.fd)
                pid, channel = channels.pop(key.fd)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                os.close(key.fd)
                with channel, suppress(OSError):  # nobody may wait for it
                    channel.sendall(b"%d\n" % code)


def main() -> None:
    """Import, fork; in a child, run the service."""
    for name in MODULES:
        importlib.import_module(name)
    request = _serve_forks()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request["environment"])
    tempfile.tempdir = None  # TMPDIR may be another one
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log := os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 1)
    os.dup2(log, 2)
    os.closerange(log - 1, log + 1)
    sys.argv = ["service"]
    code = 1
    try:
        runpy.run_module("service", run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:  # as multiprocessing does: libraries imported before the fork clean nothing up
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
