"""A version whose bundle, lock and manifest agree, until a test changes one of them."""

import hashlib
import json
from typing import Any

import yaml

from contracts.commit import folder_digest
from delivery.tags import parse_version
from tests.delivery.conftest import Project

V1 = parse_version("landcover@v1.0.0")
GRAPH_SHA256 = hashlib.sha256(b"one").hexdigest()


def write_bundle(project: Project, graph: str, **changes: Any) -> None:
    """Leave a model whose manifest says which graph it has, and the dvc.lock that belongs to it."""
    project.write_model(graph)
    manifest = {"sha256": hashlib.sha256(graph.encode()).hexdigest()} | changes
    project.write("model/model.json", json.dumps(manifest))
    outs = [{"path": "model", "hash": "md5", "md5": folder_digest(project.folder / "model")}]
    lock = {"schema": "2.0", "stages": {"train": {"outs": outs}}}
    project.write("dvc.lock", yaml.safe_dump(lock))


def train_version(project: Project) -> Project:
    """Make version 1.0.0 at HEAD, with its bundle in model/."""
    write_bundle(project, "one")
    project.git("tag", "--annotate", "--message=v1", V1.tag, project.commit("Train"))
    return project
