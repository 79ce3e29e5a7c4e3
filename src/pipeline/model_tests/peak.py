"""Prints the peak memory of a process that loads a bundle and predicts, MiB: bare, and at its peak.

    python peak.py model artifacts/chips 16

A process of its own, with ONNX Runtime and NumPy alone; one thread, as in the service.
"""

import json
import resource
import sys
from pathlib import Path

import numpy as np
import onnxruntime

STATUS = Path("/proc/self/status")


def peak() -> float:
    """Peak of the resident memory of this process so far, MiB.

    Linux counts what the parent had into `ru_maxrss` of a child; VmHWM is of this program alone.
    """
    try:
        lines = STATUS.read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
    except (OSError, StopIteration):
        unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def main() -> None:
    """Measure."""
    model, chips, batch = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    split = np.load(chips / "test.npy", mmap_mode="r")
    some = np.resize(split[:batch], (batch, *split.shape[1:]))
    bare = peak()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(model / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    for _ in range(3):
        session.run(None, {"chips": some})
    print(json.dumps({"bare": bare, "peak": peak()}))


if __name__ == "__main__":
    main()
