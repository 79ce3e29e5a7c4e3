"""Cheap starts of the service, its registry and ranks: a process that has imported them forks.

Importing takes 1.3 s of CPU, with torch 6 s, forking milliseconds. A child runs what
`python -m MODULE` runs, with its own environment, working directory and descriptors; its parent is
the zygote, which passes its exit code on. What is about the program itself starts the program.
"""

import atexit
import functools
import importlib
import json
import os
import runpy
import select
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).parents[2]
# What the processes import anyway, with the variables that they set before.
MODULES = {
    "service": (
        "service.server.supervisor",
        "service.server.worker",
        "service.feedback.store",
        "service.feedback.postgres",
        "service.feedback.retention",
        "alembic.command",
        "uvicorn.loops.uvloop",
    ),
    "service.registry": (
        "service.registry.experiments",
        "service.registry.download",
        "pygit2.enums",
        "dvc.repo",
        "dvc.fs",
        "dvc_data.hashfile.db",
        "dvc_data.hashfile.hash",
    ),
    "ranks": ("pipeline.train", "dvc.repo", "scipy.optimize", "torch._dynamo", "pytest"),
}
VARIABLES = {
    "OPENBLAS_NUM_THREADS": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "PROMETHEUS_MULTIPROC_DIR": "/dev/null",
}
# Stands for the interpreter that would run a module, such as the registry: as killable as that.
LAUNCHER = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as channel:
    channel.connect("\\0{address}")
    module, *arguments = sys.argv[sys.argv.index("-m") + 1 :]
    request = {{"environment": dict(os.environ), "module": module, "folder": os.getcwd()}}
    request["arguments"] = arguments
    socket.send_fds(channel, [json.dumps(request).encode() + b"\\n"], [0, 1, 2])
    code = int(channel.makefile("r").readlines()[1])
if code < 0:
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


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
    address = _address("service", registry_launcher())
    return _request(address, environment, log, "service", (), ROOT)


def fork_rank(environment: Mapping[str, str], log: Path, module: str, *arguments: str) -> Forked:
    """Run a module of this directory or of the tests, in a child that has imported the training."""
    return _request(_address("ranks"), environment, log, module, arguments, Path.cwd())


def _request(
    address: str,
    environment: Mapping[str, str],
    log: Path,
    module: str,
    arguments: Sequence[str],
    folder: Path,
) -> Forked:
    channel = socket.socket(socket.AF_UNIX)
    channel.connect(f"\0{address}")
    request = {"environment": dict(environment), "module": module, "folder": str(folder)}
    request["arguments"] = arguments
    with log.open("ab") as stream, open(os.devnull, "rb") as nothing:
        descriptors = [nothing.fileno(), stream.fileno(), stream.fileno()]
        socket.send_fds(channel, [json.dumps(request).encode() + b"\n"], descriptors)
    return Forked(channel)


def registry_launcher() -> str:
    """Path of what starts `python -m service.registry` as a fork, in the place of `python`."""
    return _launcher("service.registry")


def rank_launcher() -> str:
    """Path of what starts `python -m rank` as a fork that has imported the training."""
    return _launcher("ranks")


@functools.cache
def _launcher(kind: str) -> str:
    folder = tempfile.mkdtemp(prefix="conveyor-launcher-")
    atexit.register(shutil.rmtree, folder)
    path = Path(folder) / "python"
    path.write_text(LAUNCHER.format(python=sys.executable, address=_address(kind)), "utf-8")
    path.chmod(0o700)
    return str(path)


@functools.cache
def _address(kind: str, *arguments: str) -> str:
    """Start a zygote; where it listens. It ends when this process closes its input, by ending."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.make.zygote", kind, *arguments],
        cwd=ROOT,
        env=os.environ | VARIABLES,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    ZYGOTES.append(process)
    assert process.stdout is not None
    return process.stdout.readline().strip()


ZYGOTES: list[subprocess.Popen[str]] = []  # their inputs stay open


class Zygote:
    """Forks a child a request, until the tests end."""

    def __init__(self) -> None:
        """Listen at an address that it prints."""
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(f"\0conveyor-zygote-{os.getpid()}")
        self.listener.listen()
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.selector.register(0, selectors.EVENT_READ)
        self.children: dict[int, tuple[int, socket.socket]] = {}  # pidfd -> pid, channel
        print(self.listener.getsockname()[1:].decode(), flush=True)

    def serve(self) -> tuple[dict[str, Any], list[int]]:
        """Serve; returns in each child, with its request and descriptors."""
        while True:
            # Ends of children last: a channel that closes with its child is still looked at.
            found_keys = [key for key, _ in self.selector.select()]
            for key in sorted(found_keys, key=lambda key: key.fd in self.children):
                if key.fd == 0:
                    sys.exit()
                elif key.fileobj is self.listener:
                    if found := self._fork():
                        return found
                elif key.fd in self.children:
                    self._reap(key.fd)
                else:  # its launcher was killed, or has its answer
                    self.selector.unregister(key.fileobj)
                    for kill in (os.kill, os.killpg):
                        with suppress(ProcessLookupError):
                            kill(key.data, signal.SIGKILL)

    def _fork(self) -> tuple[dict[str, Any], list[int]] | None:
        for name in MODULES[sys.argv[1]]:  # late: few tests fetch anything
            importlib.import_module(name)
        channel = self.listener.accept()[0]
        text, descriptors, _, _ = socket.recv_fds(channel, 1 << 16, 3)
        while not text.endswith(b"\n"):
            text += (more := channel.recv(1 << 16))
            if not more:  # its launcher was killed before it had asked
                for handle in (channel.detach(), *descriptors):
                    os.close(handle)
                return None
        if (pid := os.fork()) == 0:
            for socket_ in (channel, self.listener, *(one for _, one in self.children.values())):
                socket_.close()
            self.selector.close()
            for handle in self.children:
                os.close(handle)
            return json.loads(text), descriptors
        for handle in descriptors:
            os.close(handle)
        with suppress(OSError):  # its launcher was killed meanwhile, which the selector will tell
            channel.sendall(b"%d\n" % pid)
        self.children[handle := os.pidfd_open(pid)] = pid, channel
        self.selector.register(handle, selectors.EVENT_READ)
        if sys.argv[1] != "service":
            self.selector.register(channel, selectors.EVENT_READ, pid)
        return None

    def _reap(self, handle: int) -> None:
        self.selector.unregister(handle)
        pid, channel = self.children.pop(handle)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.close(handle)
        with suppress(KeyError):
            self.selector.unregister(channel)
        with channel, suppress(OSError):  # nobody may wait for it
            channel.sendall(b"%d\n" % code)


def main(kind: str, launcher: Sequence[str]) -> None:
    """Import, fork; in a child, run the module."""
    if launcher:
        from service.registry import client

        setattr(client, "sys", SimpleNamespace(executable=launcher[0]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the tests, which end the children
    request, descriptors = Zygote().serve()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, handle in enumerate(descriptors):
        os.dup2(handle, number)
        os.close(handle)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    tempfile.tempdir = None  # TMPDIR may be another one
    if kind != "service":
        os.setsid()
    if kind == "ranks":
        sys.path[:0] = ["", *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    _run(request["module"], request["arguments"])


def _run(module: str, arguments: list[str]) -> None:
    sys.argv = [module, *arguments]
    code = 1
    try:
        runpy.run_module(module, run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:  # as multiprocessing does: libraries imported before the fork clean nothing up
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
