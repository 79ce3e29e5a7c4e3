"""Segmentation is a room: a clone that deletes it trains classifiers as before."""

import shutil
import sys
from pathlib import Path

from pipeline.sources.folder import Folder
from tests.conftest import ROOT, run, write_images, write_params

ROOM = (
    "data/blocks.py",
    "data/maps.py",
    "data/places.py",
    "sources/scenes.py",
    "sources/sentinel2",
    "sources/synthetic_scenes.py",
    "tasks/overlap.py",
    "tasks/segmentation.py",
    "tasks/tiling.py",
)
NAMES = ("segmentation", "scenes", "sentinel2")  # in the two tables


def without(table: Path) -> None:
    """Delete the lines of a table that name the room."""
    text = table.read_text(encoding="utf-8")
    text = text.replace("import classification, segmentation", "import classification")
    text = text.replace(', "segmentation": segmentation', "")
    text = text.replace('    "segmentation": segmentation,\n', "")
    lines = text.splitlines(keepends=True)
    kept = [line for line in lines if not any(name in line.lower() for name in NAMES)]
    table.write_text("".join(kept), encoding="utf-8")


def test_a_clone_without_segmentation_trains_classifiers(tmp_path: Path, workdir: Path) -> None:
    source = tmp_path / "src"
    shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
    package = source / "pipeline"
    for name in ROOM:
        path = package / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for table in ("tasks/__init__.py", "sources/__init__.py"):
        without(package / table)
    write_params()
    data = write_images(workdir / "data")
    Folder(data).dataset().write(data)
    script = "; ".join(
        (
            f"import sys; sys.path.insert(0, {str(source)!r})",
            "from pipeline import evaluate, ingest, load, preprocess, tasks, train",
            "assert list(tasks.TASKS) == ['classification']",
            "[stage.main([]) for stage in (load, preprocess, train, evaluate)]",
        )
    )
    output = run(sys.executable, "-c", script).stdout
    assert "evaluate: accuracy" in output
