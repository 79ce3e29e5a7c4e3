"""The graph of a bundle in ONNX Runtime: (B, bands, H, W) -> the outputs of its task."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from service.errors import BundleRefused
from service.inference.bundle import Bundle, decode_chip
from service.inference.tasks import Output, Task

WARM_UP_RUNS = 3
WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"


class Engine:
    """One session with one thread: throughput comes from one process per core."""

    def __init__(self, bundle: Bundle, task: Task) -> None:
        """Open the graph of a task.

        Raises:
            BundleRefused: ONNX Runtime cannot read it, or it is not what the manifest says.
        """
        options = onnxruntime.SessionOptions()
        # Measured: one thread a process beats one session over all cores, and spinning burns the
        # core that the other worker needs (docs/benchmarks.md).
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4
        # A graph may name files for its weights, and would get those below the working directory.
        options.add_session_config_entry(WEIGHTS_FOLDER, "/dev/null")
        try:
            self._session = onnxruntime.InferenceSession(
                bundle.graph, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the runtime's errors share no base but this
            reason = type(error).__name__
            raise BundleRefused(f"ONNX Runtime cannot open the graph: {reason}") from None
        self._manifest = bundle.manifest
        self._task = task
        self._outputs = list(task.outputs)
        self._check_interface()

    def infer(self, chips: npt.NDArray[Any]) -> Output:
        """Run the graph on chips (B, bands, height, width) of the manifest's dtype."""
        return Output(*self._session.run(self._outputs, {"chips": chips}))

    def warm_up(self) -> None:
        """Run a few times: the first runs allocate and are slow."""
        wanted = self._manifest.input
        chips = np.zeros((1, *wanted.shape), wanted.dtype)
        for _ in range(WARM_UP_RUNS):
            self._infer_or_refuse(chips)

    def self_test(self) -> None:
        """Reproduce the golden answers that the bundle carries.

        Raises:
            BundleRefused: an answer differs: another graph, or a runtime that computes wrongly.
        """
        for number, golden in enumerate(self._manifest.golden):
            chip = decode_chip(golden.chip, self._manifest.input)
            self._task.check_golden(number, self._infer_or_refuse(chip[None]))

    def _infer_or_refuse(self, chips: npt.NDArray[Any]) -> Output:
        try:
            output = self.infer(chips)
        except Exception as error:  # as above
            raise BundleRefused(f"the graph does not run: {type(error).__name__}") from None
        self._task.check_shapes(output, len(chips))
        return output

    def _check_interface(self) -> None:
        wanted = self._manifest.input
        inputs = [
            (item.name, item.type, tuple(item.shape[1:])) for item in self._session.get_inputs()
        ]
        if inputs != [("chips", f"tensor({wanted.dtype})", wanted.shape)]:
            raise BundleRefused(
                f"the graph takes {inputs}, the manifest says {wanted.dtype} chips {wanted.shape}"
            )
        names = {item.name for item in self._session.get_outputs()}
        if not names.issuperset(self._outputs):
            raise BundleRefused(f"the graph gives {sorted(names)}, wanted {self._outputs}")
