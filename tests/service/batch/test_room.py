"""Batch is a room: the service lives without it, and without what it alone needs."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from contracts.images import FITS
from service.batch import command
from tests.conftest import ROOT
from tests.make import batches


def service(*words: str, paths: tuple[Path, ...]) -> subprocess.CompletedProcess[str]:
    """Run `python -m service` with modules from `paths`."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "service", *words],
        env={"PYTHONPATH": ":".join(map(str, paths)), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("words", [(), ("key",)])
def test_the_service_lives_without_this_room(words: tuple[str, ...], tmp_path: Path) -> None:
    for name in ("service", "src/contracts"):
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("batch", "*.pyc")
        )
    paths = (tmp_path, tmp_path / "src")
    done = service(*words, "--help", paths=paths)
    assert done.returncode == 0 and "batch" not in done.stdout
    done = service("batch", "chips", "out.parquet", paths=paths)
    assert done.returncode == 2 and "invalid choice: 'batch'" in done.stderr
    code = "import service.app, service.server.supervisor; print(service.__file__)"
    loaded = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={"PYTHONPATH": ":".join(map(str, paths)), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert loaded.stdout.startswith(str(tmp_path))


def test_nothing_but_the_command_line_knows_of_this_room() -> None:
    offenders = [
        path.relative_to(ROOT).as_posix()
        for path in ROOT.glob("service/**/*.py")
        if path.parent.name != "batch"
        and re.search(r"service\.batch", path.read_text(encoding="utf-8"))
    ]
    assert offenders == ["service/__main__.py"]


def test_the_service_starts_without_the_libraries_of_this_room() -> None:
    code = (
        "import sys; sys.argv = ['service', 'key']; import service.__main__ as main; main.main(); "
        "print(sorted({'pyarrow', 's3fs', 'numpy', 'onnxruntime'} & set(sys.modules)))"
    )
    paths = f"{ROOT}:{ROOT / 'src'}"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={"PYTHONPATH": paths, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_ways_to_fit_are_those_of_predict() -> None:
    assert command.FITS == FITS


def test_without_pyarrow_the_extra_is_named(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "pyarrow.py").write_text("raise ImportError('no such module')", encoding="ascii")
    paths = f"{tmp_path}:{batches.environment()['PYTHONPATH']}"
    done = batches.batch(tmp_path, tmp_path / "out.parquet", bundle, PYTHONPATH=paths)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: a batch writes Parquet with pyarrow")
    assert "conveyor[batch]" in done.stderr
