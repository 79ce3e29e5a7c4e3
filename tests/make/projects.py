"""Repositories whose tags name models that really answer, with the DVC remote outside of them."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.conftest import run
from tests.make.bundles import make_bundle
from tests.make.repositories import CONFIG, Project, md5


class Published(Project):
    """A repository under construction; `remote` is the folder of its DVC remote."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.remote = folder.with_name(f"{folder.name}-remote")
        self.made = 0
        self.write(".dvc/config", CONFIG.format(self.remote))

    def store(self, content: bytes, suffix: str = "") -> str:
        """Put an object into the remote as `dvc push` would; returns its digest."""
        digest = md5(content) + suffix
        file = self.object(digest)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        return digest

    def object(self, digest: str) -> Path:
        """Where the remote keeps an object."""
        return self.remote / "files" / "md5" / digest[:2] / digest[2:]

    def publish(self, tag: str, files: Mapping[str, bytes]) -> str:
        """Commit and tag a model folder of any content; returns its digest in DVC."""
        digest = self.push(files)
        self.lock(digest)
        self.commit(f"Train {tag}")
        self.tag(tag)
        return digest

    def publish_bundle(self, tag: str, **options: Any) -> Path:
        """Publish a bundle, which is returned; the options are those of `make_bundle`."""
        self.made += 1
        bundle = make_bundle(self.folder.with_name(f"bundle-{self.made}"), **options)
        self.publish(tag, contents(bundle))
        return bundle


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder by name."""
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def digest_of(bundle: Path) -> str:
    """What the manifest of a bundle says that its graph is."""
    return str(json.loads((bundle / "model.json").read_bytes())["sha256"])


def train_with_dvc(folder: Path, tags: Mapping[str, Path]) -> Path:
    """Make a repository with a bundle a tag by DVC itself: `dvc repro`, `dvc push`."""
    project = Project(folder)
    run("dvc", "init", "--quiet", "--force", cwd=folder)
    project.write(".dvc/config", CONFIG.format("../../remote"))
    copy = "mkdir model && cp ../input/model.onnx ../input/model.json model"
    deps = "[../input/model.onnx, ../input/model.json]"
    project.write("dvc.yaml", f"stages: {{train: {{cmd: {copy}, deps: {deps}, outs: [model]}}}}")
    for tag, bundle in tags.items():
        shutil.rmtree(folder.parent / "input", ignore_errors=True)
        shutil.copytree(bundle, folder.parent / "input")
        run("dvc", "repro", "--quiet", cwd=folder)
        run("dvc", "push", "--quiet", cwd=folder)
        project.commit(f"Train {tag}")
        project.tag(tag)
    shutil.rmtree(folder / ".dvc" / "cache")
    return folder
