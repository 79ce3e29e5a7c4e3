"""Interprets the outputs of a graph according to the task of its model.

A task names the outputs, checks their shapes and the golden answers, and reads one prediction from
them: the fields of the answer, and what is observed and recorded. A new task is one more class and
one more row in `TASKS`.
"""

from math import isfinite
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from contracts.bundle import Golden, Manifest
from service.errors import BundleRefused, InvalidOutput

TOLERANCE = (
    1e-3  # of a golden probability; another CPU rounds differently, another model is far off
)


class Output(NamedTuple):
    """The outputs of the graph for B chips."""

    probabilities: npt.NDArray[np.float32]
    """(B, classes)."""
    statistics: npt.NDArray[np.float32]
    """(B, bands, 5)."""


class Outcome(NamedTuple):
    """One prediction, read from the outputs."""

    best: int
    """Index of the class."""
    probability: float
    """Of that class."""
    fields: dict[str, Any]
    """Fields of the answer, without those that every task has: the request's id and the model."""


class Task(Protocol):
    """Interface of a task."""

    outputs: tuple[str, ...]
    """Names of the graph's outputs, in the order of the fields of `Output`."""

    def check_shapes(self, output: Output, batch: int) -> None:
        """Raise BundleRefused for outputs of other shapes than the manifest promises."""

    def check_golden(self, number: int, output: Output) -> None:
        """Raise BundleRefused for an output that is not the golden answer of chip `number`."""

    def read(self, output: Output) -> Outcome:
        """Read the prediction of a batch of one. Raises InvalidOutput."""

    def golden_label(self, golden: Golden) -> str:
        """Name the class of a golden answer."""


class Classification:
    """One class of several for a whole chip."""

    outputs: tuple[str, ...] = Output._fields

    def __init__(self, manifest: Manifest) -> None:
        """Read outputs as a manifest describes them."""
        self._manifest = manifest
        self._classes = manifest.classes

    def check_shapes(self, output: Output, batch: int) -> None:
        """Compare with the manifest's classes, bands and statistics. Raises BundleRefused."""
        manifest = self._manifest
        wanted = [
            (batch, len(self._classes)),
            (batch, len(manifest.input.bands), len(manifest.statistics)),
        ]
        if (shapes := [tuple(array.shape) for array in output]) != wanted:
            raise BundleRefused(
                f"the graph answers in shapes {shapes}, the manifest says otherwise"
            )

    def check_golden(self, number: int, output: Output) -> None:
        """Compare with the golden probabilities. Raises BundleRefused."""
        found, golden = output.probabilities[0], self._manifest.golden[number].probabilities
        if len(golden) != len(found):
            raise BundleRefused(f"golden chip {number} has an answer of another length")
        error = float(np.abs(found - np.array(golden)).max())
        if not error <= TOLERANCE:  # also when it is NaN
            raise BundleRefused(
                f"golden chip {number} is answered {error:.2g} off, at most {TOLERANCE:g} is "
                "rounding: train it again, or serve it with the ONNX Runtime it was made with"
            )

    def read(self, output: Output) -> Outcome:
        """Name the likeliest class, with all probabilities.

        Raises:
            InvalidOutput: a probability is NaN or infinite. The likeliest class of NaN would be the
                first one: a broken model must not look like a prediction.
        """
        probabilities = output.probabilities[0]
        values = probabilities.tolist()
        if not isfinite(sum(values)):
            raise InvalidOutput(
                "the model returned probabilities that are NaN or infinite for this image: serve "
                "another model, or train this one again"
            )
        best = int(probabilities.argmax())
        classes = self._classes
        fields = {
            "class": classes[best],
            "probability": values[best],
            "probabilities": dict(zip(classes, values, strict=True)),
        }
        return Outcome(best, values[best], fields)

    def golden_label(self, golden: Golden) -> str:
        """Name the likeliest class of a golden answer."""
        return self._classes[int(np.argmax(golden.probabilities))]


TASKS = {"classification": Classification}


def task_of(manifest: Manifest) -> Task:
    """Find the task that a manifest names; its schema admits no other."""
    return TASKS[manifest.task](manifest)
