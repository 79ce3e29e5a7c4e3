"""Files that processes share: never half written, locked by one, and owned by a living process."""

import errno
import os
import subprocess
from pathlib import Path

import pytest

from service.errors import StorageFull, Unavailable
from service.files import StillLocked, birth, disk_error, is_alive, locked, replace_file


@pytest.mark.parametrize("durable", [True, False])
def test_a_write_that_fails_keeps_the_old_content_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    path = tmp_path / "record.json"
    replace_file(path, "old", durable)

    def refuse(*_: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync" if durable else "utime", refuse)
        with pytest.raises(OSError, match="full"):
            replace_file(path, "new", durable, modified=1)
    assert [(item.name, item.read_text()) for item in tmp_path.iterdir()] == [(path.name, "old")]


def test_the_time_of_a_written_file_can_be_set(tmp_path: Path) -> None:
    replace_file(tmp_path / "a", b"x", modified=1_000_000_007)
    assert (tmp_path / "a").stat().st_mtime_ns == 1_000_000_007


def test_a_lock_is_held_by_one_and_released_by_an_error(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.lock"
    with pytest.raises(KeyError), locked(path):
        with pytest.raises(StillLocked), locked(path):
            pytest.fail("it was locked twice")
        raise KeyError
    with locked(path):
        pass


def test_a_process_is_named_by_its_number_and_birth() -> None:
    mine = birth(os.getpid())
    assert is_alive(os.getpid(), mine)
    assert not is_alive(os.getpid(), str(int(mine) + 1)), "the number was given to another process"
    assert not is_alive(os.getpid(), "")
    gone = subprocess.Popen(["true"])
    born = birth(gone.pid)
    gone.wait()
    assert not is_alive(gone.pid, born or "1")


def test_only_a_full_disk_is_reported_as_full() -> None:
    other = Unavailable("read-only")
    assert isinstance(disk_error(OSError(errno.ENOSPC, ""), other), StorageFull)
    assert isinstance(disk_error(OSError(errno.EDQUOT, ""), other), StorageFull)
    assert disk_error(OSError(errno.EROFS, ""), other) is other
