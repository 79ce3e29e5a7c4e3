"""Images that wait share a run where this machine gains by it: measured once, never at a price."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from service.inference import several
from service.inference.bundle import read_bundle
from service.inference.engine import Engine
from service.inference.model import Model
from service.registry.client import RegistryClient
from service.swap.cache import BundleCache
from service.swap.loader import ModelLoader
from service.swap.progress import ProgressTracker
from service.telemetry.tracing import Tracing
from tests.make.bundles import make_bundle

CONSTANT, EACH = 1.0, 0.1  # seconds of a run, and of each chip in it, on the clock of these tests


@pytest.fixture
def constant(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A runtime whose runs cost something by themselves; the cost of the next ones may be set."""
    cost, spent = [CONSTANT], [0.0]
    infer = Engine.infer

    def slow(engine: Engine, chips: Any) -> Any:
        spent[0] += cost[0] + EACH * len(chips)
        return infer(engine, chips)

    monkeypatch.setattr(Engine, "infer", slow)
    monkeypatch.setattr(time, "thread_time", lambda: spent[0])
    return cost


@pytest.fixture
def loader(tmp_path: Path) -> ModelLoader:
    cache = BundleCache(tmp_path / "bundles", tmp_path / "digests", 1 << 30)
    return ModelLoader(RegistryClient(str(tmp_path), tmp_path / "cache"), cache, tmp_path)


def load(loader: ModelLoader, folder: Path) -> Model:
    return asyncio.run(
        loader.load_model("local", read_bundle(folder), ProgressTracker("local", Tracing()))
    )


def test_images_share_a_run_where_a_run_costs_something_by_itself(
    loader: ModelLoader, tmp_path: Path, constant: list[float]
) -> None:
    assert load(loader, make_bundle(tmp_path / "model")).at_once == several.SHARED


def test_images_run_one_by_one_where_nothing_is_gained(
    loader: ModelLoader, tmp_path: Path, constant: list[float]
) -> None:
    constant[0] = -0.05  # a run of several costs more
    assert load(loader, make_bundle(tmp_path / "model")).at_once == 1


def test_the_gain_is_measured_once_for_chips_of_one_shape(
    loader: ModelLoader, tmp_path: Path, constant: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    load(loader, make_bundle(tmp_path / "first"))
    load(loader, make_bundle(tmp_path / "second", seed=1))
    load(loader, make_bundle(tmp_path / "other", bands=("B02", "B03", "B04")))
    said = [x for x in caplog.records if x.message == "measured several images at once"]
    assert [x.__dict__["chip"][0] for x in said] == [4, 3]


def test_this_machine_measures_a_gain_that_is_a_number(tmp_path: Path) -> None:
    model = Model("local", read_bundle(make_bundle(tmp_path / "model")))
    assert 0 < several.gain_at_once(model) < 1000
