"""The graph of a bundle in ONNX Runtime: (B, bands, H, W) -> the outputs of its task."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from service.errors import BundleRefused, Unavailable
from service.inference.bundle import Bundle, decode_chip
from service.inference.providers import CPU, open_session, provider_of
from service.inference.tasks import TOLERANCE, Output, Task

WARM_UP_RUNS = 3
_DTYPES = {"tensor(float)": "float32", "tensor(double)": "float64"}


class Engine:
    """One session with one thread: throughput comes from one process per core."""

    def __init__(self, bundle: Bundle, task: Task, device: str = "auto") -> None:
        """Open the graph of a task; `device` is the setting of this name.

        Raises:
            BundleRefused: ONNX Runtime cannot read it, or it is not what the manifest says.
            Unavailable: the device is not there.
        """
        try:
            self._session = open_session(bundle.graph, device)
        except Unavailable:
            raise
        except Exception as error:  # the runtime's errors share no base but this
            reason = type(error).__name__
            raise BundleRefused(f"ONNX Runtime cannot open the graph: {reason}") from None
        self.provider = provider_of(self._session)
        # For the self-test alone, which compares the two.
        self._cpu = None if self.provider == CPU else open_session(bundle.graph, "cpu")
        self._manifest = bundle.manifest
        self._task = task
        self._outputs = list(task.outputs)
        self._check_interface()

    def infer(self, chips: npt.NDArray[Any]) -> Output:
        """Run the graph on chips (B, bands, height, width) of the manifest's dtype."""
        return self._run(self._session, chips)

    def outputs(self) -> list[tuple[str, str, list[int]]]:
        """Name, dtype and shape of the outputs of the graph; a free edge is -1."""
        return [
            (
                item.name,
                _DTYPES.get(item.type, item.type.removeprefix("tensor(").rstrip(")")),
                [edge if isinstance(edge, int) else -1 for edge in item.shape],
            )
            for item in self._session.get_outputs()
        ]

    def warm_up(self) -> None:
        """Run a few times: the first runs allocate and are slow."""
        wanted = self._manifest.input
        chips = np.zeros((1, *wanted.shape), wanted.dtype)
        for _ in range(WARM_UP_RUNS):
            self._infer_or_refuse(chips)

    def self_test(self) -> None:
        """Reproduce the golden answers that the bundle carries, and those of the CPU.

        Raises:
            BundleRefused: an answer differs: another graph, or a runtime that computes wrongly.
        """
        for number, golden in enumerate(self._manifest.golden):
            chips = decode_chip(golden.chip, self._manifest.input)[None]
            output = self._infer_or_refuse(chips)
            if self._cpu is not None:
                self._compare(number, output, self._run(self._cpu, chips))
            self._task.check_golden(number, output)
        self._cpu = None

    def _run(self, session: onnxruntime.InferenceSession, chips: npt.NDArray[Any]) -> Output:
        high, wide = chips.shape[2:]
        if multiple := self._manifest.input.multiple:
            room = [(0, -high % multiple), (0, -wide % multiple)]
            # By the pixels at the edge: another value would be an edge that could be an object's.
            chips = np.pad(chips, [(0, 0), (0, 0), *room], "edge") if high or wide else chips
        return self._task.output(session.run(self._outputs, {"chips": chips}), (high, wide))

    def _compare(self, number: int, output: Output, cpu: Output) -> None:
        """Hold two providers together: the statistics too, which drift is measured by."""
        answers = (
            ("probabilities", output.probabilities, cpu.probabilities),
            ("statistics", output.statistics, cpu.statistics),
        )
        for name, one, other in answers:
            if not np.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE):
                raise BundleRefused(
                    f"golden chip {number}: the {name} of {self.provider} and of the CPU are "
                    f"more than {TOLERANCE:g} apart: set SERVICE_DEVICE=cpu"
                )

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
        named = [(name, dtype) for name, dtype, _ in inputs]
        wanted_name = [("chips", f"tensor({wanted.dtype})")]
        if named != wanted_name or not self._task.check_input(inputs[0][2]):
            raise BundleRefused(
                f"the graph takes {inputs}, the manifest says {wanted.dtype} chips {wanted.shape}"
            )
        names = {item.name for item in self._session.get_outputs()}
        if not names.issuperset(self._outputs):
            raise BundleRefused(f"the graph gives {sorted(names)}, wanted {self._outputs}")
