"""Small projects in which every stage has run, of the tasks that are rooms.

Classifiers have their own in tests/pipeline/conftest.py, on images that most tests need anyway.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline import evaluate, load, preprocess, train
from pipeline.ingest import ingest
from pipeline.sources.coco import Coco
from pipeline.sources.scenes import Scenes
from pipeline.sources.source import Source
from tests.conftest import write_params
from tests.make.harbours import make_coco
from tests.make.label_maps import BANDS, make_scene

Changes = Mapping[str, Mapping[str, Any]]
PORTS: dict[str, dict[str, Any]] = {
    "preprocess": {"test_fraction": 0.2, "validation_fraction": 0.2},
    "model": {"name": "harbour", "task": "detection", "network": "unet-half", "width": 4},
    "train": {"epochs": 14, "batch_size": 4, "progressive": False, "max_shift": 2},
    "gate": {"min_ap50": 0.3, "min_size_recall": 0.3},
}
OUTLINES = PORTS | {
    "model": PORTS["model"] | {"task": "instances"},
    "gate": PORTS["gate"] | {"min_mask_ap50": 0.3},
}
SCENES: dict[str, dict[str, Any]] = {
    "preprocess": {"block_size": 160, "buffer": 20, "test_fraction": 0.3},
    "model": {"task": "segmentation", "network": "unet", "width": 4},
    "train": {"epochs": 8, "batch_size": 4},
    "evaluate": {"block_size": 80},
    "gate": {"max_calibration_error": 1.0},
}


def train_on_ports(folder: Path, repository: Path) -> None:
    """Train a detector on five ports, in `folder`/project, a copy of `repository`."""
    make_coco(folder / "ports", groups=5)
    _train(folder / "project", repository, Coco(folder / "ports"), PORTS)


def train_on_outlines(folder: Path, repository: Path) -> None:
    """Train for masks on five ports, in `folder`/project."""
    make_coco(folder / "ports", groups=5, masks=True)
    _train(folder / "project", repository, Coco(folder / "ports", masks=True), OUTLINES)


def train_on_scenes(folder: Path, repository: Path) -> None:
    """Train a segmentation on two dates of a place, in `folder`/project."""
    for name in ("a", "b"):
        make_scene(folder, name, 96, 80, names=BANDS, nodata=0)
    classes = {0: "low", 1: "high"}
    scenes = Scenes(folder / "images", folder / "labels", classes, size=16)
    _train(folder / "project", repository, scenes, SCENES)


def _train(project: Path, repository: Path, source: Source, params: Changes) -> None:
    shutil.copytree(repository, project)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        write_params(params)
        ingest(source)
        for stage in (load, preprocess, train, evaluate):
            stage.main([])


def metrics() -> dict[str, float]:
    """What evaluate has measured in the working directory."""
    measured: dict[str, float] = json.loads(Path("reports/metrics.json").read_text("utf-8"))
    return measured
