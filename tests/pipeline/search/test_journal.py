"""The journal: what a killed writer or a full disk leaves costs one record at most."""

import json
from pathlib import Path

import optuna
import pytest

from pipeline.errors import ParameterError
from pipeline.search.journal import JOURNAL, mend, open_storage
from tests.make.disks import fill, small_disk


def trials(name: str = "s") -> list[int]:
    """Numbers of the trials that a new reader finds."""
    return [t.number for t in optuna.load_study(study_name=name, storage=open_storage()).trials]


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> optuna.Study:
    monkeypatch.chdir(tmp_path)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(study_name="s", storage=open_storage())


@pytest.mark.parametrize("torn", [b'{"op_code":4,"wor', b"{", b"x" * 200_000])
def test_a_torn_last_line_is_cut_before_the_next_record(study: optuna.Study, torn: bytes) -> None:
    study.ask()
    with JOURNAL.open("ab") as file:
        file.write(torn)
    study.ask()  # a worker that goes on
    other = optuna.load_study(study_name="s", storage=open_storage())  # one that begins
    other.ask()
    assert trials() == [0, 1, 2]
    assert all(json.loads(line) for line in JOURNAL.read_bytes().splitlines())


@pytest.mark.parametrize("content", [b"", b"a\nb\n", b"a\n"])
def test_a_whole_journal_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal.log"
    path.write_bytes(content)
    mend(path)
    assert path.read_bytes() == content


def test_a_lock_of_a_killed_writer_holds_nobody_up(study: optuna.Study) -> None:
    JOURNAL.with_suffix(".lock").write_bytes(b"left behind")
    study.ask()
    assert trials() == [0]


def test_a_full_disk_names_the_journal_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "disk", "200k") as disk:
        monkeypatch.chdir(disk)
        study = optuna.create_study(study_name="s", storage=open_storage())
        study.ask()
        rest = fill(disk)
        with pytest.raises(OSError, match="No space left.*journal.log"):
            for _ in range(200):
                study.ask()
        rest.unlink()
        before = trials()
        optuna.load_study(study_name="s", storage=open_storage()).ask()
        assert trials() == [*before, len(before)]
        monkeypatch.chdir(tmp_path)


def test_a_database_that_cannot_be_is_a_sentence() -> None:
    with pytest.raises(
        ParameterError, match="SEARCH_STORAGE is sqlite.*SQLite cannot serve several workers"
    ):
        open_storage("sqlite:///search.db")
    with pytest.raises(ParameterError, match="the database does not answer .*check host"):
        open_storage("postgresql://nobody@127.0.0.1:1/search")
