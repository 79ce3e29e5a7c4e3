"""What all peers share: the upload's bytes -> the answer, with the usual libraries.

Peers run in environments of their own, with this folder on their path, and know nothing of the
project. BENCH_BUNDLE is the folder of the bundle.
"""

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import tifffile
from PIL import Image


class Classifier:
    """The graph of a bundle."""

    def __init__(self, threads: int | None = None) -> None:
        """Open the graph; `threads` a call, the runtime's default (one a core) if None."""
        folder = Path(os.environ["BENCH_BUNDLE"])
        self.classes = json.loads((folder / "model.json").read_text(encoding="utf-8"))["classes"]
        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(
            folder / "model.onnx", options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, content: bytes) -> dict[str, Any]:
        """Classify one upload."""
        return self.answer(self.run(decode(content)))

    def run(self, chip: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Give the probabilities (classes,) of a chip (bands, height, width)."""
        outputs = self.session.run(["probabilities"], {"chips": chip[None]})
        probabilities: npt.NDArray[np.float32] = outputs[0][0]
        return probabilities

    def answer(self, probabilities: npt.NDArray[np.float32]) -> dict[str, Any]:
        """Give names to numbers."""
        best = int(probabilities.argmax())
        return {
            "class": self.classes[best],
            "probability": float(probabilities[best]),
            "probabilities": dict(zip(self.classes, probabilities.tolist(), strict=True)),
        }


def decode(content: bytes) -> npt.NDArray[Any]:
    """Read a TIFF or a picture: (bands, height, width)."""
    if content[:4] == b"II*\x00":
        pixels = tifffile.imread(io.BytesIO(content))
    else:
        pixels = np.asarray(Image.open(io.BytesIO(content)))
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))
