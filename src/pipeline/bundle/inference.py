"""Runs the graph of a bundle in ONNX Runtime, as the service will; no torch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from pipeline.data.dataset import at_a_time

STATISTICS = ("mean", "std", "nodata", "saturated", "roughness")
"""What the graph's output `statistics` (N, bands, 5) says about the pixels of each band."""

BATCH = 256  # chips of at most 128 px


def session(model: bytes, threads: int = 0) -> onnxruntime.InferenceSession:
    """Open an ONNX model on the CPU; `threads` 0 is one a core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def predict(
    model: onnxruntime.InferenceSession, chips: npt.NDArray[np.generic], outputs: Sequence[str]
) -> dict[str, npt.NDArray[Any]]:
    """Run the graph over chips (N, bands, H, W), a batch at a time: output -> (N, ...)."""
    step = at_a_time(BATCH, chips.shape[-1])
    parts = [
        model.run(list(outputs), {"chips": chips[start : start + step]})
        for start in range(0, len(chips), step)
    ]
    columns = (np.concatenate(column) for column in zip(*parts, strict=True))
    return dict(zip(outputs, columns, strict=True))
