"""Checkpoints survive their runner: copied to the DVC remote, restored, deleted at the end."""

import time
from pathlib import Path

import pytest

from delivery.experiment import checkpoints


@pytest.fixture
def remote(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory is a repository with a remote of its own."""
    folder = tmp_path / "remote"
    text = f"[core]\n    remote = team\n['remote \"team\"']\n    url = {folder}\n"
    (repository / ".dvc" / "config").write_text(text, encoding="utf-8")
    monkeypatch.setenv("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", "try/$(id)")
    monkeypatch.setattr(checkpoints, "MINUTES", 0.0005)
    return folder


def write(epoch: int, text: str = "") -> Path:
    path = checkpoints.LOCAL / "0123456789abcdef" / f"epoch-{epoch:05d}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text or f"epoch {epoch}", encoding="utf-8")
    return path


def copies(remote: Path) -> list[str]:
    return sorted(path.name for path in remote.rglob("*.pt"))


def wait_for(remote: Path, names: list[str]) -> None:
    deadline = time.monotonic() + 60
    while copies(remote) != names:
        assert time.monotonic() < deadline, copies(remote)
        time.sleep(0.01)


def test_an_interrupted_run_resumes_on_another_runner(remote: Path) -> None:
    with checkpoints.preserved():
        first = write(1)
        wait_for(remote, [first.name])
        second = write(2)
        first.unlink()  # the pipeline keeps few
        wait_for(remote, [second.name])
    second.unlink()  # another runner, another disk
    with checkpoints.preserved():
        assert second.read_text(encoding="utf-8") == "epoch 2"
    checkpoints.delete()
    assert copies(remote) == []


def test_local_checkpoints_are_not_replaced_by_copies(remote: Path) -> None:
    with checkpoints.preserved():
        path = write(1)
        wait_for(remote, [path.name])
    path.write_text("newer", encoding="utf-8")
    with checkpoints.preserved():
        assert path.read_text(encoding="utf-8") == "newer"


def test_branches_do_not_see_each_other(remote: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with checkpoints.preserved():
        path = write(1)
        wait_for(remote, [path.name])
    path.unlink()
    monkeypatch.setenv("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", "another")
    with checkpoints.preserved():
        assert not path.exists()


def test_a_remote_that_refuses_does_not_end_the_training(
    remote: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def refuse(*_: object) -> set[Path]:
        tried.append(1)
        raise OSError("the remote is away")

    monkeypatch.setattr(checkpoints, "_copy", refuse)
    with checkpoints.preserved():
        while len(tried) < 3:
            time.sleep(0.01)
    assert len(tried) >= 3
