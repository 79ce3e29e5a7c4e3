"""What the model saw and said: nothing lost, nothing twice, by any number of workers."""

import asyncio
import errno
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.samples import Sample

from service.inference.bundle import Bundle, read_bundle
from service.inference.tasks import Output
from service.inference.model import Model, Serving
from service.telemetry import drift
from service.telemetry.counters import (
    MODELS,
    SHARES,
    SLICES,
    CounterLayout,
    SharedCounters,
    read_totals,
    read_window,
)
from service.telemetry.exposition import TotalsCollector
from service.telemetry.observations import (
    BUFFERED,
    Observations,
    _add_to_histogram,
    entropy,
    layout_of,
)
from tests.conftest import ROOT
from tests.make.bundles import BANDS, CLASSES, STATISTICS, make_bundle, make_chip
from tests.make.processes import until

WINDOW = 3600.0
COLUMNS = len(BANDS) * len(STATISTICS)


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 50_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Model]:
    folder = tmp_path_factory.mktemp("models")
    return [
        Model(
            f"landcover@v1.{seed}.0",
            read_bundle(make_bundle(folder / str(seed), seed=seed, size=16, samples=200)),
        )
        for seed in range(2)
    ]


@pytest.fixture
def model(models: list[Model]) -> Model:
    return models[0]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the workers of a service count."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def clock() -> Clock:
    return Clock()


def worker(*loaded: Model, clock: Clock | None = None) -> Observations:
    """A worker in which these models served one after the other."""
    serving = Serving()
    for model in loaded:
        serving.switch(model)
    return Observations(serving, WINDOW, clock or Clock())


def see(observations: Observations, model: Model, chips: list[np.ndarray[Any, Any]]) -> None:
    for chip in chips:
        answer = model.infer(chip)
        best = int(answer.probabilities[0].argmax())
        observations.add(model, best, float(answer.probabilities[0, best]), answer, 0.001, 0.0001)


def chips(count: int, first: int = 0) -> list[np.ndarray[Any, Any]]:
    return [make_chip(first + number, size=16) for number in range(count)]


def total(observations: Observations, model: Model, field: str) -> np.ndarray[Any, Any]:
    """What all workers counted; nothing counts as zero."""
    for names, record in observations.totals():
        if names.tag == model.tag:
            found: np.ndarray[Any, Any] = record[field][0]
            return found
    return np.zeros(1)


def predictions(observations: Observations, model: Model) -> float:
    return float(total(observations, model, "predictions").sum())


def test_every_class_is_a_zero_from_the_beginning(folder: Path, model: Model) -> None:
    observations = worker(model)
    observations.flush()
    assert total(observations, model, "predictions").tolist() == [0.0] * len(CLASSES)


def test_the_totals_equal_the_outputs_of_the_graph(folder: Path, model: Model) -> None:
    observations, seen = worker(model), chips(50)
    see(observations, model, seen)
    observations.flush()
    answers = [model.infer(chip) for chip in seen]
    shares = np.concatenate([answer.probabilities for answer in answers])
    best = np.bincount(shares.argmax(axis=1), minlength=len(CLASSES))
    assert total(observations, model, "predictions").tolist() == best.tolist()
    assert total(observations, model, "confidence")[-1] == pytest.approx(shares.max(axis=1).sum())
    assert total(observations, model, "confidence")[:-1].sum() == 50
    assert total(observations, model, "inference")[-1] == pytest.approx(50 * 0.001)
    assert observations.queue()["queue"][0, -1] == pytest.approx(50 * 0.0001)
    statistics = np.concatenate([answer.statistics for answer in answers]).sum(axis=0).ravel()
    assert total(observations, model, "sums") == pytest.approx(statistics)
    assert total(observations, model, "counts").tolist() == [50.0] * COLUMNS


def test_the_window_is_counted_into_the_bins_of_the_reference(folder: Path, model: Model) -> None:
    observations, seen = worker(model), chips(80)
    see(observations, model, seen)
    observations.flush()
    window = observations.window(model)
    answers = [model.infer(chip) for chip in seen]
    for index, wanted in enumerate(drift.signals(model.manifest)):
        statistic, _, band = wanted.name.partition("/")
        if wanted.name == "confidence":
            values = np.array([answer.probabilities.max() for answer in answers])
        elif wanted.name == "classes":
            values = np.array([answer.probabilities.argmax() for answer in answers])
        else:
            place = BANDS.index(band), STATISTICS.index(statistic)
            values = np.array([answer.statistics[0][place] for answer in answers])
        counts = np.bincount(wanted.bin_of(values), minlength=len(wanted.counts))
        assert window.counts[index].tolist() == counts.tolist(), wanted.name
    assert not window.constant


def test_a_note_is_counted_once_however_often_one_looks(folder: Path, model: Model) -> None:
    observations = worker(model)
    see(observations, model, chips(3))
    for _ in range(3):
        observations.flush()
    assert predictions(observations, model) == 3


def test_notes_do_not_pile_up(folder: Path, model: Model) -> None:
    observations = worker(model)
    answer = model.infer(chips(1)[0])
    for _ in range(BUFFERED):
        observations.add(model, 0, float(answer.probabilities[0, 0]), answer, 0.001, 0.0001)
    assert predictions(observations, model) == BUFFERED


def test_notes_are_counted_by_and_by_without_a_scrape(folder: Path, model: Model) -> None:
    observations = worker(model)

    async def serve() -> None:
        task = asyncio.create_task(observations.flush_periodically())
        see(observations, model, chips(1))
        while not predictions(observations, model):
            await asyncio.sleep(0.01)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(serve(), 60))


def test_any_worker_knows_the_sum_of_all(folder: Path, model: Model) -> None:
    workers = [worker(model) for _ in range(3)]
    for number, one in enumerate(workers):
        see(one, model, chips(number + 1))
        one.flush()
    assert [predictions(one, model) for one in workers] == [6.0] * 3
    assert [int(one.window(model).counts[0].sum()) for one in workers] == [6] * 3
    assert len(list(folder.glob(f"{layout_of(model).key}-*"))) == 3


def test_a_worker_that_comes_back_goes_on_where_the_last_one_ended(
    folder: Path, model: Model
) -> None:
    for number in range(5):
        one = worker(model)
        see(one, model, chips(2))
        one.flush()
        assert predictions(one, model) == 2 * (number + 1)
        del one
    assert len(list(folder.glob(f"{layout_of(model).key}-*"))) == 1


def test_a_lone_process_counts_too_and_leaves_nothing(
    model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    observations = worker(model)
    see(observations, model, chips(2))
    observations.flush()
    assert predictions(observations, model) == 2
    assert len(list(tmp_path.iterdir())) == 1
    del observations
    assert not list(tmp_path.iterdir())


def test_non_finite_values_are_counted_and_added_to_no_sum(folder: Path, model: Model) -> None:
    observations = worker(model)
    see(observations, model, chips(4))
    statistics = np.full((1, len(BANDS), len(STATISTICS)), 0.5, np.float32)
    statistics[0, 1, 0], statistics[0, 2, 3] = np.nan, np.inf
    shares = np.full((1, len(CLASSES)), np.nan, np.float32)
    observations.add(model, 0, float(shares[0, 0]), Output(shares, statistics), 0.001, 0.0001)
    observations.flush()
    assert total(observations, model, "not_finite").tolist() == [2.0]
    for field in ("sums", "confidence", "entropy", "inference"):
        assert np.isfinite(total(observations, model, field)).all(), field
    counts = total(observations, model, "counts").reshape(len(BANDS), len(STATISTICS))
    assert counts[1, 0] == counts[2, 3] == 4
    assert counts.sum() == 5 * COLUMNS - 2
    window = observations.window(model)
    names = [item.name for item in drift.signals(model.manifest)]
    found = {name: int(n) for name, n in zip(names, window.not_finite, strict=True) if n}
    assert found == {"mean/B03": 1, "saturated/B04": 1, "confidence": 1}


def test_one_image_many_times_is_constant_whatever_else_is_not_finite(
    folder: Path, model: Model
) -> None:
    one, other = worker(model), worker(model)
    see(one, model, chips(1) * 20)
    see(other, model, chips(1) * 20)
    broken = Output(
        np.full((1, len(CLASSES)), np.nan, np.float32),
        np.full((1, len(BANDS), len(STATISTICS)), np.nan, np.float32),
    )
    one.add(model, 0, float("nan"), broken, 0.001, 0.0001)
    one.flush()
    other.flush()
    assert one.window(model).constant
    see(other, model, chips(1, first=77))
    other.flush()
    assert not one.window(model).constant


def test_an_empty_window_is_not_constant(folder: Path, model: Model) -> None:
    observations = worker(model)
    observations.flush()
    assert not observations.window(model).constant


def test_the_window_forgets_and_the_totals_do_not(folder: Path, model: Model, clock: Clock) -> None:
    observations = worker(model, clock=clock)
    inside = []
    for _ in range(3 * SLICES):  # records are used again and again
        see(observations, model, chips(1))
        observations.flush()
        inside.append(int(observations.window(model).counts[-1].sum()))
        clock.now += WINDOW / SLICES
    assert inside == [*range(1, SLICES), *[SLICES] * (2 * SLICES + 1)]
    assert predictions(observations, model) == 3 * SLICES
    clock.now += 2 * WINDOW
    assert observations.window(model).counts[-1].sum() == 0


def test_a_model_that_begins_to_serve_has_an_empty_window(
    folder: Path, models: list[Model]
) -> None:
    serving = Serving()
    observations = Observations(serving, WINDOW)
    serving.switch(models[0])
    see(observations, models[0], chips(9))
    serving.switch(models[1])
    see(observations, models[0], chips(1))  # it was being answered meanwhile
    see(observations, models[1], chips(2))
    observations.flush()
    assert observations.window(models[1]).counts[-1].sum() == 2
    assert [predictions(observations, it) for it in models] == [10, 2]
    serving.switch(models[0])
    observations.flush()
    assert predictions(observations, models[0]) == 10


def test_a_worker_holds_the_files_of_two_models_at_most(
    folder: Path, models: list[Model], tmp_path: Path
) -> None:
    serving, opened = Serving(), len(os.listdir("/proc/self/fd"))
    observations = Observations(serving, WINDOW)
    for _ in range(20):
        for model in models:
            serving.switch(Model(model.tag, read_bundle_of(model, tmp_path)))
            see(observations, serving.model(), chips(1))
            observations.flush()
    assert [predictions(observations, it) for it in models] == [20, 20]
    assert len(os.listdir("/proc/self/fd")) <= opened + 8


def read_bundle_of(model: Model, folder: Path) -> Any:
    path = folder / "bundles" / model.tag
    if not path.exists():
        seed = int(model.tag.split(".")[1])
        make_bundle(path, seed=seed, size=16, samples=200)
    return read_bundle(path)


def test_models_of_long_ago_are_forgotten(folder: Path) -> None:
    for number in range(MODELS + 5):
        SharedCounters(folder, CounterLayout(f"landcover@v0.{number}.0", "", CLASSES)).totals[
            "predictions"
        ] += 1
    found = [names.tag for names, _ in read_totals(folder)]
    assert found == [f"landcover@v0.{MODELS + 4 - number}.0" for number in range(MODELS)]
    assert len(list(folder.iterdir())) == 2 * MODELS


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle to be loaded under many tags."""
    folder = tmp_path_factory.mktemp("found") / "model"
    return read_bundle(make_bundle(folder, seed=7, size=16, samples=200))


def test_the_model_that_serves_is_shown_however_many_were_tried_and_rolled_back(
    folder: Path, model: Model, found: Bundle
) -> None:
    serving = Serving()
    observations = Observations(serving, WINDOW, Clock())
    for number in range(MODELS + 2):
        serving.switch(Model(f"landcover@v2.{number}.0", found))
        see(observations, serving.model(), chips(1))
        observations.flush()
        serving.switch(model)
        see(observations, model, chips(1))
        observations.flush()
        assert predictions(observations, model) == number + 1
        assert observations.window(model).counts[-1].sum() == number + 1
    assert len(observations.totals()) == MODELS


def test_numbers_that_a_worker_goes_on_counting_are_not_removed_by_another(
    folder: Path, models: list[Model]
) -> None:
    one = worker(*models)
    for model in models:  # the first one stays loaded for a rollback
        see(one, model, chips(1))
    one.flush()
    for number in range(MODELS + 5):
        SharedCounters(folder, CounterLayout(f"landcover@v0.{number}.0", "", CLASSES))
    for model in models:
        see(one, model, chips(1))
    one.flush()
    assert [predictions(one, model) for model in models] == [2, 2]
    assert [one.window(model).counts[-1].sum() for model in models] == [2, 2]


def test_after_a_rollback_under_one_tag_it_is_the_model_that_serves_which_is_shown(
    folder: Path, model: Model, tmp_path: Path
) -> None:
    classes = (*CLASSES[:-1], "Sea")
    path = make_bundle(tmp_path / "b", seed=2, size=16, samples=200, classes=classes)
    moved = Model(model.tag, read_bundle(path))
    serving = Serving()
    observations = Observations(serving, WINDOW, Clock())
    for now in (model, moved, model):
        serving.switch(now)
        see(observations, now, chips(3))
        observations.flush()
        shown = [dict(it.labels)["class"] for it in series(observations, "model_predictions")]
        assert shown == list(now.manifest.classes)
    assert sum(it.value for it in series(observations, "model_predictions")) == 6


def test_a_prediction_of_long_ago_does_not_hide_the_model_that_serves(
    folder: Path, models: list[Model], found: Bundle
) -> None:
    observations = worker(models[0], models[1])
    observations.flush()
    see(observations, Model("landcover@v0.1.0", found), chips(1))  # a large image, long under way
    observations.flush()
    observations.flush()
    tags = [names.tag for names, _ in observations.totals()]
    assert tags == [models[1].tag, "landcover@v0.1.0"]


def series(observations: Observations, name: str) -> list[Sample]:
    families = {family.name: family for family in TotalsCollector(observations).collect()}
    return list(families[name].samples)


def test_a_clock_that_is_set_back_does_not_make_the_latest_the_oldest(
    folder: Path, models: list[Model]
) -> None:
    for number in range(MODELS):
        SharedCounters(folder, CounterLayout(f"landcover@v0.{number}.0", "", CLASSES))
    ahead = time.time_ns() + 10**15
    for path in folder.glob("*.json"):
        os.utime(path, ns=(ahead, ahead))
    serving = Serving()
    observations = Observations(serving, WINDOW, Clock())
    for model in (*models, *models):
        serving.switch(model)
        observations.flush()
        assert observations.totals()[0][0].tag == model.tag


def test_a_full_disk_does_not_keep_a_model_from_being_counted_after_a_rollback(
    folder: Path, models: list[Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = Serving()
    observations = Observations(serving, WINDOW, Clock())
    for model in models:
        serving.switch(model)
        observations.flush()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    serving.switch(models[0])
    see(observations, models[0], chips(2))
    observations.flush()
    assert predictions(observations, models[0]) == 2
    assert observations.totals()[0][0].tag == models[0].tag


def test_a_description_that_was_removed_is_written_again(folder: Path, model: Model) -> None:
    observations = worker(model)
    see(observations, model, chips(1))
    observations.flush()
    (folder / f"{layout_of(model).key}.json").unlink()
    assert not observations.totals()
    observations.flush()
    assert predictions(observations, model) == 1


def test_a_file_that_is_forgotten_before_it_is_locked_is_not_counted_into(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = fcntl.flock

    def too_late(handle: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        (folder / f"{NAMES.key}-0.tally").unlink()
        lock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", too_late)
    SharedCounters(folder, NAMES).totals["predictions"][0] += 1
    assert (read_totals(folder)[0][1]["predictions"] == 1).all()


def test_what_can_not_be_counted_harms_no_prediction_and_is_said_once(
    folder: Path, model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    observations = worker(model)
    place = folder.rename(folder.with_name("gone"))
    for _ in range(3):
        see(observations, model, chips(1))
        observations.flush()
    lines = [it for it in caplog.records if it.message == "predictions are not counted"]
    assert len(lines) == 1
    place.rename(folder)
    see(observations, model, chips(1))
    observations.flush()
    assert predictions(observations, model) == 1


def test_a_file_that_is_being_made_is_not_read(folder: Path, model: Model) -> None:
    observations = worker(model)
    see(observations, model, chips(2))
    observations.flush()
    key = layout_of(model).key
    (folder / f"{key}-7.tally").write_bytes(b"")
    (folder / f"{key}-8.tally").write_bytes(b"\1" * 100)
    assert predictions(observations, model) == 2
    assert observations.window(model).counts[0].sum() == 2


NAMES = CounterLayout("landcover@v1.0.0", "", CLASSES, (), (4, 4))
WRITER = """
import sys
from pathlib import Path
from service.telemetry.counters import CounterLayout, SharedCounters
counters, number = SharedCounters(Path(sys.argv[1]), CounterLayout(*eval(sys.argv[2]))), 1
while True:
    counters.totals["predictions"][0] += 1
    counters.slice(number)["bins"][0] += 1
    number += counters.totals["predictions"][0, 0] % 10 == 0
"""


@pytest.fixture
def writer(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that counts as fast as it can, through slice after slice."""
    line = [sys.executable, "-c", WRITER, str(folder), repr(tuple(NAMES))]
    with subprocess.Popen(line, cwd=ROOT) as process:
        yield process
        process.kill()


def test_numbers_read_while_they_are_written_never_fall_and_are_never_torn(
    folder: Path, writer: subprocess.Popen[bytes]
) -> None:
    until(lambda: read_totals(folder))
    last = np.zeros(len(CLASSES))
    for _ in range(2000):
        found = read_totals(folder)[0][1]["predictions"][0]
        assert (found >= last).all()
        assert (found == found.round()).all(), "a count is there whole, or not yet"
        last = found
        number = int(last[0]) // 10
        window = read_window(folder, NAMES, number)
        assert all(0 <= counts.min() <= counts.max() <= 11 * SLICES for counts in window.counts)


def test_a_worker_that_is_killed_loses_no_number_and_its_successor_goes_on(
    folder: Path, writer: subprocess.Popen[bytes]
) -> None:
    until(lambda: read_totals(folder) and read_totals(folder)[0][1]["predictions"][0, 0] > 100)
    shown = read_totals(folder)[0][1]["predictions"].copy()
    writer.kill()
    writer.wait()
    left = read_totals(folder)[0][1]["predictions"].copy()
    assert (left >= shown).all()
    SharedCounters(folder, NAMES).totals["predictions"][0] += 1
    assert (read_totals(folder)[0][1]["predictions"] == left + 1).all()
    assert len(list(folder.glob("*.tally"))) == 1


def test_entropy_is_zero_when_sure_and_one_for_a_guess() -> None:
    shares = np.array([[1.0, 0, 0, 0], [0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0, 0]])
    assert entropy(shares) == pytest.approx([0, 1, 0.5])
    assert np.isnan(entropy(np.full((1, 4), np.nan))).all()


@settings(deadline=None)
@given(st.lists(st.floats(0, 1) | st.sampled_from(SHARES), max_size=50))
def test_a_histogram_is_that_of_the_client_library(values: list[float]) -> None:
    registry = CollectorRegistry()
    theirs = Histogram("x", "x", buckets=SHARES, registry=registry)
    for value in values:
        theirs.observe(value)
    ours = np.zeros((1, len(SHARES) + 2))
    _add_to_histogram(ours, SHARES, np.array(values))
    counts = np.cumsum(ours[0, :-1])
    for bound, count in zip([*SHARES, "+Inf"], counts, strict=True):
        assert registry.get_sample_value("x_bucket", {"le": str(bound)}) == count
    assert registry.get_sample_value("x_sum") == pytest.approx(ours[0, -1])
