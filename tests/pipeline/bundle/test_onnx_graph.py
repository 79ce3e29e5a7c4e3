"""The graph that ships: the same answers as torch, statistics that are right, nothing private."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch

from pipeline.bundle.inference import STATISTICS, session
from pipeline.bundle.inference import predict as predict_outputs
from pipeline.bundle.onnx_graph import check_parity, to_onnx
from pipeline.data.dataset import Dataset
from pipeline.errors import TrainingError
from pipeline.params import Model
from pipeline.tasks import classification
from pipeline.training.models import Predictor, build


def predict(model: Any, chips: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    return predict_outputs(model, chips, ("probabilities", "statistics"))


def dataset(dtype: Any, bands: int, nodata: int | None = None) -> Dataset:
    return Dataset(
        name="test",
        classes=("a", "b", "c"),
        bands=tuple(f"B{index:02d}" for index in range(bands)),
        dtype=dtype,
        size=32,
        scale=10_000,
        units="reflectance",
        nodata=nodata,
        valid_max=int(np.iinfo(dtype).max),
        origin="test",
        licence="none",
    )


def predictor(bands: int) -> Predictor:
    torch.manual_seed(0)
    network = build(Model(name="test", network="resnet", width=4, dropout=0.1), bands, 3)
    return Predictor(network, [100.0] * bands, [50.0] * bands).eval()


def chips(dtype: Any, bands: int, count: int = 5) -> npt.NDArray[Any]:
    rng = np.random.default_rng(0)
    return rng.integers(0, np.iinfo(dtype).max, (count, bands, 32, 32), endpoint=True).astype(dtype)


@pytest.fixture(scope="module")
def graph() -> bytes:
    return to_onnx(predictor(4), dataset("uint16", 4, nodata=0), classification)


def test_raw_uint16_goes_in_and_probabilities_come_out(graph: bytes) -> None:
    model = session(graph)
    assert [(i.name, i.type, i.shape[1:]) for i in model.get_inputs()] == [
        ("chips", "tensor(uint16)", [4, 32, 32])
    ]
    probabilities = predict(model, chips("uint16", 4))["probabilities"]
    assert probabilities.shape == (5, 3) and probabilities.dtype == np.float32
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(5), abs=1e-6)


def test_a_batch_of_any_size_gives_what_single_chips_give(graph: bytes) -> None:
    model, data = session(graph), chips("uint16", 4, count=7)
    single = np.concatenate([predict(model, data[i : i + 1])["probabilities"] for i in range(7)])
    assert predict(model, data)["probabilities"] == pytest.approx(single, abs=1e-6)


def test_statistics_are_those_of_every_fourth_line(graph: bytes) -> None:
    data = chips("uint16", 4)
    data[:, :, :8, :4] = 0
    data[:, :, :8, 4:6] = 65_535
    found = predict(session(graph), data)["statistics"]
    lines = data[:, :, ::4].astype(np.float64)
    expected = {
        "mean": lines.mean((2, 3)) / 10_000,
        "std": lines.std((2, 3)) / 10_000,
        "nodata": (lines == 0).mean((2, 3)),
        "saturated": (lines == 65_535).mean((2, 3)),
        "roughness": np.abs(np.diff(lines, axis=3)).mean((2, 3)) / 10_000,
    }
    assert found.shape == (5, 4, len(STATISTICS))
    for index, name in enumerate(STATISTICS):
        assert found[:, :, index] == pytest.approx(expected[name], rel=1e-4), name


def test_data_without_a_nodata_value_have_no_share_of_it() -> None:
    model = session(to_onnx(predictor(3), dataset("uint8", 3), classification))
    found = predict(model, np.zeros((1, 3, 32, 32), np.uint8))["statistics"]
    assert found[0, :, STATISTICS.index("nodata")].tolist() == [0, 0, 0]


def test_the_same_weights_give_the_same_bytes(graph: bytes) -> None:
    assert to_onnx(predictor(4), dataset("uint16", 4, nodata=0), classification) == graph


def test_the_file_tells_nothing_about_the_machine(graph: bytes) -> None:
    proto = onnx.load_from_string(graph)
    assert b".py" not in graph and b"/site-packages" not in graph
    assert not any(node.metadata_props or node.doc_string for node in proto.graph.node)


def test_batch_norm_is_folded_into_the_convolutions(graph: bytes) -> None:
    kinds = {node.op_type for node in onnx.load_from_string(graph).graph.node}
    assert "BatchNormalization" not in kinds and "Conv" in kinds


def test_parity_is_measured_and_a_difference_refused(graph: bytes) -> None:
    data = chips("uint16", 4)
    found = predict(session(graph), data)
    assert (
        check_parity(predictor(4), dataset("uint16", 4, nodata=0), classification, found, data)
        < 1e-4
    )
    for wrong in (found["probabilities"] + 2e-4, found["probabilities"] * np.float32(np.nan)):
        with pytest.raises(TrainingError, match="differs from the trained one"):
            check_parity(
                predictor(4),
                dataset("uint16", 4, nodata=0),
                classification,
                {**found, "probabilities": wrong},
                data,
            )
