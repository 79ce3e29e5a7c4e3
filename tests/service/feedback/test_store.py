"""The database of predictions and answers, SQLite and PostgreSQL alike."""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import DataError

from service.errors import FeedbackUnavailable, Unprocessable
from service.feedback.database import Database
from service.feedback.journal import ModelRecord, Routed
from service.feedback.retention import Retention
from service.feedback.store import LabelResult, PredictionRow, RightOrWrong, Store
from service.feedback.tables import Kind, images, models, predictions
from tests.make.bundles import CLASSES, make_chip
from tests.make.databases import Postgres
from tests.make.predictions import FOREST, MODEL, NOW, SHAPE, everything, names, seen

SAME_TAG = ModelRecord("landcover@v1.0.0", "1" * 64, ("no", "yes"), 0.9, "<u2", SHAPE)
RIVER = CLASSES.index("River")
OTHER = MODEL._replace(tag="landcover@v2.0.0", sha256="2" * 64)


@pytest.fixture
def store(url: str, tmp_path: Path) -> Iterator[Store]:
    database = Database(url, tmp_path)
    yield Store(database, keep_below=0.6)
    database.close()


def test_saved_predictions_are_listed_with_their_model(store: Store) -> None:
    store.save_predictions(
        [seen("a"), seen("b", RIVER, 0.5, chip=1), seen("c", 1, 0.7, model=SAME_TAG)]
    )
    rows = sorted(everything(store), key=lambda row: row.request_id)
    assert names(rows) == ["a", "b", "c"]
    assert rows[1]._replace(number=0) == PredictionRow(
        *(0, "b", None, "River", 0.5, "landcover@v1.0.0", "0" * 64, NOW, None, True)
    )
    assert (rows[2].predicted, rows[2].sha256) == ("yes", "1" * 64)


def test_saving_again_changes_nothing(store: Store) -> None:
    store.save_predictions([seen("a", chip=1), seen("b")])
    store.add_label("a", "River", NOW)
    before = everything(store)
    store.save_predictions([seen("a", chip=1), seen("b")])
    store.save_predictions([seen("b"), seen("a")])
    assert everything(store) == before


def test_of_two_predictions_with_one_id_the_first_counts(store: Store) -> None:
    store.save_predictions([seen("a", FOREST), seen("a", RIVER, chip=1)])
    store.save_predictions([seen("a", RIVER, chip=2)])
    (row,) = everything(store)
    assert (row.predicted, row.image) == ("Forest", False)


def test_an_image_is_given_as_it_was_seen(store: Store) -> None:
    store.save_predictions([seen("a", chip=5), seen("b")])
    content = store.read_image("a")
    assert content is not None
    assert np.array_equal(np.load(io.BytesIO(content)), make_chip(5))
    assert store.read_image("b") is None and store.read_image("unknown") is None


def test_an_answer_counts_once_and_another_label_corrects_it(store: Store) -> None:
    store.save_predictions([seen("a")])
    soon = NOW + timedelta(seconds=30)
    assert store.add_label("a", "Forest", soon) == LabelResult("Forest", True, 1, 30.0)
    assert store.add_label("a", "Forest", soon) == LabelResult("Forest", True, 1, None)
    assert everything(store)[0].answered_at == soon
    later = soon + timedelta(days=1)
    assert store.add_label("a", "River", later) == LabelResult("Forest", False, 2, None)
    (row,) = everything(store)
    assert (row.label, row.answered_at) == ("River", later)
    assert store.count_confusion(NOW)[0] == [("landcover@v1.0.0", "Forest", "River", 1)]


def test_an_unknown_id_has_no_answer_and_an_unknown_label_is_refused(store: Store) -> None:
    store.save_predictions([seen("a"), seen("b", 0, model=SAME_TAG)])
    assert store.add_label("unknown", "Forest", NOW) is None
    with pytest.raises(Unprocessable, match="label: 'Wood' is not a class.*AnnualCrop, Forest"):
        store.add_label("a", "Wood", NOW)
    with pytest.raises(Unprocessable, match="'Forest' is not a class.*one of no, yes"):
        store.add_label("b", "Forest", NOW)
    assert everything(store, labelled=True) == []


def test_the_same_answer_from_many_at_once_counts_once(store: Store) -> None:
    store.save_predictions([seen("a")])
    with ThreadPoolExecutor(8) as pool:
        given = list(pool.map(lambda _: store.add_label("a", "River", NOW), range(40)))
    assert {item and item.answers for item in given} == {1}
    assert len([item for item in given if item and item.delay is not None]) == 1
    assert store.count_confusion(NOW)[0] == [("landcover@v1.0.0", "Forest", "River", 1)]


def test_pages_are_complete_while_predictions_come_in(store: Store) -> None:
    store.save_predictions([seen(f"before-{number}") for number in range(200)])
    for number in range(0, 200, 2):
        store.add_label(f"before-{number}", "Forest", NOW)

    def write(worker: int) -> None:
        for number in range(20):
            store.save_predictions(
                [seen(f"{worker}-{number}-{item}", days=worker) for item in range(5)]
            )

    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(write, worker) for worker in range(2)]
        found = names(everything(store, limit=7))
        answered = names(everything(store, labelled=True, limit=7))
        for writer in writers:
            writer.result()
    # Whoever begins again where he stopped misses nothing that came later.
    found += names(everything(store))[len(found) :]
    assert len(found) == len(set(found)) == 400
    assert found[:200] == [f"before-{number}" for number in range(200)]
    assert answered == [f"before-{number}" for number in range(0, 200, 2)]
    assert len(everything(store, labelled=False)) == 300


def test_answers_count_by_tag_within_the_window(store: Store) -> None:
    store.save_predictions([seen(f"{number}") for number in range(5)])
    store.save_predictions([seen("other", 1, model=SAME_TAG)])
    for number, label in enumerate(["Forest", "Forest", "River", "Forest"]):
        store.add_label(f"{number}", label, NOW - timedelta(days=number))
    store.add_label("other", "no", NOW)
    cells, floors = store.count_confusion(NOW - timedelta(days=2))
    tag = "landcover@v1.0.0"
    wanted = {(tag, "Forest", "Forest", 2), (tag, "Forest", "River", 1), (tag, "yes", "no", 1)}
    assert set(cells) == wanted
    assert floors == {tag: 0.9}  # of the latest model with this tag


# What is kept


def test_rewards_are_the_labels_of_what_a_rule_chose(store: Store) -> None:
    routed = [
        seen(name, model=model)._replace(routed=Routed(rule, 0.25))
        for name, model, rule in (
            *(("a", MODEL, "trial"), ("b", MODEL, "trial"), ("c", MODEL, "trial")),
            *(("d", OTHER, "trial"), ("e", MODEL, "another")),
        )
    ]
    store.save_predictions([*routed, seen("named")])
    for name in "abde":
        store.add_label(name, "River" if name == "b" else "Forest", NOW)
    store.add_label("named", "Forest", NOW)
    assert sorted(store.count_rewards("trial")) == [
        RightOrWrong("landcover@v1.0.0", 1, 1),
        RightOrWrong("landcover@v2.0.0", 1, 0),
    ]
    assert store.count_rewards("unknown") == []
    by_name = {row.request_id: row for row in everything(store)}
    assert (by_name["a"].rule, by_name["a"].propensity) == ("trial", 0.25)
    assert (by_name["named"].rule, by_name["named"].propensity) == (None, None)


def test_expired_predictions_are_deleted_with_their_images_and_labels(store: Store) -> None:
    store.save_predictions([seen(f"{days}", chip=1, days=days) for days in range(10)])
    store.add_label("9", "River", NOW)
    Retention(store.database).prune(NOW - timedelta(days=4.5), 1000, 1 << 30)
    assert names(everything(store)) == ["0", "1", "2", "3", "4"]
    assert store.read_image("9") is None
    assert store.count_confusion(NOW - timedelta(days=9))[0] == []
    assert sum(Retention(store.database).kept().counts.values()) == 5


def test_over_the_limit_the_oldest_predictions_are_deleted_and_labelled_ones_last(
    store: Store,
) -> None:
    store.save_predictions([seen(f"{number}") for number in range(10)])
    for number in (0, 5):
        store.add_label(f"{number}", "Forest", NOW)
    retention = Retention(store.database)
    retention.prune(NOW - timedelta(days=1), 4, 0)
    assert names(everything(store)) == ["0", "5", "8", "9"]
    retention.prune(NOW - timedelta(days=1), 1, 0)
    assert names(everything(store)) == ["5"]


def test_images_that_help_labelling_least_are_deleted_first(store: Store) -> None:
    order = [
        seen("sure, old", chip=0),
        seen("sure, confirmed", chip=1),
        seen("unsure, old", probability=0.3, chip=2),
        seen("sure, corrected", chip=3),
        seen("sure, new", chip=4),
        seen("unsure, new", probability=0.3, chip=5),
    ]
    store.save_predictions(order)
    store.add_label("sure, confirmed", "Forest", NOW)
    store.add_label("sure, corrected", "River", NOW)
    retention = Retention(store.database)
    kept = retention.kept()
    assert kept.counts == {
        Kind.CERTAIN: 2, Kind.CONFIRMED: 1, Kind.UNCERTAIN: 2, Kind.CORRECTED: 1
    }  # fmt: skip
    gone = []
    before = names([row for row in everything(store) if row.image])
    size = kept.bytes
    while size:
        retention.prune_images(size - 1)
        left = names([row for row in everything(store) if row.image])
        gone += [name for name in before if name not in left]
        before, size = left, retention.kept().bytes
    assert gone == [
        "sure, old", "sure, new", "sure, confirmed", "unsure, old", "unsure, new", "sure, corrected"
    ]  # fmt: skip
    assert len(everything(store)) == 6  # only the images went


def test_the_image_of_a_withdrawn_correction_counts_as_confirmed(store: Store) -> None:
    store.save_predictions([seen("a", chip=1)])
    store.add_label("a", "River", NOW)
    store.add_label("a", "Forest", NOW)
    assert Retention(store.database).kept().counts[Kind.CONFIRMED] == 1


def test_the_bytes_of_images_stay_below_the_cap(store: Store) -> None:
    retention = Retention(store.database)
    for number in range(30):
        store.save_predictions([seen(f"{number}", chip=number % 7, probability=number / 30)])
        retention.prune_images(100_000)
        assert retention.kept().bytes <= 100_000
    assert store.read_image("17") is not None and store.read_image("29") is None
    with store.database.read() as connection:
        total = connection.scalar(select(func.sum(func.length(images.c.content))))
    assert total == retention.kept().bytes


# What can go wrong


def test_a_probability_that_is_nan_is_saved_as_zero(store: Store) -> None:
    store.save_predictions([seen("a", probability=float("nan"), chip=1)])
    assert everything(store)[0].probability == 0.0


def test_a_failed_save_stores_nothing(store: Store) -> None:
    wrong = seen("b", chip=1)._replace(moment=1 << 70)
    with pytest.raises((DataError, OverflowError)):
        store.save_predictions([seen("a"), wrong])
    assert everything(store) == []
    store.save_predictions([seen("a")])
    assert names(everything(store)) == ["a"]


def test_one_model_is_saved_once(store: Store) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: store.save_predictions([seen(f"{number}")]), range(20)))
    with store.database.read() as connection:
        assert connection.scalar(select(func.count()).select_from(models)) == 1
        assert connection.scalar(select(func.count()).select_from(predictions)) == 20


def test_a_postgresql_that_restarts_is_used_again(cluster: Postgres, tmp_path: Path) -> None:
    database = Database(cluster.new(), tmp_path)
    store = Store(database)
    store.save_predictions([seen("a")])
    cluster.stop()
    try:
        with pytest.raises(FeedbackUnavailable, match="predictions continue"):
            store.add_label("a", "Forest", NOW)
    finally:
        cluster.start()
    assert store.add_label("a", "Forest", NOW) == LabelResult("Forest", True, 1, 0.0)
    database.close()


def test_a_changed_url_counts_from_the_next_use_and_one_that_is_none_changes_nothing(
    cluster: Postgres, tmp_path: Path
) -> None:
    first, second = cluster.new(), cluster.new()
    given = [first]
    database = Database(first, tmp_path, lambda: given[-1])
    store = Store(database)
    store.save_predictions([seen("a")])
    given.append("no URL of a database, with a secret-word")
    assert names(everything(store)) == ["a"]
    given.append(second)
    assert everything(store) == []
    store.save_predictions([seen("b")])
    given.append(first)
    assert names(everything(store)) == ["a"]
    database.close()


def test_a_corrupt_database_file_is_refused_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "feedback.db").write_bytes(b"no database at all" * 1000)
    database = Database("", tmp_path)
    for _ in range(2):
        with pytest.raises(FeedbackUnavailable, match="SQLITE_NOTADB"):
            Store(database).save_predictions([seen("a")])
    (tmp_path / "feedback.db").unlink()
    Store(database).save_predictions([seen("a")])
    assert names(everything(Store(database))) == ["a"]
    database.close()
