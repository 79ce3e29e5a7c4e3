"""Interprets the outputs of a graph according to the task of its model.

A task names the outputs, checks their shapes and the golden answers, and reads one prediction from
them: the fields of the answer, and what is observed and recorded. A new task is one more class and
one more row in `task_of`.
"""

from collections.abc import Iterator, Sequence
from math import isfinite
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from contracts import bundle
from service.errors import BundleRefused, InvalidOutput
from service.inference.bundle import unpack

TOLERANCE = (
    1e-3  # of a golden probability; another CPU rounds differently, another model is far off
)


PERCENT = 100  # of a confidence


class Output(NamedTuple):
    """The outputs of the graph for B chips."""

    probabilities: npt.NDArray[np.float32]
    """(B, classes); of a map the share of the pixels of each class."""
    statistics: npt.NDArray[np.float32]
    """(B, bands, 5)."""
    labels: npt.NDArray[np.uint8] | None = None
    """(B, H, W), of a map."""
    confidence: npt.NDArray[np.uint8] | None = None
    """(B, H, W) percent, of a map."""

    def each(self) -> Iterator["Output"]:
        """The outputs of one chip after the other, each as a batch of one."""
        for i in range(len(self.probabilities)):
            one = slice(i, i + 1)
            labels = None if self.labels is None else self.labels[one]
            confidence = None if self.confidence is None else self.confidence[one]
            yield Output(self.probabilities[one], self.statistics[one], labels, confidence)


class Outcome(NamedTuple):
    """One prediction, read from the outputs."""

    best: int
    """Index of the class."""
    probability: float
    """Of that class; of a map the mean confidence of its pixels."""
    fields: dict[str, Any]
    """Fields of the answer, without those that every task has: the request's id and the model."""


class Task(Protocol):
    """Interface of a task."""

    outputs: tuple[str, ...]
    """Names of the graph's outputs, in the order that `output` takes them."""

    def output(self, arrays: Sequence[npt.NDArray[Any]]) -> Output:
        """Name the outputs of the graph."""

    def check_input(self, shape: Sequence[Any]) -> bool:
        """Whether the graph takes the chips of the manifest: `shape` is (bands, H, W)."""

    def check_shapes(self, output: Output, batch: int) -> None:
        """Raise BundleRefused for outputs of other shapes than the manifest promises."""

    def check_golden(self, number: int, output: Output) -> None:
        """Raise BundleRefused for an output that is not the golden answer of chip `number`."""

    def read(self, output: Output) -> Outcome:
        """Read the prediction of a batch of one. Raises InvalidOutput."""

    def golden_label(self, number: int) -> str:
        """Name the class of a golden answer."""


class Classification:
    """One class of several for a whole chip."""

    outputs: tuple[str, ...] = ("probabilities", "statistics")

    def __init__(self, manifest: bundle.Classification) -> None:
        """Read outputs as a manifest describes them."""
        self._manifest = manifest
        self._classes = manifest.classes

    def output(self, arrays: Sequence[npt.NDArray[Any]]) -> Output:
        """Take probabilities and statistics."""
        return Output(*arrays)

    def check_input(self, shape: Sequence[Any]) -> bool:
        """Take chips of one size."""
        return tuple(shape) == self._manifest.input.shape

    def check_shapes(self, output: Output, batch: int) -> None:
        """Compare with the manifest's classes, bands and statistics. Raises BundleRefused."""
        manifest = self._manifest
        wanted = [
            (batch, len(self._classes)),
            (batch, len(manifest.input.bands), len(manifest.statistics)),
        ]
        _compare_shapes(output[:2], wanted)

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

    def golden_label(self, number: int) -> str:
        """Name the likeliest class of a golden answer."""
        return self._classes[int(np.argmax(self._manifest.golden[number].probabilities))]


class Segmentation:
    """One class a pixel; the answer for a chip says how much of it each class covers."""

    outputs: tuple[str, ...] = ("labels", "confidence", "statistics")

    def __init__(self, manifest: bundle.Segmentation) -> None:
        """Read outputs as a manifest describes them."""
        self._manifest = manifest
        self._classes = manifest.classes

    def output(self, arrays: Sequence[npt.NDArray[Any]]) -> Output:
        """Take labels, confidence and statistics, and count the pixels of each class."""
        labels, confidence, statistics = arrays
        shares = np.stack([self._shares(chip) for chip in labels])
        return Output(shares, statistics, labels, confidence)

    def check_input(self, shape: Sequence[Any]) -> bool:
        """Take chips of any size: the names of free dimensions are texts."""
        bands, *size = shape
        return bands == len(self._manifest.input.bands) and all(
            isinstance(edge, str) for edge in size
        )

    def check_shapes(self, output: Output, batch: int) -> None:
        """Compare with the manifest's size, bands and statistics. Raises BundleRefused."""
        wanted = self._manifest.input
        maps = (batch, wanted.height, wanted.width)
        statistics = (batch, len(wanted.bands), len(self._manifest.statistics))
        arrays = (output.labels, output.confidence, output.statistics)
        _compare_shapes([a for a in arrays if a is not None], [maps, maps, statistics])

    def check_golden(self, number: int, output: Output) -> None:
        """Compare with the golden map. Raises BundleRefused."""
        golden = self._golden(number)
        assert output.labels is not None
        wrong = float((output.labels[0] != golden).mean())
        if wrong > TOLERANCE:
            raise BundleRefused(
                f"golden chip {number} gets another class in {wrong:.2%} of its pixels, at most "
                f"{TOLERANCE:.2%} is rounding: train it again, or serve it with the ONNX Runtime "
                "it was made with"
            )

    def read(self, output: Output) -> Outcome:
        """Name the largest class, with the shares of all. A chip has some data: see `decode`."""
        shares = output.probabilities[0]
        assert output.labels is not None and output.confidence is not None
        known = output.labels[0] != bundle.NODATA
        best, values = int(shares.argmax()), shares.tolist()
        confidence = float(output.confidence[0][known].mean()) / PERCENT if known.any() else 0.0
        fields = {
            "class": self._classes[best],
            "confidence": confidence,
            "shares": dict(zip(self._classes, values, strict=True)),
            "nodata": 1 - float(known.mean()),
        }
        return Outcome(best, confidence, fields)

    def golden_label(self, number: int) -> str:
        """Name the largest class of a golden map."""
        return self._classes[int(self._shares(self._golden(number)).argmax())]

    def _golden(self, number: int) -> npt.NDArray[np.uint8]:
        wanted = self._manifest.input
        size = (wanted.height, wanted.width)
        return unpack(self._manifest.golden[number].labels, "uint8", size)

    def _shares(self, labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Share of each class of the pixels with data, (classes,)."""
        counts = np.bincount(labels.ravel(), minlength=bundle.NODATA + 1)[: len(self._classes)]
        shares: npt.NDArray[np.float32] = (counts / max(1, counts.sum())).astype(np.float32)
        return shares


def _compare_shapes(arrays: Sequence[npt.NDArray[Any]], wanted: Sequence[tuple[int, ...]]) -> None:
    if (shapes := [tuple(array.shape) for array in arrays]) != list(wanted):
        raise BundleRefused(f"the graph answers in shapes {shapes}, the manifest says otherwise")


def task_of(manifest: bundle.Manifest) -> Task:
    """Find the task that a manifest names; its schema admits no other."""
    if isinstance(manifest, bundle.Segmentation):
        return Segmentation(manifest)
    return Classification(manifest)
