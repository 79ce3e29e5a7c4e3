"""The interface of a task: everything that depends on what the model predicts.

A task is a module with these functions; `pipeline.tasks.TASKS` lists them. Stages and commands call
a task and never ask which one it is. Only functions that train import torch, so that evaluate, the
gate and the report start without it.

In the shapes below N is a number of chips, B that of a batch.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from contracts.bundle import Manifest
from pipeline import markdown as md
from pipeline.data.dataset import Dataset, Kind
from pipeline.data.prepared import Prepared, Split
from pipeline.params import Evaluate, Gate
from pipeline.tasks.comparison import Comparison

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor, nn

Output = Mapping[str, npt.NDArray[Any]]
"""What the graph answers for N chips, by the names of its outputs: each (N, ...)."""


class Metric(NamedTuple):
    """A row of the report's table of metrics."""

    key: str
    """In reports/metrics.json."""
    title: str
    form: str
    """Format of the value, for example `{:.2%}`."""


class Check(NamedTuple):
    """One floor of the gate, and whether the model holds it."""

    name: str
    passed: bool
    text: str
    """The number and the floor, in words."""


class Table(NamedTuple):
    """A CSV file for `dvc plots`."""

    head: Sequence[str]
    rows: Iterable[Sequence[object]]


class Evaluation(NamedTuple):
    """What the test split shows about a model."""

    metrics: dict[str, Any]
    """For reports/metrics.json."""
    classes: dict[str, dict[str, Any]]
    """Scores of every class, for reports/classes.json."""
    tables: dict[str, Table]
    """File name below reports/plots/, without its suffix -> table."""
    figures: dict[str, "Figure"]
    """File name below reports/pictures/, without its suffix -> picture."""
    predictions: Table
    """For reports/predictions.csv, from which two models can be compared at any revision."""


class Task(Protocol):
    """What each task has to say."""

    LABELS: Kind
    """How the data have to be labelled (`Dataset.labels`)."""
    STEP: int
    """Pixels from one answer of the network to the next; 0: one answer a chip."""
    OUTPUTS: tuple[str, ...]
    """Names of what the graph answers, beside `statistics`."""
    PARITY: float
    """Largest `difference` between torch and ONNX Runtime."""
    QUALITY: str
    """Name of `quality`, in the curves of training."""
    METRICS: tuple[Metric, ...]
    PICTURES: tuple[tuple[str, str], ...]
    """File name below reports/pictures/, without its suffix, and title; in the report's order."""

    # The network

    def head(self, features: int, classes: int, dropout: float) -> "nn.Module":
        """Build the last layers: feature maps (B, features, h, w) -> logits."""

    def class_weights(
        self, labels: npt.NDArray[Any], classes: int, power: float
    ) -> "Tensor | None":
        """Weight of each class in the loss, (classes,); None where all count the same.

        Args:
            labels: of the training split, as in `Split`.
            power: 0 is no weights, 1 in inverse proportion to the frequency.
        """

    def loss(
        self,
        logits: "Tensor",
        targets: "Tensor",
        smoothing: float = 0.0,
        weights: "Tensor | None" = None,
    ) -> "Tensor":
        """Mean loss of a batch, or of `samples`.

        Args:
            smoothing: share of the target that goes to all classes.
            weights: of the classes, (classes,).
        """

    def score(self, logits: "Tensor", targets: "Tensor") -> "Tensor":
        """Score each chip, (B,), 0..1: 1 is right. Their mean is the accuracy of an epoch.

        It may be a score of all these chips, repeated: validation gives them all at once.
        """

    def quality(self, logits: "Tensor", targets: "Tensor") -> float:
        """Say how good an epoch is by `samples` of the validation split; the largest is kept."""

    def samples(self, logits: "Tensor", targets: "Tensor", of: int) -> "tuple[Tensor, Tensor]":
        """Choose what validation and calibration look at: logits (n, classes), targets (n,).

        Args:
            of: number of chips of the split, of which this is a batch.
        """

    def temperature(self, logits: npt.NDArray[np.float32], targets: npt.NDArray[np.int64]) -> float:
        """Find the number that divides the logits of `samples`; confidence then is accuracy."""

    def answer(
        self, logits: "Tensor", numbers: "Tensor", nodata: int | None
    ) -> "tuple[Tensor, ...]":
        """Turn the logits of chips into `OUTPUTS`, each (B, ...), as part of the graph.

        Args:
            numbers: the chips, (B, bands, H, W) digital numbers.
            nodata: of a pixel without data, if there is such a value.
        """

    # The bundle

    def difference(self, ours: Output, theirs: Output) -> float:
        """How far two runs of one model on the same chips are apart, in the unit of `PARITY`."""

    def signals(self, output: Output) -> dict[str, npt.NDArray[np.float32]]:
        """Signals of drift in the answers: name -> value of each chip, (N,)."""

    def predicted_classes(self, output: Output) -> npt.NDArray[np.int64]:
        """Indices of the predicted classes, any number a chip, for their reference distribution."""

    def manifest(
        self,
        fields: dict[str, Any],
        output: Output,
        chips: Split,
        prepared: Prepared,
        net: "nn.Module",
    ) -> Manifest:
        """Complete the manifest, with answers that a server must reproduce.

        Args:
            fields: what every task has (`contracts.bundle.Bundle`).
            output: what the graph answers for `chips`.
            net: the trained network, float32, on the CPU: (B, bands, H, W) -> logits.
        """

    # Measures

    def evaluate(
        self,
        output: Output,
        test: Split,
        dataset: Dataset,
        params: Evaluate,
        manifest: Manifest,
    ) -> Evaluation:
        """Measure the model of a bundle by its answers for the test split."""

    def predictions(
        self, output: Output, test: Split, dataset: Dataset, params: Evaluate
    ) -> dict[str, Any]:
        """Say for each unit of the test split (a chip, a block) what was predicted."""

    def parse_predictions(self, text: str, origin: str) -> dict[str, Any]:
        """Read reports/predictions.csv back as `predictions` has it.

        Raises:
            DataError: it is not such a table; `origin` says where it came from.
        """

    def compare(
        self, champion: Mapping[str, Any], challenger: Mapping[str, Any], samples: int
    ) -> Comparison | None:
        """Compare two models by their `predictions`; None when they share no unit."""

    # The gate and the report

    def floors(self, metrics: dict[str, Any], classes: dict[str, Any], floors: Gate) -> list[Check]:
        """Compare the metrics with the floors of this task."""

    def headline(self, metrics: dict[str, Any]) -> str:
        """Say in one sentence, Markdown, how good the model is."""

    def sections(self, classes: dict[str, Any], before: dict[str, Any]) -> list[str]:
        """Sections of the report, Markdown, from reports/classes.json now and at the base."""


def at_least(name: str, value: float, floor: float) -> Check:
    """Check a value against a lower limit."""
    return Check(name, value >= floor, f"{value:.4g}, wanted at least {floor:g}")


def at_most(name: str, value: float, limit: float, unit: str = "") -> Check:
    """Check a value against an upper limit."""
    return Check(name, value <= limit, f"{value:.4g}{unit}, wanted at most {limit:g}{unit}")


def class_section(
    now: Mapping[str, Any], before: Mapping[str, Any], columns: Sequence[tuple[str, str, str]]
) -> str:
    """Write the report's section on the classes, the weakest first.

    Args:
        now: scores of every class, as in reports/classes.json.
        before: the same at the base of the merge request; a class may be missing.
        columns: title, key of the score and format. The first one sorts, and its change is shown.
    """
    (title, key, form), *others = columns
    rows = []
    for name, score in sorted(now.items(), key=lambda item: item[1][key]):
        old = before.get(name, {}).get(key)
        change = "-" if old is None else f"{score[key] - old:+{form}}"
        rest = (f"{score[of]:{how}}" for _, of, how in others)
        rows.append([md.code(name), f"{score[key]:{form}}", change, *rest])
    head = ["class", title, "change", *(title for title, _, _ in others)]
    return f"## Classes, the weakest first\n\n{md.table(head, rows)}"
