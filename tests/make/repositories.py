"""Real Git repositories with a real DVC remote inside, built by hand where DVC would be slow."""

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest import mock

import yaml

from contracts.tags import Tag
from service.registry import client
from service.registry.client import RegistryClient
from service.schemas import Experiment, Listing
from service.secrets import MountedSecrets
from service.tags import parse_tag
from tests.conftest import run
from tests.make.zygote import registry_launcher

T = TypeVar("T")
V1, V2 = parse_tag("landcover@v1.0.0"), parse_tag("landcover@v1.1.0")
CONFIG = "[core]\n    remote = sample\n    analytics = false\n['remote \"sample\"']\n    url = {}\n"
PARAMS = {"train": {"epochs": 3, "seed": 42}, "model": {"name": "landcover"}}
METRICS = {"accuracy": 0.95, "test_chips": 100}
START = 1_700_000_000  # Unix time of the first commit


def md5(content: bytes) -> str:
    """Digest by which DVC names content."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


class Project:
    """A repository under construction. Each commit and tag is a minute after the one before."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.minutes = 0
        folder.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main")
        self.write(".dvc/config", CONFIG.format("../sample"))

    def git(self, *words: str, check: bool = True) -> str:
        """Run git as one person, at the time that it is in the project."""
        when = f"{START + 60 * self.minutes} +0200"
        environment = os.environ | {
            **{f"GIT_{role}_NAME": "Ada Secret" for role in ("AUTHOR", "COMMITTER")},
            **{f"GIT_{role}_EMAIL": "ada@example.org" for role in ("AUTHOR", "COMMITTER")},
            "GIT_AUTHOR_DATE": when,
            "GIT_COMMITTER_DATE": when,
        }
        command = ["git", "-C", str(self.folder), *words]
        return subprocess.run(
            command, check=check, text=True, capture_output=True, env=environment
        ).stdout.strip()

    def write(self, path: str, content: str | bytes) -> None:
        """Write a file of the working tree."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)

    def store(self, content: bytes, suffix: str = "") -> str:
        """Put an object into the DVC remote as `dvc push` would; returns its digest."""
        digest = md5(content) + suffix
        self.write(f"sample/files/md5/{digest[:2]}/{digest[2:]}", content)
        return digest

    def push(self, files: Mapping[str, bytes]) -> str:
        """Put a folder into the DVC remote; returns the digest for dvc.lock."""
        entries = [{"md5": self.store(data), "relpath": name} for name, data in files.items()]
        return self.store(json.dumps(entries).encode(), ".dir")

    def lock(self, digest: str, path: str = "model") -> None:
        """Write a dvc.lock with one output."""
        out = {"path": path, "hash": "md5", "md5": digest}
        document = {"schema": "2.0", "stages": {"train": {"cmd": "true", "outs": [out]}}}
        self.write("dvc.lock", yaml.safe_dump(document))

    def commit(self, message: str = "Train") -> str:
        """Commit everything; returns the hash."""
        self.minutes += 1
        self.git("add", "--all", ".")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        return self.git("rev-parse", "HEAD")

    def tag(self, name: str, commit: str = "HEAD", annotated: bool = True) -> None:
        """Tag a commit, through the plumbing: it takes every name that Git can hold."""
        self.minutes += 1
        target = self.git("rev-parse", commit)
        if annotated:
            self.git("tag", "--annotate", "--message=x", "--", "temporary", target)
            target = self.git("rev-parse", "refs/tags/temporary")
            self.git("tag", "--delete", "temporary")
        self.git("update-ref", "--", f"refs/tags/{name}", target)

    def train(self, graph: bytes, message: str = "Train", accuracy: float = 0.95) -> str:
        """Commit all that training leaves, with a model; returns the hash."""
        self.lock(
            self.push({"model.json": b'{"graph": "%s"}' % md5(graph).encode(), "model.onnx": graph})
        )
        self.write("reports/metrics.json", json.dumps(METRICS | {"accuracy": accuracy}))
        self.write("params.yaml", yaml.safe_dump(PARAMS))
        self.write("data.dvc", f"outs:\n- md5: {md5(b'data')}.dir\n  path: data\n")
        return self.commit(message)


def make_trained(folder: Path) -> Path:
    """Two versions, made by DVC itself: a stage that writes the model, `dvc repro`, `dvc push`."""
    project = Project(folder)
    run("dvc", "init", "--quiet", "--force", cwd=project.folder)
    project.write(".dvc/config", CONFIG.format("../sample"))
    copy = "mkdir model && cp input model/model.onnx && cp input model/model.json"
    project.write("dvc.yaml", f"stages: {{train: {{cmd: {copy}, deps: [input], outs: [model]}}}}")
    for number, tag in enumerate((V1, V2), 1):
        project.write("input", f"graph {number}")
        run("dvc", "repro", "--quiet", cwd=project.folder)
        run("dvc", "push", "--quiet", cwd=project.folder)
        project.write("reports/metrics.json", json.dumps(METRICS))
        project.write("params.yaml", json.dumps(PARAMS))
        project.commit(f"Train model {number}\n\nIn full.")
        project.tag(tag.tag)
    shutil.rmtree(project.folder / ".dvc" / "cache")
    return project.folder


def ask(
    repository: Path | str, cache: Path, what: Callable[[RegistryClient], Coroutine[Any, Any, T]]
) -> T:
    """Ask a fresh registry, in a loop of its own."""

    async def main() -> T:
        asked = RegistryClient(str(repository), cache)
        try:
            return await what(asked)
        finally:
            await asked.close()

    return asyncio.run(main())


def listing(repository: Path | str, cache: Path) -> Listing:
    return ask(repository, cache, RegistryClient.experiments)


def entries(repository: Path | str, cache: Path) -> dict[str, Experiment]:
    return {entry.tag: entry for entry in listing(repository, cache).experiments}


def fetch(
    repository: Path | str,
    cache: Path,
    tag: Tag = V1,
    seconds: float = 60,
    secrets: Path | str = "",
) -> Path:
    """Fetch with a fresh registry, whose child process is a fork."""

    async def main() -> Path:
        mounted = MountedSecrets(str(secrets))
        registry = RegistryClient(str(repository), cache, seconds=seconds, secrets=mounted)
        return await registry.fetch(tag)

    with mock.patch.object(client, "sys", SimpleNamespace(executable=registry_launcher())):
        return asyncio.run(main())


async def until(asked: RegistryClient, condition: Callable[[Listing], bool]) -> Listing:
    async with asyncio.timeout(60):
        while not condition(found := await asked.experiments()):
            await asyncio.sleep(0.05)
    return found


def below(folder: Path) -> list[str]:
    """Files below the cache but for what may stay: the listing and the mirror."""
    kept = ("experiments.json", "repository.git")
    found = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if not path.startswith(kept))
