"""float32 graph -> int8 graph, kept only where it is as good and faster.

Convolutions and what lies between them compute with integers of 8 bits, calibrated on training
chips. Two things stay float32: the first convolution, because digital numbers reach much further
than most of them lie, and all that does not follow a convolution, such as the statistics. Weights
have 7 bits: sums of 16 bits then never overflow on processors without VNNI, and one graph answers
alike on all of them.
"""

import logging
import math
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from pipeline.bundle.inference import predict, session
from pipeline.data.prepared import Prepared
from pipeline.params import Evaluate
from pipeline.tasks.task import Task

QUANTIZED = frozenset(
    {"Add", "AveragePool", "Concat", "Conv", "ConvTranspose", "Gemm", "MaxPool", "Relu"}
)
CALIBRATED = 256  # training chips, at most
BATCH = 16
COMPARED = Evaluate(bootstrap_samples=2000, calibration_bins=15, latency_runs=10)
LOSS = 0.001  # of the measure on the validation split: what counts as none
GAIN = 1.1  # float32 time over int8 time, at least
ROUNDS, RUNS = 7, 20  # of the timing; the fastest round counts


class Choice(NamedTuple):
    """The graph that ships."""

    graph: bytes
    is_int8: bool
    why: str
    """In words, with the figures."""


def choose(graph: bytes, prepared: Prepared, task: Task) -> Choice:
    """Quantize a float32 graph, compare the two on the validation split, time them, and choose."""
    small = quantize(graph, prepared.split("train").chips)
    held_out, dataset = prepared.split("validation"), prepared.dataset
    old, new = (
        task.predictions(
            predict(session(of), held_out.chips, task.OUTPUTS), held_out, dataset, COMPARED
        )
        for of in (graph, small)
    )
    found = task.compare(old, new, COMPARED.bootstrap_samples)
    if found is None:
        return Choice(graph, False, "float32 stays: the validation split shows nothing")
    loss = found.champion - found.challenger
    said = f"{found.measure} {found.champion:.4f}, int8 {found.challenger:.4f}"
    if found.is_loss or not loss <= LOSS:
        return Choice(graph, False, f"float32 stays: int8 is worse on validation ({said})")
    gain = speed_up(graph, small, np.ascontiguousarray(held_out.chips[:1]))
    said += f", {gain:.2f} times as fast"
    if gain < GAIN:
        return Choice(graph, False, f"float32 stays: int8 gains too little ({said})")
    return Choice(small, True, f"int8 ships ({said})")


def quantize(graph: bytes, chips: npt.NDArray[Any]) -> bytes:
    """Make the int8 graph; inputs and outputs stay as they are.

    Args:
        graph: float32.
        chips: (N, bands, H, W) digital numbers of the training split, for the ranges.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, target = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(graph)
        quantize_static(
            source,
            target,
            _Batches(spread(chips)),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=sorted(QUANTIZED),
            nodes_to_quantize=after_a_convolution(onnx.load_from_string(graph)),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return target.read_bytes()


def spread(chips: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Every nth chip, so that at most CALIBRATED are left."""
    return chips[:: math.ceil(len(chips) / CALIBRATED)]


def after_a_convolution(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes to quantize: what follows the first convolution."""
    reached: set[str] = set()
    found = []
    for node in model.graph.node:
        follows = not reached.isdisjoint(node.input)
        if follows or node.op_type == "Conv":
            reached.update(node.output)
        if follows and node.op_type in QUANTIZED:
            found.append(node.name)
    return found


def speed_up(old: bytes, new: bytes, chip: npt.NDArray[Any]) -> float:
    """Time of one graph over that of another, for one chip on one thread."""
    sessions = [session(graph, threads=1) for graph in (old, new)]
    best = [float("inf"), float("inf")]
    for _ in range(ROUNDS):  # in turns: the machine is not ours alone
        for index, opened in enumerate(sessions):
            best[index] = min(best[index], _seconds(opened, chip))
    return best[0] / best[1]


def _seconds(opened: onnxruntime.InferenceSession, chip: npt.NDArray[Any]) -> float:
    started = time.perf_counter()
    for _ in range(RUNS):
        opened.run(None, {"chips": chip})
    return time.perf_counter() - started


class _Batches:
    """Chips for the calibration, as ONNX Runtime asks for them."""

    def __init__(self, chips: npt.NDArray[Any]) -> None:
        self._parts = (chips[at : at + BATCH] for at in range(0, len(chips), BATCH))

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        """Return the inputs of the next run; None at the end."""
        part = next(self._parts, None)
        return None if part is None else {"chips": np.ascontiguousarray(part)}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence advice of ONNX Runtime that does not apply: the graph is optimised already."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
