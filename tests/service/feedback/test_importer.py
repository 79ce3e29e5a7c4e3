"""The importer: neither an unreadable file nor a wrong clock costs recorded predictions."""

import asyncio
import os
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from service.errors import FeedbackUnavailable
from service.feedback.accuracy import AccuracyFile, FeedbackCounters
from service.feedback.importer import FeedbackImporter, RetentionLimits
from service.feedback.journal import FOLDER, REFUSED, REFUSED_KEPT, Journal
from service.feedback.recorder import JournalRecorder
from service.feedback.service import FeedbackService
from tests.make.predictions import NOW, everything, names, seen

DAYS = 90
YEAR = timedelta(days=365)


class Site:
    """The parts of one worker, over a SQLite file."""

    def __init__(self, folder: Path) -> None:
        self.registry = CollectorRegistry()
        self.folder = folder / FOLDER
        self.journal = Journal(self.folder)
        self.accuracy_file = AccuracyFile(self.folder)
        counts = FeedbackCounters(self.registry)
        self.answers = FeedbackService("", folder, self.folder, 0.6, counts)
        self.bounds = RetentionLimits(DAYS, 1000, 1 << 30)
        recorder = JournalRecorder(self.journal, counts.count_unrecorded, False, 0.6)
        self._parts = (self.journal, recorder, self.answers, self.accuracy_file, counts)
        self.start()

    def start(self, **bounds: int) -> None:
        """Start a fresh importer, as a new process would."""
        self.bounds = self.bounds._replace(**bounds)
        self.feedback_importer = FeedbackImporter(*self._parts, self.bounds)
        self.feedback_importer._lock = os.open(self.folder.parent, os.O_RDONLY)  # it leads

    def record(self, *names: str, days: float = 0) -> Path:
        """Leave a closed file with predictions."""
        before = set(self.folder.glob("*"))
        for name in names:
            self.journal.append_prediction(seen(name, days=days))
        self.journal.rotate_file(force=True)
        (path,) = set(self.folder.glob("*")) - before
        return path

    def turn(self) -> None:
        """Do all that is due now and then."""
        self.feedback_importer._prune_at = self.feedback_importer._publish_at = (
            self.feedback_importer._retry_at
        ) = 0.0
        self.feedback_importer.run_once()

    def kept(self) -> list[str]:
        return names(everything(self.answers.store()))

    def lost(self, reason: str) -> float | None:
        return self.registry.get_sample_value("feedback_unrecorded_total", {"reason": reason})


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[datetime], None]:
    """Sets the importer's clock."""

    def say(moment: datetime) -> None:
        monkeypatch.setattr("service.feedback.importer._now", lambda: moment)

    say(NOW)
    return say


# Files


def a_folder(path: Path) -> None:
    path.mkdir()


def a_loop(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("make", [a_folder, a_loop])
def test_an_unreadable_file_is_counted_once_and_the_others_are_imported(
    site: Site,
    make: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("service.feedback.importer.UNREADABLE_RETRY", 0.0)
    site.folder.mkdir()
    make(site.folder / "1-1.spool")  # the oldest, so that it comes first
    for number in range(3):
        site.record(f"{number}")
        site.turn()
    assert site.kept() == ["0", "1", "2"]
    assert site.lost("damaged") == 1.0
    assert (
        len([item for item in caplog.records if "unreadable predictions file" in item.message]) == 1
    )


def test_a_file_that_becomes_readable_is_imported(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.feedback.importer.UNREADABLE_RETRY", 0.0)
    path = site.record("a")
    hidden = path.with_suffix(".hidden")
    path.rename(hidden)
    path.mkdir()
    site.record("b")
    site.turn()
    assert site.kept() == ["b"]
    path.rmdir()
    hidden.rename(path)
    site.turn()
    assert site.kept() == ["b", "a"]


def test_a_worker_that_can_open_no_file_sets_none_aside(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.record("a")

    def many(_: Path) -> int:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("service.feedback.importer.lock_file", many)
        site.turn()
    assert site.lost("damaged") == 0.0
    site.turn()
    assert site.kept() == ["a"]


def test_a_prediction_is_labelled_beside_an_unreadable_file(site: Site) -> None:
    site.folder.mkdir()
    a_folder(site.folder / "1-1.spool")
    site.record("a", days=1)
    assert site.answers._add_label("a", "Forest", NOW).correct


def test_the_newest_refused_files_are_kept_and_do_not_count_against_the_limit(
    site: Site, clock: object
) -> None:
    for number in range(REFUSED_KEPT + 3):
        site.journal.append_prediction(seen(f"wrong-{number}", best=99))  # there is no such class
        site.journal.rotate_file(force=True)
        site.turn()
    left = sorted(site.folder.glob(f"*{REFUSED}"))
    assert len(left) == REFUSED_KEPT
    assert f"wrong-{REFUSED_KEPT + 2}".encode() in left[-1].read_bytes()
    assert b"wrong-3" in left[0].read_bytes()
    assert site.lost("refused") == REFUSED_KEPT + 3
    site.journal.measure_size()
    assert site.journal.used == 0
    os.utime(left[0], (1, 1))
    site.turn()
    assert sorted(site.folder.glob(f"*{REFUSED}")) == left[1:]


def test_waiting_files_are_measured_before_the_database_is_asked(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = site.record("a").stat().st_size
    shown = []

    def silent() -> None:
        shown.append(site.accuracy_file.journal_bytes)
        raise FeedbackUnavailable("it says nothing")

    monkeypatch.setattr(site.answers, "store", silent)
    site.turn()
    assert shown == [size]


# Age


def test_predictions_go_when_their_days_are_over(
    site: Site, clock: Callable[[datetime], None]
) -> None:
    site.record("old", days=DAYS - 0.5)
    site.record("new")
    site.turn()
    assert site.kept() == ["old", "new"]
    clock(NOW + timedelta(days=1))
    site.turn()
    assert site.kept() == ["new"]


def test_a_wrong_clock_deletes_a_small_share_of_the_predictions(
    site: Site,
    clock: Callable[[datetime], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("service.feedback.retention.EXPIRED_LEAST", 1)
    site.record(*(f"{number}" for number in range(200)))
    site.turn()
    clock(NOW + YEAR)
    site.turn()
    assert len(site.kept()) == 198
    site.turn()
    assert len(site.kept()) == 197  # 1 % of 198
    warnings = [item for item in caplog.records if "check the clock" in item.message]
    assert len(warnings) == 1
    clock(NOW)
    site.turn()
    assert len(site.kept()) == 197


def test_everything_expired_is_deleted_in_the_end(
    site: Site, clock: Callable[[datetime], None]
) -> None:
    site.record(*(f"{number}" for number in range(25)))
    site.turn()
    clock(NOW + YEAR)
    for left in (15, 5, 0):
        site.turn()
        assert len(site.kept()) == left


def test_a_service_without_traffic_forgets_on_the_day(
    site: Site, clock: Callable[[datetime], None]
) -> None:
    site.record("last")
    site.turn()
    clock(NOW + timedelta(days=DAYS, hours=-1))
    site.turn()
    assert site.kept() == ["last"]
    clock(NOW + timedelta(days=DAYS, hours=1))
    site.turn()
    assert site.kept() == []


def test_predictions_over_the_limit_are_deleted_at_once(site: Site, clock: object) -> None:
    site.record(*(f"{number}" for number in range(50)))
    site.turn()
    site.start(rows=2)
    site.turn()
    assert site.kept() == ["48", "49"]


# The end


def test_after_the_end_nothing_asks_the_database(site: Site) -> None:
    site.record("a")
    asyncio.run(site.feedback_importer.close())
    with pytest.raises(RuntimeError, match="after shutdown"):
        asyncio.run(site.answers.list_predictions(0, 10, None))
