"""Stream, live frames and camera are rooms: the service lives without each of them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from contracts.images import FITS
from service.camera import command as camera
from tests.conftest import ROOT

ROOMS = ("stream", "live", "camera")
LIBRARIES = "{'confluent_kafka', 'cv2', 'numpy', 'onnxruntime'}"


def python(code: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    """Run code with modules from `paths` alone."""
    return subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={"PYTHONPATH": ":".join(map(str, paths)), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_service_lives_without_each_of_these_rooms(tmp_path: Path) -> None:
    for room in ROOMS:
        folder = tmp_path / room
        for name in ("service", "src/contracts"):
            ignored = shutil.ignore_patterns(room, "*.pyc")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        code = (
            "import sys, service.__main__ as main; import service.app, service.server.supervisor;"
            "from service.container import Container; from service.app import create_app;"
            "print(sorted(create_app(Container()).app.openapi()['paths']));"
            "sys.argv = ['service', '--help']; main.main()"
        )
        done = python(code, folder, folder / "src")
        assert done.returncode == 0, done.stderr
        paths, _, help_text = done.stdout.partition("\n")
        assert ("'/live'" in paths) == (room != "live")
        for command in ("stream", "camera"):
            assert bool(re.search(rf"^    {command} ", help_text, re.M)) == (room != command)


@pytest.mark.parametrize(
    ("room", "wired"),
    [
        ("stream", ["service/__main__.py"]),
        ("camera", ["service/__main__.py"]),
        ("live", ["service/app.py"]),
    ],
)
def test_one_line_of_wiring_knows_of_a_room(room: str, wired: list[str]) -> None:
    knowing = [
        path.relative_to(ROOT).as_posix()
        for path in ROOT.glob("service/**/*.py")
        if path.parent.name != room
        and re.search(rf"service\.{room}\b(?!\.)|service\.{room}\.", _code(path))
    ]
    assert knowing == wired


def _code(path: Path) -> str:
    """A module, without the names of loggers."""
    return re.sub(r"getLogger\(.*\)", "", path.read_text(encoding="utf-8"))


def test_the_command_line_starts_without_the_libraries_of_these_rooms() -> None:
    code = (
        "import sys; sys.argv = ['service', 'key']; import service.__main__ as main; main.main(); "
        f"print(sorted({LIBRARIES} & set(sys.modules)))"
    )
    assert python(code, ROOT, ROOT / "src").stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("words", "library", "says"),
    [
        (["stream"], "confluent_kafka", "conveyor[stream]"),
        (["camera", "film.avi"], "cv2", "conveyor[camera]"),
    ],
)
def test_without_its_library_a_command_names_the_extra(
    words: list[str], library: str, says: str, tmp_path: Path
) -> None:
    (tmp_path / f"{library}.py").write_text("raise ImportError('no such module')", "ascii")
    code = f"import sys; sys.argv = ['service', *{words}]; import service.__main__ as it; it.main()"
    done = python(code, tmp_path, ROOT, ROOT / "src")
    assert done.returncode == 1 and says in done.stderr and done.stderr.count("\n") == 1


def test_the_ways_to_fit_are_those_of_predict() -> None:
    assert camera.FITS == FITS
