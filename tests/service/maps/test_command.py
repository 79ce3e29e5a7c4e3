"""`python -m service map`, and the service without this room."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.make import bundles, maps


def service(
    *words: object, paths: tuple[Path, ...] = (ROOT, ROOT / "src")
) -> subprocess.CompletedProcess[str]:
    """Run `python -m service` with modules from `paths`."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "service", *map(str, words)],
        env={"PYTHONPATH": ":".join(map(str, paths)), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_scene_becomes_a_map_and_its_item(bundle: Path, scene: Path, tmp_path: Path) -> None:
    done = service("map", scene, "-o", tmp_path / "map.tif", "--bundle", bundle, "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.json", "map.tif"]
    assert re.search(r"map\.tif: 331 x 203 pixels in \d+\.\d s", done.stdout)
    assert re.search(r"\d km2  Forest", done.stdout) and "warning: " in done.stdout
    assert "100 %" in done.stderr


def test_a_refusal_is_one_sentence(bundle: Path, tmp_path: Path) -> None:
    scene = maps.write_scene(tmp_path / "scene.tif", maps.ground(80, 90), ())
    done = service("map", scene, "-o", tmp_path / "map.tif", "--bundle", bundle)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the 4 bands of the scene have no names")
    assert done.stderr.count("\n") == 1


def test_a_classifier_is_refused(scene: Path, tmp_path: Path) -> None:
    bundle = bundles.make_bundle(tmp_path / "model")
    done = service("map", scene, "-o", tmp_path / "map.tif", "--bundle", bundle)
    assert done.returncode == 1
    assert "task classification" in done.stderr and "use a segmentation model" in done.stderr


def test_without_rasterio_the_extra_is_named(scene: Path, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "rasterio.py").write_text("raise ImportError('no such module')", encoding="ascii")
    paths = (tmp_path, ROOT, ROOT / "src")
    done = service("map", scene, "-o", tmp_path / "m.tif", "--bundle", bundle, paths=paths)
    assert done.returncode == 1
    assert done.stderr.startswith("error: maps need rasterio") and "conveyor[maps]" in done.stderr


def test_a_worker_that_dies_is_a_sentence_and_the_next_start_goes_on(
    bundle: Path, tmp_path: Path
) -> None:
    scene = maps.write_scene(tmp_path / "scene.tif", maps.ground(600, 600))
    target = tmp_path / "map.tif"
    words = ["map", str(scene), "-o", str(target), "--bundle", str(bundle), "--workers=1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "service", *words, "--tile=64"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    said = []
    for line in process.stderr:
        said.append(line)
        if len(said) == 2:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text("ascii")
            subprocess.run(["kill", "-KILL", *children.split()], check=True)
    assert process.wait() == 1
    process.stderr.close()
    assert said[-1].startswith("error: a worker ended with signal 9: if memory is short")
    done = service(*words, "--tile=64")
    assert done.returncode == 0 and "tiles were finished before" in done.stderr


@pytest.mark.parametrize("words", [(), ("key",)])
def test_the_service_lives_without_this_room(words: tuple[str, ...], tmp_path: Path) -> None:
    for name in ("service", "src/contracts"):
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("maps", "*.pyc")
        )
    paths = (tmp_path, tmp_path / "src")
    done = service(*words, "--help", paths=paths)
    assert done.returncode == 0 and "map " not in done.stdout
    done = service("map", "scene.tif", paths=paths)
    assert done.returncode == 2 and "invalid choice: 'map'" in done.stderr
    code = "import service.app, service.server.supervisor; print(service.__file__)"
    loaded = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={"PYTHONPATH": ":".join(map(str, paths)), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert loaded.stdout.startswith(str(tmp_path))


def test_nothing_but_the_wiring_knows_of_this_room() -> None:
    offenders = [
        path.relative_to(ROOT).as_posix()
        for path in ROOT.glob("service/**/*.py")
        if path.parent.name != "maps"
        and re.search(r"service\.maps", path.read_text(encoding="utf-8"))
    ]
    assert sorted(offenders) == ["service/__main__.py", "service/app.py"]
