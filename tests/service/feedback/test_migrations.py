"""The tables are made and kept up to date by the service itself, in SQLite and in PostgreSQL."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect, text

from service.errors import FeedbackUnavailable
from service.feedback.database import Database, parse
from service.feedback.store import Store
from service.feedback.tables import HEAD, REVISIONS, metadata
from tests.conftest import ROOT
from tests.make.databases import PASSWORD, QUOTED
from tests.make.predictions import NOW, found, seen


@pytest.fixture
def database(url: str, tmp_path: Path) -> Iterator[Database]:
    found = Database(url, tmp_path)
    yield found
    found.close()


def test_the_revisions_that_the_code_knows_are_those_of_the_scripts() -> None:
    config = Config()
    config.set_main_option("script_location", "service:migrations")
    scripts = ScriptDirectory.from_config(config)
    known = [script.revision for script in scripts.walk_revisions()]
    assert tuple(reversed(known)) == REVISIONS
    assert scripts.get_current_head() == HEAD


def test_an_empty_database_gets_exactly_the_tables_of_the_code(database: Database) -> None:
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        assert context.get_current_revision() == HEAD
        names = set(inspect(connection).get_table_names())
        assert names == {*metadata.tables, "alembic_version"}


def test_tables_are_made_again_after_a_downgrade_to_nothing(database: Database) -> None:
    with database.write() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", "service:migrations")
        command.downgrade(config, "base")
    database.close()
    with database.read() as connection:
        assert connection.scalar(text("SELECT count(*) FROM predictions")) == 0


def test_a_database_of_a_newer_version_is_refused_and_not_changed(
    database: Database, url: str, tmp_path: Path
) -> None:
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()
    other = Database(url, tmp_path)
    for _ in range(2):
        with pytest.raises(FeedbackUnavailable, match="newer version.*9999.*newer release"):
            other.migrate()
    other.close()
    engine = create_engine(parse(url, tmp_path))
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "9999"
    engine.dispose()


def test_predictions_of_an_older_release_are_kept_and_made_by_no_rule(
    database: Database, url: str, tmp_path: Path
) -> None:
    store = Store(database)
    store.save_predictions([seen("before")])
    with database.write() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", "service:migrations")
        command.downgrade(config, "0001")
    database.close()
    other = Database(url, tmp_path)
    (row,) = Store(other).list_predictions(0, 9, None)
    assert (row.request_id, row.rule, row.propensity) == ("before", None, None)
    other.close()


def test_labels_of_an_older_release_are_kept_when_objects_can_be_labels(
    database: Database, url: str, tmp_path: Path
) -> None:
    store = Store(database)
    store.save_predictions([seen(name, chip=1) for name in "abc"])
    for name, label in (("a", "Forest"), ("b", "River")):
        store.add_label(name, label, NOW)
    with database.write() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", "service:migrations")
        command.downgrade(config, "0002")
        columns = {column["name"] for column in inspect(connection).get_columns("feedback")}
        assert columns == {"number", "label", "answered_at", "answers"}
    database.close()
    other = Database(url, tmp_path)
    store = Store(other)
    rows = store.list_predictions(0, 9, None)
    assert [(row.label, row.answered_at) for row in rows] == [
        *(("Forest", NOW), ("River", NOW), (None, None))
    ]
    assert {(row.objects, row.predicted_objects, row.verdict) for row in rows} == {(None,) * 3}
    assert store.read_image("a") is not None
    with other.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    store.save_predictions([found("d")])
    assert store.add_label("d", [], NOW) is not None
    with other.write() as connection:  # its labels still go with a prediction
        connection.execute(text("DELETE FROM predictions WHERE request_id <> 'b'"))
        assert connection.scalar(text("SELECT count(*) FROM feedback")) == 1
    other.close()


def test_a_downgrade_deletes_what_an_older_release_cannot_read(database: Database) -> None:
    store = Store(database)
    store.save_predictions([seen("a"), found("b")])
    store.add_label("a", "Forest", NOW)
    store.add_label("b", [], NOW)
    with database.write() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", "service:migrations")
        command.downgrade(config, "0002")
        assert connection.scalar(text("SELECT request_id FROM predictions")) == "a"
        assert connection.execute(text("SELECT label FROM feedback")).all() == [("Forest",)]


def test_processes_that_start_at_once_migrate_once(url: str, tmp_path: Path) -> None:
    def start(_: int) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"SERVICE_FEEDBACK": url, "SERVICE_STATE": str(tmp_path)}
        command = [sys.executable, "-m", "service", "migrate"]
        return subprocess.run(
            command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True
        )

    with ThreadPoolExecutor(2) as pool:
        for done in pool.map(start, range(2)):
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout == f"The feedback database is at revision {HEAD}.\n"


def test_threads_that_ask_at_once_migrate_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.feedback.database import _upgrade

    began = []

    def upgrade(connection: Connection) -> None:
        began.append(connection)
        _upgrade(connection)

    monkeypatch.setattr("service.feedback.database._upgrade", upgrade)
    with ThreadPoolExecutor(5) as pool:
        for done in [pool.submit(database.migrate) for _ in range(5)]:
            done.result()
    assert len(began) == 1


def test_a_migration_that_dies_half_way_is_undone(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(connection: Connection) -> None:
        connection.execute(text("CREATE TABLE models (id INTEGER)"))
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("service.feedback.database._upgrade", half)
        with pytest.raises(FeedbackUnavailable):
            database.migrate()
    database.migrate()
    with database.read() as connection:
        assert connection.scalar(text("SELECT count(*) FROM predictions")) == 0


def test_a_password_shows_in_no_error_and_no_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    unreachable = f"postgresql://user:{QUOTED}@127.0.0.1:{port}/x"
    with pytest.raises(FeedbackUnavailable) as caught:
        Database(unreachable, tmp_path).migrate()
    wrong = unreachable + f"?sslmode={QUOTED}"  # the driver repeats it
    with pytest.raises(FeedbackUnavailable) as again:
        Database(wrong, tmp_path).migrate()
    with pytest.raises(FeedbackUnavailable) as refused:
        Database(f"postgresql://user:{QUOTED}@host:port/x", tmp_path)
    said = f"{caught.value}{again.value}{refused.value}{caplog.text}"
    said += "".join(str(vars(record)) for record in caplog.records)
    assert "***" in said
    assert PASSWORD not in said and QUOTED not in said
