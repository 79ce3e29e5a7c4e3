"""`data/`, `artifacts/` and the cache in other places, and as people have configured them."""

import os
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.data.dataset import image_files
from pipeline.ingest import ingest
from pipeline.sources.folder import Folder
from tests.conftest import run, write_images


@pytest.fixture
def other_disk(repository: Path) -> Iterator[Path]:
    """A folder of a file system that a rename does not reach."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    assert folder.stat().st_dev != repository.stat().st_dev
    yield folder
    shutil.rmtree(folder)


def ingest_twice(source: Path) -> None:
    """The second version has one image less; both are laid out and known to DVC."""
    ingest(Folder(write_images(source)))
    (source / "class-0/000.png").unlink()
    ingest(Folder(source))
    assert len(list(image_files(Path("data")))) == 35
    assert "up to date" in run("dvc", "status", "data.dvc").stdout
    assert not Path("artifacts/incoming").exists()


def test_artifacts_may_be_a_link_to_another_disk(other_disk: Path, tmp_path: Path) -> None:
    Path("artifacts").symlink_to(other_disk)
    ingest_twice(tmp_path / "mine")


def test_data_may_be_a_link_to_another_disk(other_disk: Path, tmp_path: Path) -> None:
    Path("data").symlink_to(other_disk)
    ingest_twice(tmp_path / "mine")
    assert Path("data").is_symlink()
    assert len(list(image_files(other_disk))) == 35


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_data_may_be_a_mounted_volume(repository: Path, tmp_path: Path) -> None:
    Path("data").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", "data"], check=True)
    try:
        ingest_twice(tmp_path / "mine")
    finally:
        subprocess.run(["umount", "data"], check=True)


def test_old_data_that_cannot_be_removed_end_the_ingest_and_nothing_lies_in_a_wrong_place(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest(Folder(write_images(tmp_path / "mine")))
    (tmp_path / "mine/class-0/000.png").unlink()

    def refuse(path: object, *_: object, **options: bool) -> None:
        if path == Path("data") and not options.get("ignore_errors"):
            raise PermissionError(13, "Permission denied", "data")

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.ingest.shutil.rmtree", refuse)
        with pytest.raises(PermissionError):
            ingest(Folder(tmp_path / "mine"))
    assert not Path("data/data").exists()
    run("dvc", "checkout", "--force", "data.dvc")  # as the module says
    assert len(list(image_files(Path("data")))) == 35


def test_a_cache_that_a_team_shares_is_readable_and_writable_for_the_team(
    repository: Path, tmp_path: Path
) -> None:
    """Also where the one who ingests keeps their own files to themselves."""
    source, cache = write_images(tmp_path / "mine"), tmp_path / "cache"
    run("dvc", "config", "cache.dir", str(cache))
    run("dvc", "config", "cache.shared", "group")
    line = "umask 077 && python -m pipeline.ingest folder --path"
    run("bash", "-c", f"{line} {shlex.quote(str(source))}")
    objects = [path for path in (cache / "files").rglob("*") if path.is_file()]
    assert len(objects) > 30
    assert all(path.stat().st_mode & stat.S_IRGRP for path in objects)
    assert all(path.parent.stat().st_mode & stat.S_IWGRP for path in objects)


@pytest.mark.parametrize("links", ["symlink", "hardlink", "copy"])
def test_links_of_the_kind_that_dvc_is_told_to_make_are_made(
    repository: Path, tmp_path: Path, links: str
) -> None:
    run("dvc", "config", "cache.type", links)
    ingest_twice(tmp_path / "mine")
    assert Path("data/class-0/001.png").is_symlink() == (links == "symlink")


def test_a_users_own_configuration_of_dvc_is_taken_where_it_says_where_and_not_what(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their cache on another disk is used; nothing is staged in Git, or pushed elsewhere."""
    settings = tmp_path / "user"
    settings.mkdir()
    text = f"[core]\n    autostage = true\n    remote = mine\n[cache]\n    dir = {settings}/cache\n"
    text += f"['remote \"mine\"']\n    url = {settings}/remote\n[exp]\n    auto_push = true\n"
    (settings / "config").write_text(text, encoding="utf-8")
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(settings))
    ingest_twice(tmp_path / "mine")
    assert len(list((settings / "cache/files").rglob("*"))) > 30
    assert not Path(".dvc/cache/files").exists()
    assert run("git", "diff", "--cached", "--name-only").stdout == ""
