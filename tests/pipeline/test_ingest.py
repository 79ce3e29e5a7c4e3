"""Ingest: what becomes a version of the data, and that nothing is lost on the way."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from PIL import Image

from pipeline.data.dataset import Dataset, image_files
from pipeline.errors import DataError, SourceError
from pipeline.ingest import ingest
from pipeline.sources import File
from pipeline.sources.folder import Folder
from tests.conftest import run, write_images


def version() -> str:
    return str(yaml.safe_load(Path("data.dvc").read_text(encoding="utf-8"))["outs"][0]["md5"])


def test_ingest_makes_a_version_that_dvc_knows(repository: Path, tmp_path: Path) -> None:
    ingest(Folder(write_images(tmp_path / "mine")))
    assert len(list(image_files(Path("data")))) == 36
    assert Dataset.read(Path("data")).classes == ("class-0", "class-1", "class-2")
    assert "up to date" in run("dvc", "status", "data.dvc").stdout
    assert not Path("artifacts/incoming").exists()


def test_the_same_data_have_the_same_version(repository: Path, tmp_path: Path) -> None:
    ingest(Folder(write_images(tmp_path / "mine")))
    first = version()
    ingest(Folder(tmp_path / "mine"))
    assert version() == first


def test_an_earlier_version_can_be_checked_out(repository: Path, tmp_path: Path) -> None:
    ingest(Folder(write_images(tmp_path / "mine")))
    shutil.copy("data.dvc", tmp_path / "before.dvc")
    shutil.rmtree(tmp_path / "mine" / "class-2")
    ingest(Folder(tmp_path / "mine"))
    assert not Path("data/class-2").exists()
    shutil.copy(tmp_path / "before.dvc", "data.dvc")
    run("dvc", "checkout", "--quiet", "data.dvc")
    assert len(list(image_files(Path("data")))) == 36


def test_the_summary_counts_new_removed_and_bad_files(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = write_images(tmp_path / "mine")
    ingest(Folder(mine))
    (mine / "class-0" / "000.png").unlink()
    shutil.copy(mine / "class-1" / "000.png", mine / "class-1" / "new.png")
    (mine / "class-2" / "bad.png").write_bytes(b"broken")
    capsys.readouterr()
    ingest(Folder(mine))
    output = capsys.readouterr().out
    rows = {line.split()[1]: line.split()[3::2] for line in output.splitlines() if "│" in line}
    assert rows["class-0"] == ["11", "0", "1", "0"]
    assert rows["class-1"] == ["13", "1", "0", "0"]
    assert rows["class-2"] == ["12", "0", "0", "1"]
    assert rows["all"] == ["36", "1", "1", "1"]
    assert "bad: class-2/bad.png: can not be read" in output
    assert not Path("data/class-2/bad.png").exists()


def test_a_dry_run_changes_nothing(repository: Path, tmp_path: Path) -> None:
    before = sorted(Path().rglob("*"))
    ingest(Folder(write_images(tmp_path / "mine")), dry_run=True)
    assert not Path("data").exists() and not Path("data.dvc").exists()
    assert [p for p in sorted(Path().rglob("*")) if p not in before] == [Path("artifacts")]


@pytest.mark.parametrize("classes", [0, 1])
def test_data_that_can_not_be_learned_from_are_refused_and_the_old_ones_stay(
    repository: Path, tmp_path: Path, classes: int
) -> None:
    ingest(Folder(write_images(tmp_path / "good")))
    before = version()
    if classes:
        source = Folder(write_images(tmp_path / "poor", classes=1))
    else:
        source = Folder(write_images(tmp_path / "poor"))
        for path in (tmp_path / "poor").rglob("*.png"):
            path.write_bytes(b"broken")
    with pytest.raises(DataError, match="one class only" if classes else "no usable image"):
        ingest(source)
    assert version() == before
    assert len(list(image_files(Path("data")))) == 36


class Escaping(Folder):
    """A source that names a file outside of the data."""

    def files(self) -> Iterator[File]:
        yield File("../class-0/evil.png", b"x")


def test_a_path_that_leaves_the_folder_is_refused(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="points outside"):
        ingest(Escaping(write_images(tmp_path / "mine")))
    assert not Path("class-0").exists()


def test_a_folder_without_dvc_is_refused(workdir: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no DVC repository"):
        ingest(Folder(write_images(tmp_path / "mine")))


@pytest.mark.parametrize("wait", [0.3, 0.9, 1.4, 1.9, 2.4])
def test_a_killed_ingest_leaves_one_whole_version(
    repository: Path, tmp_path: Path, wait: float
) -> None:
    ingest(Folder(write_images(tmp_path / "old", each=4)))
    old = set(image_files(Path("data")))
    write_images(tmp_path / "new", each=200)
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.ingest", "folder", "--path", str(tmp_path / "new")],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    time.sleep(wait)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    run("dvc", "checkout", "--quiet", "--force", "data.dvc")
    found = set(image_files(Path("data")))
    assert found == old or len(found) == 600
    for path in found:
        Image.open(Path("data") / path).verify()
    ingest(Folder(tmp_path / "new"))
    assert len(list(image_files(Path("data")))) == 600


def test_help_lists_every_source() -> None:
    text = run(sys.executable, "-m", "pipeline.ingest", "--help").stdout
    for name in ("synthetic", "folder", "eurosat", "feedback"):
        assert name in text
