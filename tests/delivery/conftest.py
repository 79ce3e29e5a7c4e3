"""A real repository with a bare origin, and all that training leaves at a commit."""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from contracts.commit import folder_digest
from delivery.git import Repository
from delivery.registry.interface import read_interface, write_line
from delivery.registry.registry import Registry
from tests.conftest import built_once, run

START = 1_700_000_000  # Unix time of the first commit
CLASSES = ("Forest", "River")
BANDS = ("B02", "B03", "B04", "B08")
PARAMS: dict[str, dict[str, Any]] = {
    "model": {"name": "landcover", "width": 12},
    "train": {"epochs": 40, "seed": 42},
}
STAGES = """\
stages:
  load:
    cmd: echo loaded
    deps: [data]
  train:
    cmd: mkdir model && cp code.py model/model.onnx && echo {} > model/model.json
    deps: [code.py]
    params: [train]
    outs: [model]
  evaluate:
    cmd: echo drawn > picture.png
    deps: [model]
    outs: [picture.png]
"""
DATA = hashlib.md5(b"data", usedforsecurity=False).hexdigest() + ".dir"


class Project:
    """A clone with a bare origin. Each commit is a minute after the one before."""

    def __init__(self, folder: Path, origin: Path) -> None:
        self.folder, self.origin = folder, origin
        self.repository = Repository(folder)
        self.minutes = 0

    @property
    def registry(self) -> Registry:
        """A registry that remembers nothing."""
        return Registry(self.repository, "landcover")

    def git(self, *words: str, stdin: str | None = None) -> str:
        """Run git as one person, at the time that it is in the project."""
        when = f"{START + 60 * self.minutes} +0000"
        environment = os.environ | {"GIT_AUTHOR_DATE": when, "GIT_COMMITTER_DATE": when}
        command = ["git", "-C", str(self.folder), *words]
        return subprocess.run(
            command, check=True, text=True, capture_output=True, env=environment, input=stdin
        ).stdout.rstrip("\n")

    def origin_tags(self) -> dict[str, str]:
        """Tags that the origin has, each with the commit it names."""
        return Repository(self.origin).tags("**")

    def write(self, path: str, content: str | bytes) -> None:
        """Write a file of the working tree."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)

    def commit(self, message: str = "Change", push: bool = True) -> str:
        """Commit everything, also nothing, and push the branch; returns the hash."""
        self.minutes += 1
        self.git("add", "--all", ".")
        self.git("commit", "--quiet", "--allow-empty", "--file=-", stdin=message)
        if push:
            self.git("push", "--quiet", "origin", "HEAD")
        return self.git("rev-parse", "HEAD")

    def write_model(
        self,
        model: str,
        accuracy: float = 0.9,
        params: Mapping[str, Mapping[str, Any]] | None = None,
        classes: tuple[str, ...] = CLASSES,
        bands: tuple[str, ...] = BANDS,
        data: str = DATA,
        sha256: str = "",
    ) -> str:
        """Leave what the pipeline leaves when it trained `model`; returns the digest."""
        chips = {"dtype": "uint16", "bands": bands, "height": 64, "width": 64, "scale": 10000.0}
        training: dict[str, Any] = dict.fromkeys(
            ("finished", "hardware", "git_revision", "data_version"), "x"
        )
        document = {
            "schema": 1,
            "name": "landcover",
            "task": "classification",
            "classes": classes,
            "input": chips
            | {"units": "reflectance", "nodata": None, "valid_max": 20000, "resolution": 10.0},
            "sha256": sha256 or hashlib.sha256(model.encode()).hexdigest(),
            "training": training | {"seconds": 1.0, "params": {}, "libraries": {}},
            "statistics": [],
            "reference": {"samples": 0, "signals": {}, "classes": {}},
            "golden": [{"chip": "", "probabilities": []}],
        }
        self.write("model/model.json", json.dumps(document, indent=1))
        self.write("model/model.onnx", model)
        digest = folder_digest(self.folder / "model")
        deps = [{"path": "data", "hash": "md5", "md5": data}]
        outs = [{"path": "model", "hash": "md5", "md5": digest}]
        stages = {"load": {"deps": deps}, "train": {"outs": outs}}
        self.write("dvc.lock", yaml.safe_dump({"schema": "2.0", "stages": stages}))
        self.write("data.dvc", f"outs:\n- md5: {data}\n  hash: md5\n  path: data\n")
        self.write("reports/metrics.json", json.dumps({"accuracy": accuracy, "macro_f1": 0.88}))
        self.write("params.yaml", yaml.safe_dump(params or PARAMS))
        self.write(".gitignore", "/model\n")
        return digest

    def train(self, model: str, message: str = "Train", **facts: Any) -> str:
        """Commit what the pipeline leaves; returns the hash of the commit."""
        self.write_model(model, **facts)
        return self.commit(message)

    def merge(
        self, model: str, number: int, pipeline: int, trailers: str = "", **facts: Any
    ) -> str:
        """Train in merge request `number` and merge it, as GitLab does; returns the hash."""
        self.git("switch", "--quiet", "--create", f"change-{number}")
        trained = self.train(model, f"Train {model}", **facts)
        self.git("tag", f"experiment/{number}-{pipeline}", trained)
        self.git("push", "--quiet", "origin", f"experiment/{number}-{pipeline}")
        self.git("switch", "--quiet", "main")
        self.minutes += 1
        message = (
            f"Merge branch 'change-{number}' into 'main'\n\nTry {model}\n\n"
            f"See merge request group/project!{number}\n\n{trailers}"
        )
        self.git("merge", "--quiet", "--no-ff", f"change-{number}", "--message", message)
        self.git("push", "--quiet", "origin", "main")
        return self.git("rev-parse", "HEAD")

    def register(self, model: str, **facts: Any) -> str:
        """Train and register; returns the version's tag."""
        return self.registry.register(self.train(model, **facts)).tag

    def release(self, model: str, *stages: str) -> None:
        """Train, and tag a minor version and its stages as the registry would, in one push."""
        digest = self.write_model(model)
        commit = self.commit(f"Train {model}", push=False)
        tags = self.git("tag", "--list", "landcover*").split()
        version = f"landcover@v1.{sum('@' in tag for tag in tags)}.0"
        count = sum("#" in tag for tag in tags)
        interface = write_line(read_interface(self.folder / "model", digest))
        made = {version: f"{version}\n\nModel: {digest}\n{interface}"}
        for place, stage in enumerate(stages, count + 1):
            made[f"landcover#{stage}#{place}"] = f"{version} to {stage}"
        for tag, message in made.items():
            self.git("tag", "--annotate", "--message", message, tag, commit)
        self.git("push", "--quiet", "origin", "HEAD", *(f"refs/tags/{tag}" for tag in made))

    def clone(self, folder: Path) -> "Project":
        """What another person works in."""
        run_git("clone", "--quiet", str(self.origin), str(folder))
        return Project(_identify(folder), self.origin)


def hook(repository: Path, name: str, script: str) -> None:
    """Make a repository run a shell script at some point."""
    file = repository / "hooks" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"#!/bin/bash\n{script}\n", encoding="utf-8")
    file.chmod(0o755)


def run_git(*words: str) -> None:
    """Run git anywhere."""
    subprocess.run(["git", *words], check=True, capture_output=True)


def _identify(folder: Path) -> Path:
    run_git("-C", str(folder), "config", "user.name", "Ada")
    run_git("-C", str(folder), "config", "user.email", "ada@example.org")
    return folder


@pytest.fixture(scope="session")
def _started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_once(tmp_path_factory, "delivery", _start)


def _start(base: Path) -> None:
    run_git("init", "--quiet", "--bare", "--initial-branch=main", str(base / "origin.git"))
    run_git("-C", str(base / "origin.git"), "config", "receive.advertisePushOptions", "true")
    run_git("init", "--quiet", "--initial-branch=main", str(base / "project"))
    run_git("-C", str(_identify(base / "project")), "remote", "add", "origin", "../origin.git")
    Project(base / "project", base / "origin.git").commit("Start")


@pytest.fixture
def project(_started: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A clone with one commit, outside CI; its origin takes push options."""
    for name in ("CI", "CI_PIPELINE_ID", "PUSH_URL", "BOT_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "there"
    shutil.copytree(_started, folder)
    return Project(folder / "project", folder / "origin.git")


@pytest.fixture
def origin(project: Project) -> Path:
    """The bare repository behind `project`."""
    return project.origin


@pytest.fixture(scope="session")
def _pushed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_once(tmp_path_factory, "pushed", _push_trained)


def _push_trained(base: Path) -> None:
    project = base / "project"
    (project / "data").mkdir(parents=True)
    for name in "ab":
        (project / "data" / name).write_text(name, encoding="utf-8")
    (project / "code.py").write_text("print(1)\n", encoding="utf-8")
    (project / "dvc.yaml").write_text(STAGES, encoding="utf-8")
    (project / "params.yaml").write_text("train:\n  epochs: 1\n", encoding="utf-8")
    for words in (
        ("git", "init", "--quiet"),
        ("dvc", "init", "--quiet"),
        ("dvc", "remote", "add", "--quiet", "--default", "team", "../remote"),
        ("dvc", "add", "--quiet", "data"),
        ("dvc", "repro", "--quiet"),
        ("dvc", "push", "--quiet"),
    ):
        run(*words, cwd=project)


@pytest.fixture
def remote(_pushed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The DVC remote beside a trained project, which is the working directory."""
    shutil.copytree(_pushed, tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there" / "project")
    return tmp_path / "there" / "remote"
