"""The model under test with its test split, and how good it is there.

Quality is the measure by which the task compares two models: accuracy, mean IoU or AP50. A
disturbance is compared with the clean answers of the same chips by the task's own paired bootstrap,
a slice with the rest by a jackknife, so that chance fails no model.
"""

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from contracts.model_tests import ModelTestPoint as Point
from pipeline import paths, tasks
from pipeline.bundle.inference import BATCH, predict, session
from pipeline.bundle.manifest import read_bundle
from pipeline.data.dataset import at_a_time
from pipeline.data.prepared import Split, read_prepared
from pipeline.errors import BundleError
from pipeline.model_tests.disturb import Move, Rule
from pipeline.params import read_params
from pipeline.tasks.task import Output

GROUPS = 20  # of the jackknife (Shao & Tu 1995, delete-a-group): so many evaluations a slice


class Subject:
    """A bundle and the test split that it is tested on.

    Args:
        scratch: the tests of a run share the clean answers there.
        most: chips that are disturbed at most, evenly over the split.

    Raises:
        BundleError: the bundle cannot be used, or belongs to other data.
    """

    def __init__(self, scratch: Path, most: int) -> None:
        """Open both; nothing is predicted yet."""
        self.graph, self.manifest = read_bundle()
        prepared = read_prepared()
        self.dataset = prepared.dataset
        if (self.manifest.classes, self.manifest.input.bands) != (
            self.dataset.classes,
            self.dataset.bands,
        ):
            raise BundleError(
                f"{paths.MODEL}/ was trained on other classes or bands than {paths.CHIPS}/ holds: "
                f"run `dvc repro`"
            )
        self.task = tasks.of(self.manifest)
        self.split = prepared.split("test")
        self.params = read_params().evaluate
        count = len(self.split.rows)
        self.chosen = np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))
        self._scratch = scratch / f"{self.manifest.sha256}.npz"

    @cached_property
    def clean(self) -> dict[str, npt.NDArray[Any]]:
        """Answers for the test split as it is; the first test of a run computes them."""
        try:
            with np.load(self._scratch) as kept:
                return dict(kept)
        except FileNotFoundError:
            found = predict(session(self.graph, 1), self.split.chips, self.task.OUTPUTS)
        own = self._scratch.with_suffix(f".{os.getpid()}.npz")
        np.savez(own, allow_pickle=False, **found)
        own.replace(self._scratch)
        return found

    def part(self, which: npt.NDArray[Any]) -> tuple[dict[str, npt.NDArray[Any]], Split]:
        """Clean answers and labels of some chips, by index or mask."""
        rows = [self.split.rows[n] for n in np.arange(len(self.split.rows))[which]]
        split = Split(self.split.chips[which], self.split.labels[which], rows)
        return {name: of[which] for name, of in self.clean.items()}, split

    def disturbed(self, rule: Rule) -> dict[str, npt.NDArray[Any]]:
        """Answers for the chosen chips, changed; a batch of them is in memory at a time."""
        model, step = session(self.graph, 1), at_a_time(BATCH, self.dataset.size)
        parts = []
        for start in range(0, len(self.chosen), step):
            chips = np.asarray(self.split.chips[self.chosen[start : start + step]])
            parts.append(predict(model, rule(chips, start), self.task.OUTPUTS))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def drop(self, at: str, rule: Rule, move: Move) -> tuple[Point, str, dict[str, Any]]:
        """Quality of disturbed chips with the interval of what they lose; measure; predictions."""
        clean, split = self.part(self.chosen)
        output = move.back(self.disturbed(rule), self.dataset)
        before = self.predictions(*move.seen(clean, split, self.dataset))
        after = self.predictions(*move.seen(output, split, self.dataset))
        found = self.task.compare(before, after, self.params.bootstrap_samples)
        assert found is not None  # they are the same chips
        low, high = found.difference
        point = Point(at=at, value=found.challenger, low=-high, high=-low, chips=len(split.rows))
        return point, found.measure, after

    def predictions(self, output: Output, split: Split) -> dict[str, Any]:
        """What the task makes of answers, unit by unit."""
        return self.task.predictions(output, split, self.dataset, self.params)

    def quality(self, units: Mapping[str, Any]) -> tuple[float, str]:
        """The task's measure on some units, and its name; a model compared with itself."""
        found = self.task.compare(units, units, 1)
        return (found.champion, found.measure) if found else (0.0, "")

    def spread(self, units: Mapping[str, Any]) -> float:
        """Half of the 95 % interval of `quality`, by a jackknife over units."""
        names: Sequence[str] = sorted(units)
        groups = min(GROUPS, len(names))
        if groups < 2:
            return 1.0
        left_out = [set(names[group::groups]) for group in range(groups)]
        values = np.array(
            [self.quality({n: units[n] for n in names if n not in out})[0] for out in left_out]
        )
        variance = (groups - 1) / groups * ((values - values.mean()) ** 2).sum()
        return float(stdtrit(groups - 1, 0.975) * np.sqrt(variance))
