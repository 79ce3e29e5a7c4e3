"""Inputs of `python -m service batch`, and the command itself."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.conftest import ROOT
from tests.make.bundles import make_chip
from tests.make.images import npy, tiff


def write_chips(folder: Path, count: int, first: int = 0) -> list[str]:
    """Chips in a folder and one below it, in two formats; gives their names in order."""
    (folder / "below").mkdir(parents=True, exist_ok=True)
    names = []
    for number in range(first, first + count):
        chip = make_chip(number)
        name = f"chip-{number:05d}.npy" if number % 3 else f"below/chip-{number:05d}.tif"
        content = npy(chip) if number % 3 else tiff(chip, planarconfig="separate")
        (folder / name).write_bytes(content)
        names.append(name)
    return sorted(names)


def pack(folder: Path, archive: Path) -> Path:
    """Pack a folder."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, path.relative_to(folder).as_posix())
    return archive


def words(place: object, target: object, bundle: Path, *more: object) -> list[str]:
    """The command line."""
    return _line(place, target, "--bundle", bundle, *more)


def _line(*words: object) -> list[str]:
    return [sys.executable, "-P", "-m", "service", "batch", *map(str, words)]


def environment(**more: object) -> dict[str, str]:
    """Of a command without settings of the one who runs the tests."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("SERVICE_")}
    return (
        kept | {"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"} | {n: str(text) for n, text in more.items()}
    )


def batch(
    place: object, target: object, bundle: Path, *more: object, **variables: object
) -> subprocess.CompletedProcess[str]:
    """Run it with one worker, unless `more` says otherwise."""
    return _run(words(place, target, bundle, "--workers=1", *more), variables)


def tagged(
    place: object, target: object, tag: str, **variables: object
) -> subprocess.CompletedProcess[str]:
    """Run it with the model of a tag."""
    return _run(_line(place, target, "--tag", tag, "--workers=1"), variables)


def _run(line: list[str], variables: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        line, env=environment(**variables), capture_output=True, text=True, check=False
    )


def rows(target: Path) -> list[dict[str, Any]]:
    """The table."""
    found: list[dict[str, Any]] = pq.read_table(target).to_pylist()
    return found


def digest(bundle: Path) -> str:
    """Of a model."""
    return str(json.loads((bundle / "model.json").read_bytes())["sha256"])
