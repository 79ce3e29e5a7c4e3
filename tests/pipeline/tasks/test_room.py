"""Segmentation, detection and instances are rooms: a clone without them trains as before."""

import shutil
import sys
from pathlib import Path

import pytest

from pipeline.sources.folder import Folder
from tests.conftest import ROOT, run, write_images, write_params

ROOMS = {
    "segmentation": (
        "data/blocks.py",
        "data/maps.py",
        "data/places.py",
        "sources/scenes.py",
        "sources/sentinel2",
        "sources/synthetic_scenes.py",
        "tasks/overlap.py",
        "tasks/segmentation.py",
        "tasks/tiling.py",
    ),
    "detection": (
        "data/groups.py",
        "sources/coco.py",
        "sources/synthetic_harbour.py",
        "tasks/centres.py",
        "tasks/detection.py",
        "tasks/matching.py",
        "tasks/objects.py",
    ),
    "instances": ("tasks/instances.py", "tasks/prototypes.py"),
}
NAMES = {
    "segmentation": ("scenes", "sentinel2", '"segmentation"'),
    "detection": ("coco", "harbour", '"detection"'),
    "instances": ('"instances"',),
}
"""In the two tables."""


def without(table: Path, room: str) -> None:
    """Delete the lines of a table that name the room."""
    text = table.read_text(encoding="utf-8")
    text = text.replace(f", {room}\n", "\n").replace(f", {room},", ",")
    lines = text.splitlines(keepends=True)
    kept = [line for line in lines if not any(name in line.lower() for name in NAMES[room])]
    table.write_text("".join(kept), encoding="utf-8")


@pytest.mark.parametrize(
    "rooms", [("segmentation",), ("instances",), ("detection", "instances"), tuple(ROOMS)]
)
def test_a_clone_without_a_room_trains_classifiers(
    rooms: tuple[str, ...], tmp_path: Path, workdir: Path
) -> None:
    source = tmp_path / "src"
    shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
    package = source / "pipeline"
    for room in rooms:
        for name in ROOMS[room]:
            path = package / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for table in ("tasks/__init__.py", "sources/__init__.py"):
            without(package / table, room)
    left = ["classification", *(room for room in ROOMS if room not in rooms)]
    script = f"import sys; sys.path.insert(0, {str(source)!r}); from pipeline import tasks; "
    script += f"assert list(tasks.TASKS) == {left}, tasks.TASKS"
    if rooms != tuple(ROOMS):
        # What is left can be imported; that it trains is shown without both.
        script += "; from pipeline import evaluate, gate, ingest, load, preprocess, report, train"
        run(sys.executable, "-c", script)
        return
    write_params()
    data = write_images(workdir / "data")
    Folder(data).dataset().write(data)
    script += "; from pipeline import evaluate, ingest, load, preprocess, train"
    script += "; [stage.main([]) for stage in (load, preprocess, train, evaluate)]"
    output = run(sys.executable, "-c", script).stdout
    assert "evaluate: accuracy" in output
