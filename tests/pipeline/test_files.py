"""A failure while writing leaves the previous outputs as they were."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.files import ArrayWriter, replacing, write_json, write_text
from tests.conftest import run


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "out"
    for name in ("first", "second"):
        with replacing(target) as folder:
            (folder / name).touch()
    assert [path.name for path in target.iterdir()] == ["second"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failure_keeps_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with replacing(target) as folder:
        (folder / "old").touch()
    with pytest.raises(KeyError), replacing(target) as folder:
        (folder / "half").touch()
        raise KeyError
    assert [path.name for path in target.iterdir()] == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_file_that_can_not_be_written_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert path.read_text(encoding="utf-8") == "old"
    assert [item.name for item in path.parent.iterdir()] == ["b.txt"]


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"accuracy": float("nan")})
    assert not (tmp_path / "a.json").exists()


@pytest.mark.parametrize("counts", [[], [1], [3, 0, 200]])
def test_an_array_grows_row_by_row(tmp_path: Path, counts: list[int]) -> None:
    path = tmp_path / "a.npy"
    rows = np.arange(sum(counts) * 6, dtype=np.uint16).reshape(-1, 2, 3)
    with ArrayWriter(path, (2, 3), np.uint16) as writer:
        for start, count in zip(np.cumsum([0, *counts]), counts, strict=False):
            writer.append(rows[start : start + count])
    found = np.load(path, mmap_mode="r" if len(rows) else None)
    assert found.dtype == np.uint16 and np.array_equal(found, rows)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, large enough for nothing; needs root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_one_sentence_and_keeps_the_old_outputs(
    chips: Path, small_disk: Path
) -> None:
    for name in ("params.yaml", "artifacts/chips/manifest.csv"):
        assert (chips / name).exists()
    (chips / "artifacts" / "chips").rename(chips / "before")
    os.symlink(small_disk, chips / "artifacts" / "small")
    script = (
        "from pathlib import Path; from pipeline import paths, preprocess;"
        "paths.CHIPS = Path('artifacts/small/chips'); preprocess.main()"
    )
    (small_disk / "chips").mkdir()
    (small_disk / "chips" / "old").write_text("old", encoding="utf-8")
    result = run("python", "-c", script, check=False)
    assert result.returncode == 1
    assert "the disk is full; free some space" in result.stderr
    assert "Traceback" not in result.stderr
    assert [path.name for path in small_disk.iterdir()] == ["chips"]
    assert (small_disk / "chips" / "old").read_text(encoding="utf-8") == "old"


def test_a_read_only_folder_is_one_sentence_and_keeps_the_old_outputs(
    chips: Path, small_disk: Path
) -> None:
    (small_disk / "metrics.json").write_text("old", encoding="utf-8")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    os.symlink(small_disk, chips / "artifacts" / "small")
    script = (
        "from pathlib import Path; from pipeline import paths, preprocess;"
        "paths.CHIPS = Path('artifacts/small/chips'); preprocess.main()"
    )
    result = run("python", "-c", script, check=False)
    assert result.returncode == 1
    assert "the file system is read-only" in result.stderr and "Traceback" not in result.stderr
    assert (small_disk / "metrics.json").read_text(encoding="utf-8") == "old"
