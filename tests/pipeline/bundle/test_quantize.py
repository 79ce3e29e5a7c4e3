"""int8 graphs: the same answers but for rounding, shipped only where nothing is lost."""

from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch

from contracts.bundle import Golden
from pipeline import paths
from pipeline.bundle import quantize
from pipeline.bundle.export import export
from pipeline.bundle.inference import predict, session
from pipeline.bundle.manifest import read_bundle
from pipeline.bundle.onnx_graph import to_onnx
from pipeline.data.prepared import Prepared, read_prepared
from pipeline.params import Params, read_params
from pipeline.tasks import classification, segmentation
from pipeline.tasks.comparison import Comparison
from pipeline.tasks.intervals import Interval
from pipeline.training.models import Predictor, build
from tests.make.label_maps import dataset

OUTPUTS = ("probabilities", "statistics")


@pytest.fixture
def prepared(trained: Path) -> Iterator[Prepared]:
    with chdir(trained):
        yield read_prepared()


@pytest.fixture
def graph(trained: Path) -> bytes:
    return (trained / paths.MODEL / "model.onnx").read_bytes()


def run(graph: bytes, chips: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    return predict(session(graph), chips, OUTPUTS)


def compared(loss: float) -> Any:
    """The task, but for what it finds on the validation split."""
    found = Comparison(50, 0.9, 0.9 - loss, Interval(-loss - 0.01, -loss + 0.01), fixed=0, broken=1)
    names = {name: getattr(classification, name) for name in ("OUTPUTS", "predictions")}
    return SimpleNamespace(**names, compare=lambda *_: found)


def test_the_int8_graph_answers_as_the_other_but_for_rounding(
    graph: bytes, prepared: Prepared
) -> None:
    small = quantize.quantize(graph, prepared.split("train").chips)
    chips = prepared.split("validation").chips
    ours, theirs = run(small, chips), run(graph, chips)
    assert np.abs(ours["probabilities"] - theirs["probabilities"]).mean() < 0.02
    assert not np.array_equal(ours["probabilities"], theirs["probabilities"])
    np.testing.assert_array_equal(ours["statistics"], theirs["statistics"])


def test_one_graph_and_the_same_chips_give_the_same_bytes(graph: bytes, prepared: Prepared) -> None:
    chips = prepared.split("train").chips
    assert quantize.quantize(graph, chips) == quantize.quantize(graph, chips)


def test_at_most_256_chips_from_first_to_last_calibrate() -> None:
    for count in (1, 255, 256, 257, 511, 512, 513, 10_000):
        chosen = quantize.spread(np.arange(count))
        assert len(chosen) <= quantize.CALIBRATED and chosen[0] == 0
        assert len(chosen) > min(count, quantize.CALIBRATED) // 2
        assert count - chosen[-1] <= np.diff(chosen, append=count).max()


def test_weights_have_seven_bits_and_nothing_names_this_machine(
    graph: bytes, prepared: Prepared
) -> None:
    small = quantize.quantize(graph, prepared.split("train").chips)
    assert b"/tmp" not in small
    tensors = [
        onnx.numpy_helper.to_array(t) for t in onnx.load_from_string(small).graph.initializer
    ]
    weights = [tensor for tensor in tensors if tensor.dtype == np.int8 and tensor.ndim > 1]
    assert weights and all(np.abs(values.astype(int)).max() <= 64 for values in weights)


def test_a_label_map_of_any_size_is_answered_by_integers_too() -> None:
    torch.manual_seed(0)
    params = read_params().model.model_copy(
        update={"task": "segmentation", "network": "unet", "width": 4}
    )
    network = Predictor(build(params, 3, 2), [100.0] * 3, [50.0] * 3).eval()
    chips = np.random.default_rng(0).integers(0, 400, (6, 3, 32, 32)).astype(np.uint16)
    graph = to_onnx(network, dataset(), segmentation)
    small = quantize.quantize(graph, chips)
    large = np.tile(chips[:1], (1, 1, 2, 3))
    ours, theirs = (session(of).run(["labels"], {"chips": large})[0] for of in (small, graph))
    assert ours.shape == (1, 64, 96) and (ours == theirs).mean() > 0.9


@pytest.mark.parametrize(
    ("loss", "ships"), [(0.02, False), (0.005, False), (0.0005, True), (-0.02, True)]
)
def test_a_graph_that_is_worse_on_validation_does_not_ship(
    graph: bytes, prepared: Prepared, monkeypatch: pytest.MonkeyPatch, loss: float, ships: bool
) -> None:
    monkeypatch.setattr(quantize, "speed_up", lambda *_: 2.0)
    monkeypatch.setattr(quantize, "quantize", lambda graph, chips: graph)
    found = quantize.choose(graph, prepared, compared(loss))
    assert found.is_int8 == ships
    assert ("is worse on validation (accuracy 0.9000" in found.why) != ships


def test_a_validation_split_that_shows_nothing_keeps_float32(
    graph: bytes, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "quantize", lambda graph, chips: graph)
    task = compared(0)
    task.compare = lambda *_: None
    assert not quantize.choose(graph, prepared, task).is_int8


def test_a_graph_that_is_not_faster_does_not_ship(
    graph: bytes, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "speed_up", lambda *_: 1.05)
    monkeypatch.setattr(quantize, "quantize", lambda graph, chips: graph)
    found = quantize.choose(graph, prepared, classification)
    assert not found.is_int8
    assert "gains too little" in found.why and "1.05 times" in found.why


def test_golden_chips_and_reference_are_those_of_the_graph_that_ships(
    trained: Path, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "speed_up", lambda *_: 2.0)
    monkeypatch.setattr(quantize, "LOSS", 1.0)
    params = with_auto(read_params())
    torch.manual_seed(0)
    network = build(params.model, len(prepared.dataset.bands), len(prepared.dataset.classes))
    predictor = Predictor(network, prepared.mean, prepared.std).eval()
    export(predictor, params, prepared, revision="r", seconds=1, hardware="a processor")
    graph, manifest = read_bundle()
    assert b"QuantizeLinear" in graph
    assert manifest.training.hardware == "a processor, quantized to int8"
    chips = prepared.split("validation").chips
    answers = run(graph, chips)["probabilities"]
    for golden in manifest.golden:
        assert isinstance(golden, Golden)
        assert any(np.allclose(golden.probabilities, one, atol=1e-6) for one in answers)


def with_auto(params: Params) -> Params:
    return params.model_copy(update={"train": params.train.model_copy(update={"quantize": "auto"})})
