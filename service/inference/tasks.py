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
from contracts.masks import encode_rle, paste
from service.errors import BundleRefused, InvalidOutput
from service.inference.bundle import unpack

TOLERANCE = (
    1e-3  # of a golden probability; another CPU rounds differently, another model is far off
)


PERCENT = 100  # of a confidence
GOLDEN_PIXELS = 0.1  # of a golden box
GOLDEN_CELLS = 0.01  # of a golden mask, in the mean of its cells


class Output(NamedTuple):
    """The outputs of the graph for B chips."""

    probabilities: npt.NDArray[np.float32]
    """(B, classes); of a map the shares of the pixels by class, of boxes those of the objects."""
    statistics: npt.NDArray[np.float32]
    """(B, bands, 5)."""
    labels: npt.NDArray[np.integer] | None = None
    """(B, H, W) uint8, of a map; (B, K) classes of boxes, the surest first."""
    confidence: npt.NDArray[np.uint8] | None = None
    """(B, H, W) percent, of a map."""
    boxes: npt.NDArray[np.float32] | None = None
    """(B, K, 4): left, top, right, bottom, pixels."""
    scores: npt.NDArray[np.float32] | None = None
    """(B, K), of the boxes."""
    masks: npt.NDArray[np.uint8] | None = None
    """(B, K, n, n): cells of `frames`; 255 is surely inside."""
    frames: npt.NDArray[np.float32] | None = None
    """(B, K, 4): the boxes before they were cut off at the edges of the image."""
    sizes: npt.NDArray[np.int64] | None = None
    """(B, 2): height and width of the image, of masks."""

    def each(self) -> Iterator["Output"]:
        """The outputs of one chip after the other, each as a batch of one."""
        for i in range(len(self.probabilities)):
            one = {
                name: part[i : i + 1] for name, part in self._asdict().items() if part is not None
            }
            yield Output(**one)


class Outcome(NamedTuple):
    """One prediction, read from the outputs."""

    best: int
    """Index of the class."""
    probability: float
    """Of that class; of a map the mean confidence of its pixels, of boxes the highest score."""
    fields: dict[str, Any]
    """Fields of the answer, without those that every task has: the request's id and the model."""


class Task(Protocol):
    """Interface of a task."""

    outputs: tuple[str, ...]
    """Names of the graph's outputs, in the order that `output` takes them."""
    confirmable: bool
    """Whether the name of a class says if an answer is right. Otherwise its field `objects` does,
    which `/feedback` takes then."""

    def output(self, arrays: Sequence[npt.NDArray[Any]], size: tuple[int, int]) -> Output:
        """Name the outputs of the graph for images of a size, height and width."""

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
    confirmable = True

    def __init__(self, manifest: bundle.Classification) -> None:
        """Read outputs as a manifest describes them."""
        self._manifest = manifest
        self._classes = manifest.classes

    def output(self, arrays: Sequence[npt.NDArray[Any]], size: tuple[int, int]) -> Output:
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
    confirmable = True

    def __init__(self, manifest: bundle.Segmentation) -> None:
        """Read outputs as a manifest describes them."""
        self._manifest = manifest
        self._classes = manifest.classes

    def output(self, arrays: Sequence[npt.NDArray[Any]], size: tuple[int, int]) -> Output:
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


class Detection:
    """Objects in boxes: those whose score reaches the threshold of the bundle."""

    outputs: tuple[str, ...] = ("boxes", "scores", "labels", "statistics")
    confirmable = False

    def __init__(self, manifest: bundle.Objects) -> None:
        """Read outputs as a manifest describes them."""
        self._manifest = manifest
        self._classes = manifest.classes

    def output(self, arrays: Sequence[npt.NDArray[Any]], size: tuple[int, int]) -> Output:
        """Take boxes, scores, labels and statistics, and count the objects of each class."""
        boxes, scores, labels, statistics = arrays
        high, wide = size
        boxes = boxes.clip(0, np.array([wide, high, wide, high], np.float32))
        # What was found in the padding alone is nothing.
        scores = np.where((boxes[..., 2:] > boxes[..., :2]).all(axis=2), scores, np.float32(0))
        counts = np.stack(
            [
                np.bincount(names[sure], minlength=len(self._classes))
                for names, sure in zip(labels, scores >= self._manifest.threshold, strict=True)
            ]
        )
        shares = (counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)).astype(np.float32)
        return Output(shares, statistics, labels, None, boxes, scores)

    def check_input(self, shape: Sequence[Any]) -> bool:
        """Take images of any size: the names of free dimensions are texts."""
        bands, *size = shape
        return bands == len(self._manifest.input.bands) and all(
            isinstance(edge, str) for edge in size
        )

    def check_shapes(self, output: Output, batch: int) -> None:
        """Compare boxes, scores, labels and statistics with one another. Raises BundleRefused."""
        assert output.boxes is not None and output.scores is not None and output.labels is not None
        most = output.scores.shape[-1]
        bands = len(self._manifest.input.bands)
        wanted = [(batch, most, 4), (batch, most), (batch, most)]
        wanted.append((batch, bands, len(self._manifest.statistics)))
        _compare_shapes([output.boxes, output.scores, output.labels, output.statistics], wanted)

    def check_golden(self, number: int, output: Output) -> None:
        """Compare with the golden boxes. Raises BundleRefused."""
        golden = self._manifest.golden[number]
        assert output.boxes is not None and output.scores is not None and output.labels is not None
        boxes, scores, labels = output.boxes[0], output.scores[0], output.labels[0]
        missing = 0
        for box, score, label in zip(golden.boxes, golden.scores, golden.labels, strict=True):
            near = np.abs(boxes - np.array(box)).max(axis=1) <= GOLDEN_PIXELS
            same = near & (labels == label) & (np.abs(scores - score) <= TOLERANCE)
            missing += not same.any()
        surplus = int((scores >= self._manifest.threshold + TOLERANCE).sum()) - len(golden.boxes)
        if missing or surplus > 0:
            raise BundleRefused(
                f"golden chip {number}: {missing} of {len(golden.boxes)} boxes are missing, "
                f"{max(0, surplus)} are new: train it again, or serve it with the ONNX Runtime it "
                "was made with"
            )

    def read(self, output: Output) -> Outcome:
        """List the objects, the surest first.

        Raises:
            InvalidOutput: a box or a score is NaN or infinite.
        """
        assert output.boxes is not None and output.scores is not None and output.labels is not None
        boxes, scores, labels = output.boxes[0], output.scores[0], output.labels[0]
        if not (isfinite(float(boxes.sum())) and isfinite(float(scores.sum()))):
            raise InvalidOutput(
                "the model returned boxes or scores that are NaN or infinite for this image: serve "
                "another model, or train this one again"
            )
        sure = scores >= self._manifest.threshold
        found = zip(boxes[sure].tolist(), scores[sure].tolist(), labels[sure].tolist(), strict=True)
        objects = [
            {"class": self._classes[label], "score": score, "box": [round(at, 2) for at in box]}
            for box, score, label in found
        ]
        counts = dict.fromkeys(self._classes, 0)
        for item in objects:
            counts[item["class"]] += 1
        fields = {"objects": objects, "counts": counts, "threshold": self._manifest.threshold}
        return Outcome(int(labels[0]), float(scores[0]), fields)

    def golden_label(self, number: int) -> str:
        """Say how many objects a golden chip has."""
        count = len(self._manifest.golden[number].boxes)
        return f"{count} object" if count == 1 else f"{count} objects"


class Instances(Detection):
    """Objects in boxes, with a mask each."""

    outputs: tuple[str, ...] = ("boxes", "scores", "labels", "masks", "statistics")

    def __init__(self, manifest: bundle.Instances) -> None:
        """Read outputs as a manifest describes them."""
        super().__init__(manifest)
        self._golden = manifest.golden

    def output(self, arrays: Sequence[npt.NDArray[Any]], size: tuple[int, int]) -> Output:
        """Take masks beside what a detection has."""
        boxes, scores, labels, masks, statistics = arrays
        found = super().output((boxes, scores, labels, statistics), size)
        sizes = np.tile(np.array(size), (len(boxes), 1))
        return found._replace(masks=masks, frames=boxes, sizes=sizes)

    def check_shapes(self, output: Output, batch: int) -> None:
        """Compare the masks with the boxes, too. Raises BundleRefused."""
        super().check_shapes(output, batch)
        assert output.masks is not None and output.boxes is not None
        edge = output.masks.shape[-1]
        _compare_shapes([output.masks], [(*output.boxes.shape[:2], edge, edge)])

    def check_golden(self, number: int, output: Output) -> None:
        """Compare with the golden boxes and masks. Raises BundleRefused."""
        super().check_golden(number, output)
        golden = self._golden[number]
        assert output.masks is not None and output.boxes is not None and output.scores is not None
        edge = output.masks.shape[-1]
        cells = unpack(golden.masks, "uint8", (len(golden.boxes), edge, edge))
        for box, label, wanted in zip(golden.boxes, golden.labels, cells, strict=True):
            assert output.labels is not None
            near = np.abs(output.boxes[0] - np.array(box)).max(axis=1) <= GOLDEN_PIXELS
            apart = output.masks[0][near & (output.labels[0] == label)] - wanted.astype(np.float32)
            error = float(np.abs(apart).mean(axis=(1, 2)).min()) / 255
            if error > GOLDEN_CELLS:
                raise BundleRefused(
                    f"golden chip {number}: a mask is {error:.2g} off, at most {GOLDEN_CELLS:g} is "
                    "rounding: train it again, or serve it with the ONNX Runtime it was made with"
                )

    def read(self, output: Output) -> Outcome:
        """List the objects with their masks, the surest first. Raises InvalidOutput."""
        outcome = super().read(output)
        assert output.masks is not None and output.frames is not None
        assert output.sizes is not None and output.scores is not None
        high, wide = output.sizes[0].tolist()
        sure = np.flatnonzero(output.scores[0] >= self._manifest.threshold)
        for item, number in zip(outcome.fields["objects"], sure.tolist(), strict=True):
            frame = output.frames[0][number].tolist()
            pixels, top, left = paste(output.masks[0][number], frame, (high, wide))
            item["area"] = int(pixels.sum())
            counts = encode_rle(pixels, top, left, (high, wide))
            item["mask"] = {"size": [high, wide], "counts": counts}
        return outcome


def _compare_shapes(arrays: Sequence[npt.NDArray[Any]], wanted: Sequence[tuple[int, ...]]) -> None:
    if (shapes := [tuple(array.shape) for array in arrays]) != list(wanted):
        raise BundleRefused(f"the graph answers in shapes {shapes}, the manifest says otherwise")


def task_of(manifest: bundle.Manifest) -> Task:
    """Find the task that a manifest names; its schema admits no other."""
    if isinstance(manifest, bundle.Segmentation):
        return Segmentation(manifest)
    if isinstance(manifest, bundle.Detection):
        return Detection(manifest)
    if isinstance(manifest, bundle.Instances):
        return Instances(manifest)
    return Classification(manifest)
