"""Real images and containers: buildah and podman with runc, a registry on loopback.

No base image can be pulled where these tests run, so that one is made of Debian's packages; it is
kept in buildah's storage. Everything here belongs to root.
"""

import fcntl
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest

from delivery.errors import ToolError
from delivery.image.builders import TIME, require_namespaces
from service.auth.roles import new_key
from tests.conftest import ROOT

BASE = "localhost/conveyor-base:bookworm"
BUILD_ARGS = f"PYTHON_BASE={BASE}"
"""What IMAGE_BUILD_ARGS has to be here."""
PROGRAMS = ("buildah", "mmdebstrap", "podman", "runc", "skopeo")
PACKAGES = "python3,python3-venv,ca-certificates,usr-is-merged"
# Debian's `usrmerge`, which comes first, brings all of Perl; the image of Python has none.
SUPERFLUOUS = "usrmerge perl ^libperl5 ^perl-modules lib.*-perl$"
# As the image of Python is made.
EXCLUDED = ("/usr/share/locale/*", "/usr/share/man/*", "/usr/share/doc/*")
# How this machine reaches its package index. Not part of the project, only of the stand-in.
HOST_FILES = ("/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt")
# crun refuses this machine's cgroups, and the limits of podman are above what is allowed here. On
# the host's network nothing else is needed, and the service listens on loopback.
RUN = (
    "--network=host",
    *("--runtime=/usr/sbin/runc", "--cgroup-manager=cgroupfs"),
    *("--ulimit=nofile=20000:20000", "--ulimit=nproc=10000:10000"),
)
CONFIGURATION = """
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=10000:10000"]
[engine]
runtime = "/usr/sbin/runc"
cgroup_manager = "cgroupfs"
"""
"""The same for programs that call podman themselves."""
LOCKED = (
    *("--read-only", "--read-only-tmpfs=false", "--tmpfs=/tmp:size=256m,mode=1777"),
    *("--cap-drop=all", "--security-opt=no-new-privileges", "--user=123456:0"),
)
"""As a cluster with restricted pods runs it, and with a user that no file of the image knows."""
READY_WITHIN = 300.0  # seconds; generous, the machine may be busy
KEY, HASH = new_key()


def environment() -> dict[str, str]:
    """The environment in which buildah and podman work here."""
    settings = {"BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "overlay", "LC_ALL": "C.UTF-8"}
    return os.environ | settings | {"IMAGE_BUILD_ARGS": BUILD_ARGS}


def configured(folder: Path) -> dict[str, str]:
    """The environment for programs that call podman without our options; writes its file."""
    path = folder / "containers.conf"
    path.write_text(CONFIGURATION, encoding="utf-8")
    return environment() | {"CONTAINERS_CONF": str(path)}


def missing() -> str:
    """Why containers cannot be used here; empty when they can."""
    absent = [program for program in PROGRAMS if not shutil.which(program)]
    if absent:
        return f"{', '.join(absent)} not installed: make setup-e2e"
    if os.geteuid() != 0:
        return "building a base image needs root"
    try:
        require_namespaces()
    except ToolError as error:
        return str(error)
    return ""


needed = pytest.mark.skipif(bool(missing()), reason=missing())


def call(*words: str, check: bool = True, **options: Any) -> str:
    """Run a program; returns what it wrote on standard output."""
    done: subprocess.CompletedProcess[str] = subprocess.run(
        words, text=True, capture_output=True, env=environment(), check=False, **options
    )
    assert not check or done.returncode == 0, f"{words}: {done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout.strip()


@contextmanager
def alone() -> Iterator[None]:
    """Let one process after the other in: the rest then finds what the first has made."""
    with Path(tempfile.gettempdir(), "conveyor-containers.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@cache
def base() -> str:
    """Name of the stand-in for the image of Python; made the first time, in half a minute."""
    with alone():
        if not call("buildah", "images", "--quiet", BASE, check=False):
            with tempfile.TemporaryDirectory() as folder:
                _make_base(Path(folder, "base.tar"))
    return BASE


@cache
def warm() -> None:
    """Build what the images of all versions share, so that two stories do not build it at once."""
    base()
    words = ("--layers", f"--timestamp={TIME}", "--target=application")
    with alone():
        call("buildah", "build", *words, f"--build-arg={BUILD_ARGS}", ".", cwd=ROOT)


def _make_base(archive: Path) -> None:
    hooks = [f'chroot "$1" apt-get purge --quiet=2 --yes {SUPERFLUOUS} >/dev/null']
    hooks += [f"copy-in {file} {Path(file).parent}" for file in HOST_FILES if Path(file).exists()]
    words = [f"--dpkgopt=path-exclude={pattern}" for pattern in EXCLUDED]
    words += [f"--customize-hook={hook}" for hook in hooks]
    words += ['--aptopt=Acquire::Check-Valid-Until "false"', '--aptopt=Acquire::Check-Date "false"']
    call("mmdebstrap", "--variant=apt", f"--include={PACKAGES}", *words, "bookworm", str(archive))
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    changes = [f"--change=ENV {setting}" for setting in ("LANG=C.UTF-8", path)]
    call("podman", "import", "--quiet", *changes, str(archive), BASE)


class Container:
    """One running container of the service, and where it answers."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.url = url

    def client(self) -> httpx.Client:
        """A client that may do everything; close it."""
        headers = {"authorization": f"Bearer {KEY}"}
        return httpx.Client(base_url=self.url, timeout=60, headers=headers)

    def logs(self) -> str:
        """What it has written."""
        return call("sh", "-c", f"podman logs {self.name} 2>&1")

    def lines(self) -> list[dict[str, Any]]:
        """What it has logged."""
        return [json.loads(line) for line in self.logs().splitlines() if line.startswith("{")]

    def python(self, code: str) -> str:
        """Run Python inside; returns what it printed."""
        return call("podman", "exec", "--cgroup-manager=cgroupfs", self.name, "python", "-c", code)

    def stop(self, seconds: int = 60) -> int:
        """Send its stop signal; returns the exit code, which is 137 if it had to be killed."""
        call("podman", "stop", "--cgroup-manager=cgroupfs", f"--time={seconds}", self.name)
        return int(call("podman", "inspect", "--format={{.State.ExitCode}}", self.name))

    def wait_until_ready(self) -> None:
        """Ask until it is ready."""
        deadline = time.monotonic() + READY_WITHIN
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{self.url}/readyz", timeout=10).status_code == 200:
                    return
            except httpx.TransportError:
                running = call("podman", "inspect", "--format={{.State.Running}}", self.name)
                assert running == "true", f"it ended: {self.logs()}"
            time.sleep(0.02)
        raise AssertionError(f"it never was ready: {self.logs()}")

    def wait_for_workers(self, number: int) -> None:
        """Wait until so many have a model; for `/readyz` one is enough."""
        deadline = time.monotonic() + READY_WITHIN
        with self.client() as client:
            while len(client.get("/version").json()["workers"]) < number:
                assert time.monotonic() < deadline, f"too few workers: {self.logs()}"
                time.sleep(0.02)


@contextmanager
def running(image: str, *options: str, **settings: Any) -> Iterator[Container]:
    """Run the service until the block ends; `settings` are SERVICE_ variables in lower case."""
    port = free_port()
    container = Container(f"conveyor-{uuid.uuid4().hex[:12]}", f"http://127.0.0.1:{port}")
    keys = json.dumps({HASH: ["predict", "view", "deploy"]})
    values = {"host": "127.0.0.1", "port": port, "api_keys": keys, "workers": 2}
    variables = _variables(values | settings)
    name = f"--name={container.name}"
    try:
        call("podman", "run", "--detach", name, *RUN, *variables, *options, image)
        container.wait_until_ready()
        yield container
    finally:
        call("podman", "rm", "--force", "--time=0", "--ignore", "--volumes", container.name)


def run_once(image: str, *words: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run a container to its end."""
    command = ["podman", "run", "--rm", *RUN, *_variables(settings), *words]
    return subprocess.run(
        [*command, image], text=True, capture_output=True, env=environment(), check=False
    )


def _variables(settings: Mapping[str, Any]) -> list[str]:
    return [f"--env=SERVICE_{name.upper()}={value}" for name, value in settings.items()]


def free_port() -> int:
    """A port of loopback that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@contextmanager
def registry(folder: Path) -> Iterator[str]:
    """A registry on loopback, as `host:port`."""
    if not shutil.which("docker-registry"):
        pytest.skip("docker-registry not installed: make setup-e2e")
    address = f"127.0.0.1:{free_port()}"
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "version": "0.1",
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "images")}},
        "http": {"addr": address},
    }
    (folder / "registry.yml").write_text(json.dumps(config), encoding="utf-8")
    words = ["docker-registry", "serve", str(folder / "registry.yml")]
    with (folder / "registry.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait_for_registry(address, process)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def _wait_for_registry(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_WITHIN
    while time.monotonic() < deadline:
        assert process.poll() is None, "the registry ended"
        try:
            if httpx.get(f"http://{address}/v2/").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.02)
    raise AssertionError("the registry never answered")
