"""compose.yaml, started by podman-compose in a project of its own.

True to it: compose.yaml as it ships, with its build of the service, its commands, mounts, volumes,
rights, network and names; an override beside it changes images alone, and variables the ports. Not
true: no registry can be reached where these tests run, so that Prometheus, Alertmanager,
Pushgateway and node-exporter are Debian's programs in images made here, with the paths and the user
of the pinned images, not their versions. Grafana and the blackbox exporter are in no package of
Debian and are left out. podman without systemd starts no health check by itself; a test runs it.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import yaml

from delivery.image.builders import TIME
from tests.conftest import ROOT
from tests.e2e import containers
from tests.e2e.containers import HASH


class StandIn(NamedTuple):
    """A program of Debian, as the image that compose.yaml names has it."""

    service: str
    debian: str
    program: str
    """Its path in the image."""
    volume: str = ""
    """What its user may write."""
    files: str = ""
    """What it needs beside itself, a folder of this machine."""


STAND_INS = (
    StandIn("prometheus", "prometheus", "/bin/prometheus", "/prometheus"),
    StandIn(
        *("alertmanager", "prometheus-alertmanager", "/bin/alertmanager", "/alertmanager"),
        "/usr/share/prometheus/alertmanager",
    ),
    StandIn("pushgateway", "prometheus-pushgateway", "/bin/pushgateway", "/pushgateway"),
    StandIn("node-exporter", "prometheus-node-exporter", "/bin/node_exporter"),
)
STARTED = ("service", *(item.service for item in STAND_INS))
PORTS = ("service", "prometheus", "alertmanager", "pushgateway")
SERVICE = "localhost/conveyor-compose"


def missing() -> str:
    """Why compose.yaml cannot be started here; empty when it can."""
    absent = [item.debian for item in STAND_INS if not shutil.which(item.debian)]
    absent += [] if shutil.which("iptables") else ["iptables"]
    absent += [] if program() else ["podman-compose"]
    return f"{', '.join(absent)} not installed: make setup-e2e" if absent else ""


def program() -> str | None:
    """podman-compose, which lives in .venv-checks."""
    own = ROOT / ".venv-checks" / "bin" / "podman-compose"
    return str(own) if own.exists() else shutil.which("podman-compose")


class Stack:
    """The services of compose.yaml under names and ports of their own."""

    def __init__(self, project: Path, folder: Path) -> None:
        self.name = f"conveyor-{uuid.uuid4().hex[:8]}"
        self.project = project
        shutil.copy(ROOT / "compose.yaml", project)
        shutil.copytree(ROOT / "monitoring", project / "monitoring")
        self.ports = {name: containers.free_port() for name in PORTS}
        self.override = folder / "override.yaml"
        self.environment = containers.configured(folder)
        self.environment |= {"SERVICE_API_KEYS": json.dumps({HASH: ["deploy"]})}
        for name, port in self.ports.items():
            self.environment[f"{name.upper()}_PORT"] = str(port)

    def url(self, service: str) -> str:
        """Where a service answers."""
        return f"http://127.0.0.1:{self.ports[service]}"

    def container(self, service: str) -> str:
        """The name that podman-compose gives."""
        return f"{self.name}_{service}_1"

    def compose(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run podman-compose."""
        files = ["--file=compose.yaml", f"--file={self.override}"]
        return subprocess.run(
            [str(program()), f"--project-name={self.name}", *files, *words],
            cwd=self.project,
            env=self.environment | environment,
            text=True,
            capture_output=True,
            check=False,
        )

    def podman(self, *words: str) -> str:
        """Run podman; returns what it printed."""
        done = subprocess.run(
            ["podman", *words], env=self.environment, text=True, capture_output=True, check=False
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def up(self) -> None:
        """Build what is ours, and start what has an image here."""
        containers.warm()
        images = {item.service: {"image": build(item)} for item in STAND_INS}
        ours = {"image": SERVICE, "build": {"args": [containers.BUILD_ARGS]}}
        override = {"services": {"service": ours, **images}}
        self.override.write_text(yaml.safe_dump(override), encoding="utf-8")
        done = self.compose("up", "--build", "--detach", *STARTED)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]

    def down(self) -> None:
        """End it, and delete its network and volumes."""
        done = self.compose("down", "--volumes", "--timeout=1")
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]

    def left(self) -> list[str]:
        """Containers, volumes and networks that bear its name."""
        listed = self.podman("ps", "--all", "--format={{.Names}}").split()
        for kind in ("volume", "network"):
            listed += self.podman(kind, "ls", "--format={{.Name}}").split()
        return [name for name in listed if name.startswith(self.name)]

    def logs(self, service: str) -> str:
        """What a service has written."""
        return containers.call("sh", "-c", f"podman logs {self.container(service)} 2>&1")


@contextmanager
def started(project: Path, folder: Path) -> Iterator[Stack]:
    """Run it until the block ends."""
    stack = Stack(project, folder)
    try:
        stack.up()
        yield stack
    finally:
        if stack.left():
            stack.down()


def build(item: StandIn) -> str:
    """Make the image of a stand-in, which is nothing but the program; returns its name."""
    name = f"localhost/conveyor-{item.service}"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = os.path.realpath(str(shutil.which(item.debian)))
        put(folder, source, item.program)
        for library in re.findall(r"(/\S+) \(0x", containers.call("ldd", source)):
            put(folder, os.path.realpath(library), library)
        if item.files:
            shutil.copytree(item.files, folder / "root" / item.files.lstrip("/"))
        (folder / "empty").mkdir()
        (folder / "Containerfile").write_text(recipe(item), encoding="utf-8")
        words = ["--quiet", "--layers", f"--timestamp={TIME}", f"--tag={name}"]
        containers.call("buildah", "build", *words, temporary)
    return name


def put(folder: Path, source: str, target: str) -> None:
    """Copy a file to where the image has it."""
    path = folder / "root" / target.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, path)


def recipe(item: StandIn) -> str:
    """As the image of the pinned version is made: its user, its folder, its program."""
    lines = ["FROM scratch", "COPY root /"]
    if item.volume:
        lines += [f"COPY --chown=65534:65534 empty {item.volume}", f"WORKDIR {item.volume}"]
    return "\n".join([*lines, "USER 65534", f'ENTRYPOINT ["{item.program}"]', ""])
