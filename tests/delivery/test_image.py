"""The image of a version: what is refused, what is asked of the programs. tests/e2e builds one."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
import yaml

from delivery import image, sbom, slim
from delivery.contents import INGREDIENTS, MODEL, check_bundle, clean_revision, folder_md5
from delivery.engine import Buildah, Built, Docker, Found, Recipe, choose_engine, is_local
from delivery.errors import ImageError, ToolError
from delivery.git import Repository
from delivery.image import BUNDLE, REVISION, VERSION, Image
from delivery.tags import parse_version
from tests.conftest import ROOT
from tests.delivery.conftest import Project, folder_digest

V1 = parse_version("landcover@v1.0.0")
NAME = "registry.example.org/group/landcover"
DIGEST = "sha256:" + "d" * 64
GRAPH_SHA256 = "9372c470eeadd5ecd9c3c74c2b3cb633f8e2f2fad799250a0f70d652b6b825e4"  # of `one`


class FakeEngine:
    """Builds nothing and keeps what it is asked; its registry holds what was pushed."""

    def __init__(self) -> None:
        self.built: list[Recipe] = []
        self.pushed: dict[str, Found] = {}
        self.labels: Mapping[str, str] = {}
        self.logins: list[tuple[str, str, str]] = []

    def build(self, recipe: Recipe) -> str:
        self.built.append(recipe)
        given = recipe.arguments
        self.labels = self.labels or {
            VERSION: given.get("VERSION", ""),
            REVISION: given["REVISION"],
            BUNDLE: given.get("BUNDLE_SHA256", ""),
        }
        return "sha256:" + f"{len(self.built):064x}"

    def inspect(self, image: str) -> Built:
        return Built(self.labels, 400)

    def save(self, image: str, archive: Path) -> None:
        archive.write_text(image, encoding="ascii")

    def push(self, image: str, name: str, tags: tuple[str, ...]) -> str:
        for tag in tags:
            self.pushed[f"{name}:{tag}"] = Found(DIGEST, dict(self.labels), 100)
        return DIGEST

    def look(self, name: str, tag: str) -> Found | None:
        return self.pushed.get(f"{name}:{tag}")

    def login(self, host: str, user: str, password: str) -> None:
        self.logins.append((host, user, password))


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    found = FakeEngine()
    monkeypatch.setattr(image, "choose_engine", lambda: found)
    for name in [name for name in os.environ if name.startswith(("CI_REGISTRY", "IMAGE"))]:
        monkeypatch.delenv(name)
    return found


@pytest.fixture
def trained(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with version 1.0.0 at HEAD and its bundle in model/, as the working directory."""
    write_bundle(project, "one")
    commit = project.commit("Train")
    project.git("tag", "--annotate", "--message=v1", V1.tag, commit)
    monkeypatch.chdir(project.folder)
    return project


def write_bundle(project: Project, graph: str, **changes: Any) -> None:
    """A model that says which graph it has; `write_model` leaves the rest."""
    project.write_model(graph)
    manifest = project.folder / "model/model.json"
    sha256 = re.sub(r"\W", "", _sha256(graph))
    manifest.write_text(json.dumps({"sha256": sha256} | changes), encoding="utf-8")
    lock = yaml.safe_load((project.folder / "dvc.lock").read_text(encoding="utf-8"))
    lock["stages"]["train"]["outs"][0]["md5"] = folder_digest(project.folder / "model")
    project.write("dvc.lock", yaml.safe_dump(lock))


def _sha256(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()
