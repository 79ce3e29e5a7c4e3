"""Which point comes next, and which trial ends early: Optuna's samplers and pruners by one word."""

import warnings
from typing import Any

from optuna import Study, pruners, samplers
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from pipeline.search.space import Plan

RANDOM_FIRST = 10  # trials before TPE takes over
REDUCTION = 3  # of three trials one goes on (Li et al. 2020, ASHA)
MEDIAN_OF = 5  # trials that the median pruner waits for


class Seeded(BaseSampler):
    """Draws each trial from a seed of its own: the same history, the same next point.

    A sampler with one stream of numbers would begin it again in a search that is resumed, and
    propose the first points once more.
    """

    def __init__(self, word: str, seed: int) -> None:
        self._word, self._seed = word, seed
        self._inner = _sampler(word, seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Take the seed of this trial."""
        self._inner = _sampler(self._word, (self._seed * 100_003 + trial.number) % 2**32)
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The dimensions that are chosen together."""
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Choose these together."""
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        """Choose one by itself."""
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: Any, values: Any) -> None:
        """Let the algorithm keep what it needs in the history."""
        self._inner.after_trial(study, trial, state, values)


def _sampler(word: str, seed: int) -> BaseSampler:
    match word:
        case "tpe":
            # constant_liar: points that are under way count as bad, so that workers spread.
            with warnings.catch_warnings(action="ignore"):  # `group` may change with a version
                return samplers.TPESampler(
                    n_startup_trials=RANDOM_FIRST,
                    multivariate=True,
                    group=True,
                    constant_liar=True,
                    seed=seed,
                )
        case "cma-es":
            return samplers.CmaEsSampler(seed=seed)
        case _:  # the points of a grid stand in the history before it begins
            return samplers.RandomSampler(seed=seed)


def pruner_of(plan: Plan, epochs: int) -> BasePruner:
    """The pruner; none ends a trial within `grace` epochs.

    Args:
        epochs: most epochs of a trial.
    """
    match plan.pruner:
        case "median":
            return pruners.MedianPruner(n_startup_trials=MEDIAN_OF, n_warmup_steps=plan.grace)
        case "asha":
            return pruners.SuccessiveHalvingPruner(
                min_resource=plan.grace, reduction_factor=REDUCTION
            )
        case "hyperband":
            return pruners.HyperbandPruner(
                min_resource=min(plan.grace, epochs),
                max_resource=epochs,
                reduction_factor=REDUCTION,
            )
        case _:
            return pruners.NopPruner()
