"""Checkpoints: whole or not at all, and never those of another run."""

from pathlib import Path

import pytest
import torch

from pipeline.training.checkpoint import Checkpoints, fingerprint


def save(checkpoints: Checkpoints, *epochs: int) -> None:
    for epoch in epochs:
        checkpoints.save(epoch, {"weights": torch.full((3,), float(epoch))})


def epoch_of(checkpoints: Checkpoints) -> int | None:
    state = checkpoints.load()
    return None if state is None else int(state["epoch"])


def test_the_newest_checkpoint_is_loaded(tmp_path: Path) -> None:
    checkpoints = Checkpoints("run", tmp_path)
    assert epoch_of(checkpoints) is None
    save(checkpoints, 1, 2, 3)
    state = checkpoints.load()
    assert state is not None and state["weights"].tolist() == [3.0, 3.0, 3.0]


def test_two_are_kept(tmp_path: Path) -> None:
    save(Checkpoints("run", tmp_path), *range(1, 13))
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names == ["epoch-00011.pt", "epoch-00012.pt"]


@pytest.mark.parametrize("damage", [b"", b"\x80\x02K\x01.", b"PK\x03\x04 cut"])
def test_a_damaged_one_falls_back_to_the_one_before(
    tmp_path: Path, damage: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = Checkpoints("run", tmp_path)
    save(checkpoints, 1, 2)
    (tmp_path / "run" / "epoch-00002.pt").write_bytes(damage)
    assert epoch_of(checkpoints) == 1
    assert "epoch-00002.pt is damaged" in capsys.readouterr().err


def test_one_cut_off_falls_back_to_the_one_before(tmp_path: Path) -> None:
    checkpoints = Checkpoints("run", tmp_path)
    save(checkpoints, 1, 2)
    path = tmp_path / "run" / "epoch-00002.pt"
    path.write_bytes(path.read_bytes()[:-200])
    assert epoch_of(checkpoints) == 1


def test_a_checkpoint_that_would_run_code_is_not_loaded(tmp_path: Path) -> None:
    checkpoints = Checkpoints("run", tmp_path)
    save(checkpoints, 1)
    torch.save({"run": "run", "evil": Path}, tmp_path / "run" / "epoch-00002.pt")
    assert epoch_of(checkpoints) == 1


def test_a_checkpoint_of_another_run_is_not_used(tmp_path: Path) -> None:
    save(Checkpoints("other", tmp_path), 7)
    (tmp_path / "other").rename(tmp_path / "run")
    assert epoch_of(Checkpoints("run", tmp_path)) is None


def test_a_half_written_one_is_ignored(tmp_path: Path) -> None:
    checkpoints = Checkpoints("run", tmp_path)
    save(checkpoints, 1)
    (tmp_path / "run" / "epoch-00002.new").write_bytes(b"half")
    assert epoch_of(checkpoints) == 1


def test_a_complete_run_leaves_none(tmp_path: Path) -> None:
    checkpoints = Checkpoints("run", tmp_path)
    save(checkpoints, 1)
    checkpoints.clear()
    assert list(tmp_path.iterdir()) == []


def test_the_fingerprint_changes_with_every_fact() -> None:
    facts = {"train": {"epochs": 3}, "data": "a"}
    assert fingerprint(**facts) == fingerprint(**facts)
    assert fingerprint(**facts) != fingerprint(**(facts | {"data": "b"}))
    assert fingerprint(**facts) != fingerprint(**(facts | {"train": {"epochs": 4}}))
