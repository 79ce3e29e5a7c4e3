"""The wiring: what is mounted reaches what uses it."""

from pathlib import Path

import pytest

from service.container import Container
from tests.make.mounts import mount
from tests.make.predictions import everything, names, seen


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of mounted secrets, and settings that name it."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    monkeypatch.setenv("SERVICE_SECRETS", str(folder))
    monkeypatch.setenv("SERVICE_STATE", str(tmp_path / "state"))
    return folder


def database(secrets: Path, name: str) -> None:
    """Mount the URL of a database."""
    mount(secrets, "feedback", {"url": f"sqlite:///{secrets.parent / name}.db\n"})


def test_predictions_go_to_the_database_that_is_mounted_now(secrets: Path) -> None:
    database(secrets, "first")
    answers = Container().answers()
    assert answers is not None
    store = answers.store()
    store.save_predictions([seen("a")])
    database(secrets, "second")
    assert everything(store) == []
    store.save_predictions([seen("b")])
    (secrets / "feedback" / "url").unlink()
    assert names(everything(store)) == ["b"]
    answers.close()
    store.database.close()
