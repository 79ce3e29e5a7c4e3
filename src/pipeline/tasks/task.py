"""The interface of a task: everything that depends on what the model predicts.

A task is a module with these functions; `pipeline.tasks.TASKS` lists them. Stages and commands call
a task and never ask which one it is. Only functions that train import torch, so that evaluate, the
gate and the report start without it.

In the shapes below N is a number of chips, B that of a batch.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.data.chip_table import Row
from pipeline.data.dataset import Dataset
from pipeline.data.prepared import Split
from pipeline.params import Evaluate, Gate
from pipeline.tasks.predictions import Prediction

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor, nn

Output = npt.NDArray[np.float32]
"""What the graph answers for N chips, (N, ...); of a classifier probabilities (N, classes)."""


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
    predictions: list[Prediction]


class Task(Protocol):
    """What each task has to say."""

    METRICS: tuple[Metric, ...]
    PICTURES: tuple[tuple[str, str], ...]
    """File name below reports/pictures/, without its suffix, and title; in the report's order."""

    def head(self, features: int, classes: int, dropout: float) -> "nn.Module":
        """Build the last layers: feature maps (B, features, h, w) -> logits."""

    def loss(self, logits: "Tensor", targets: "Tensor", smoothing: float = 0.0) -> "Tensor":
        """Mean loss of a batch; `smoothing` is the share of a target that goes to all classes."""

    def score(self, logits: "Tensor", targets: "Tensor") -> "Tensor":
        """Score each chip, (B,), 0..1: 1 is right. Their mean is the accuracy of an epoch."""

    def temperature(self, logits: Output, targets: npt.NDArray[np.int64]) -> float:
        """Find the number that divides the logits so that confidence equals accuracy."""

    def activate(self, logits: "Tensor") -> "Tensor":
        """Turn logits into what the graph answers."""

    def signals(self, output: Output) -> dict[str, npt.NDArray[np.float32]]:
        """Signals of drift in the answers: name -> value of each chip, (N,)."""

    def predicted_classes(self, output: Output) -> npt.NDArray[np.int64]:
        """Indices of the predicted classes, any number a chip, for their reference distribution."""

    def golden(self, output: Output, most: int) -> list[int]:
        """Choose up to `most` chips whose answers a server must reproduce: their indices."""

    def predictions(
        self, output: Output, rows: Sequence[Row], classes: Sequence[str]
    ) -> list[Prediction]:
        """Say for each chip what was predicted, as reports/predictions.csv has it."""

    def credit(self, predicted: str, label: str) -> float:
        """Value of a prediction for a chip of that label, 0..1; two models are compared by it."""

    def evaluate(
        self, output: Output, test: Split, dataset: Dataset, params: Evaluate
    ) -> Evaluation:
        """Measure a model by its answers for the test split."""

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
