"""The graph of a bundle in ONNX Runtime: (B, bands, H, W) -> (B, K), statistics; no more."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime

from service.errors import BundleRefused
from service.inference.bundle import Bundle, decode_chip

TOLERANCE = (
    1e-3  # of a golden probability; another CPU rounds differently, another model is far off
)
WARM_UP_RUNS = 3
WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
OUTPUTS = ["probabilities", "statistics"]


class Answer(NamedTuple):
    """What the graph says about B chips."""

    probabilities: npt.NDArray[np.float32]
    """(B, classes)."""
    statistics: npt.NDArray[np.float32]
    """(B, bands, 5)."""


class Engine:
    """One session, one thread: throughput comes from one process a core."""

    def __init__(self, bundle: Bundle) -> None:
        """Open the graph.

        Raises:
            BundleRefused: ONNX Runtime can not read it, or it is not what the manifest says.
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
            raise BundleRefused(f"ONNX Runtime can not open the graph: {reason}") from None
        self._manifest = bundle.manifest
        self._check_interface()

    def run(self, chips: npt.NDArray[Any]) -> Answer:
        """Classify chips (B, bands, height, width) of the manifest's dtype."""
        return Answer(*self._session.run(OUTPUTS, {"chips": chips}))

    def warm_up(self) -> None:
        """Run a few times: the first runs allocate and are slow."""
        wanted = self._manifest.input
        chips = np.zeros((1, *wanted.shape), wanted.dtype)
        for _ in range(WARM_UP_RUNS):
            self._run_or_refuse(chips)

    def self_test(self) -> None:
        """Reproduce the golden answers that the bundle carries.

        Raises:
            BundleRefused: an answer differs: another graph, or a runtime that computes wrongly.
        """
        for number, golden in enumerate(self._manifest.golden):
            chip = decode_chip(golden.chip, self._manifest.input)
            found = self._run_or_refuse(chip[None]).probabilities[0]
            if len(golden.probabilities) != len(found):
                raise BundleRefused(f"golden chip {number} has an answer of another length")
            error = float(np.abs(found - np.array(golden.probabilities)).max())
            if not error <= TOLERANCE:  # also when it is NaN
                raise BundleRefused(
                    f"golden chip {number} is answered {error:.2g} off, at most {TOLERANCE:g} is "
                    "rounding: train it again, or serve it with the ONNX Runtime it was made with"
                )

    def _run_or_refuse(self, chips: npt.NDArray[Any]) -> Answer:
        try:
            answer = self.run(chips)
        except Exception as error:  # as above
            raise BundleRefused(f"the graph does not run: {type(error).__name__}") from None
        wanted = self._manifest
        shapes = [tuple(array.shape) for array in answer]
        batch = len(chips)
        if shapes != [
            (batch, len(wanted.classes)),
            (batch, len(wanted.input.bands), len(wanted.statistics)),
        ]:
            raise BundleRefused(
                f"the graph answers in shapes {shapes}, the manifest says otherwise"
            )
        return answer

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
        if not names.issuperset(OUTPUTS):
            raise BundleRefused(f"the graph gives {sorted(names)}, wanted {OUTPUTS}")
