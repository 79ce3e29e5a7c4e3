"""reports/search.json: what a search for parameters found and cost, and what became of the winner.

The room `pipeline.search` writes it, the report of a merge request reads it. It travels in Git, as
the documents of `contracts.reports` do.
"""

from pathlib import Path

from pydantic import Field

from contracts.reports import Moment, Part, Text

SEARCH = Path("reports/search.json")
TRIALS = Path("reports/search.csv")
CURVES = Path("reports/search/curves.png")
IMPORTANCE = Path("reports/search/importance.png")
Value = bool | int | float | Text


class Trial(Part):
    """One of the best trials."""

    number: int
    score: float
    """On the validation split."""
    epochs: int
    seconds: float
    params: dict[Text, Value]


class Winner(Part):
    """The best trial, trained again by `dvc repro`, against the parameters from before."""

    model: Text
    """SHA-256 of its bundle."""
    trial: int
    changed: dict[Text, tuple[Value, Value]]
    """Parameter -> value before, value now; empty when params.yaml was the best."""
    units: int = Field(ge=0)
    """Of the test split, shared by both models; 0 when they could not be compared."""
    unit: Text = ""
    measure: Text = ""
    before: float = 0.0
    now: float = 0.0
    low: float = 0.0
    """95 % interval of now minus before, a paired bootstrap on the test split."""
    high: float = 0.0


class Search(Part):
    """All of search.json."""

    name: Text
    written: Moment
    state: Text
    """running | paused | cancelled | succeeded | failed"""
    why: Text
    objective: Text
    """What is compared, on the validation split: accuracy, mean_iou, f1, or loss."""
    sampler: Text
    pruner: Text
    seed: int
    threads: int
    hardware: Text
    complete: int
    pruned: int
    failed: int
    interrupted: int
    """Trained again, and not counted against the budget."""
    epochs: int
    seconds: float
    """Of training, of all workers together."""
    gpu_seconds: float
    default: float | None
    """Score of the parameters from before."""
    best: tuple[Trial, ...]
    """The best first."""
    importance: dict[Text, float] = {}
    """Share of each parameter in the differences between scores (fANOVA, Hutter et al. 2014)."""
    winner: Winner | None = None
