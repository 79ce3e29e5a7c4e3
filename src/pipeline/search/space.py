"""`search.yaml`: the space of parameters and the plan of a search, typed against `params.yaml`.

A dimension has a name of params.yaml (`train.learning_rate`) and one of

    float: [low, high]      with `log: true`, or with `step`
    int: [low, high]        the same
    choice: [a, b, c]

`when: {model.network: resnet-deep}` lets it take part only where another dimension has one of these
values; elsewhere the value of params.yaml holds. Values are checked by the models of params.yaml.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial
from pydantic import Field, ValidationError, model_validator

from contracts.documents import read_yaml
from contracts.faults import wanted
from pipeline.errors import ParameterError
from pipeline.params import Params, Section

SEARCH = Path("search.yaml")
SECTIONS = ("model", "train")
NOT_SEARCHED = {
    "model.name": "it names the model in the registry",
    "model.task": "it changes what is predicted",
    "train.seed": "the best of several seeds is luck",
    "train.device": "it changes no model",
    "train.processes": "it is about the machines",
    "train.nodes": "it is about the machines",
    "train.compile": "it changes no model",
    "train.quantize": "it acts after the training",
}
LARGEST_GRID = 10_000
DIGITS = 4  # of a float in params.yaml; more say nothing
Value = bool | int | float | str
Point = dict[str, Value]
"""Values of the dimensions that take part, by name."""


class Dimension(Section):
    """One entry of `space`."""

    floats: list[float] | None = Field(default=None, alias="float")
    ints: list[int] | None = Field(default=None, alias="int")
    choice: list[Value] | None = None
    log: bool = False
    step: float | None = Field(default=None, gt=0)
    when: dict[str, Value | list[Value]] = {}

    @model_validator(mode="after")
    def _is_one_range(self) -> "Dimension":
        if sum(given is not None for given in (self.floats, self.ints, self.choice)) != 1:
            raise ValueError("give one of float: [low, high], int: [low, high], choice: [...]")
        if self.choice is not None:
            if self.log or self.step:
                raise ValueError("a choice has neither log nor step: remove it")
            if len({(type(one), one) for one in self.choice}) < max(2, len(self.choice)):
                raise ValueError(f"choice is {self.choice}: give two or more different values")
            return self
        return self._is_a_range(self.floats or self.ints or [])

    def _is_a_range(self, ends: list[Any]) -> "Dimension":
        if len(ends) != 2 or not all(map(math.isfinite, ends)) or ends[0] >= ends[1]:
            raise ValueError(f"the range is {ends}: give [low, high] with low < high")
        if self.log and self.step:
            raise ValueError("log and step exclude each other: remove one")
        if self.log and ends[0] <= 0:
            raise ValueError(f"log needs low > 0, and low is {ends[0]}: raise it, or remove log")
        if self.step:
            steps = (ends[1] - ends[0]) / self.step
            if abs(steps - round(steps)) > 1e-6 or (self.ints and self.step % 1):
                raise ValueError(f"step {self.step:g} does not lead from {ends[0]} to {ends[1]}")
        return self

    def distribution(self) -> BaseDistribution:
        """The same for Optuna."""
        if self.choice is not None:
            return CategoricalDistribution(self.choice)
        if self.ints is not None:
            low, high = self.ints
            return IntDistribution(low, high, log=self.log, step=int(self.step or 1))
        assert self.floats is not None
        return FloatDistribution(
            float(self.floats[0]), float(self.floats[1]), log=self.log, step=self.step
        )

    def values(self) -> list[Value] | None:
        """All values; None where they are without number."""
        if self.choice is not None:
            return self.choice
        if self.ints is not None:
            return list(range(self.ints[0], self.ints[1] + 1, int(self.step or 1)))
        assert self.floats is not None
        if not self.step:
            return None
        low, high = self.floats
        return [low + self.step * i for i in range(round((high - low) / self.step) + 1)]

    def ends(self) -> list[Value]:
        """The values that show whether all are allowed."""
        return self.choice or [*map(float, self.floats or ()), *(self.ints or ())]

    def needs(self) -> dict[str, list[Value]]:
        """`when`, with lists only."""
        return {name: v if isinstance(v, list) else [v] for name, v in self.when.items()}


class Budget(Section):
    """The search ends when the first of these is reached."""

    trials: int | None = Field(default=None, ge=1)
    hours: float | None = Field(default=None, gt=0)
    """Of all workers together."""
    gpu_minutes: float | None = Field(default=None, gt=0)
    target: float | None = None
    patience: int | None = Field(default=None, ge=1)
    """Trials without a better one."""


class Plan(Section):
    """All of search.yaml."""

    space: dict[str, Dimension] = Field(min_length=1)
    objective: Literal["quality", "loss"] = "quality"
    budget: Budget
    sampler: Literal["random", "grid", "tpe", "cma-es"] = "tpe"
    pruner: Literal["none", "median", "asha", "hyperband"] = "asha"
    grace: int = Field(default=5, ge=1)
    seed: int = Field(default=42, ge=0)
    threads: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _ends(self) -> "Plan":
        limits = self.budget.model_dump(exclude={"target"}).values()
        if self.sampler != "grid" and not any(limits):
            raise ValueError("budget: give at least one of trials, hours, gpu_minutes, patience")
        return self


class Axis(NamedTuple):
    """A dimension, ready for use."""

    name: str
    distribution: BaseDistribution
    values: list[Value] | None
    needs: dict[str, list[Value]]


@dataclass(frozen=True)
class Space:
    """The dimensions; one comes after those that its conditions name."""

    axes: tuple[Axis, ...]
    base: Params

    def suggest(self, trial: Trial) -> Point:
        """Let the sampler choose a point."""
        point: Point = {}
        for axis in self.axes:
            if _takes_part(axis, point):
                point[axis.name] = _suggest(trial, axis)
        return point

    def default(self) -> Point | None:
        """The point of params.yaml; None where it lies outside of the space."""
        point: Point = {}
        for axis in self.axes:
            if _takes_part(axis, point):
                section, key = axis.name.split(".")
                value = getattr(getattr(self.base, section), key)
                if not _contains(axis, value):
                    return None
                point[axis.name] = value
        return point

    def grid(self) -> Iterator[Point]:
        """All points, each once."""
        seen = set()
        for values in product(*(axis.values or () for axis in self.axes)):
            point: Point = {}
            for axis, value in zip(self.axes, values, strict=True):
                if _takes_part(axis, point):
                    point[axis.name] = value
            if (key := tuple(point.items())) not in seen:
                seen.add(key)
                yield point

    def params(self, point: Mapping[str, Value]) -> Params:
        """params.yaml with the values of a point.

        Raises:
            ParameterError: they cannot be used together.
        """
        document = self.base.model_dump()
        for name, value in point.items():
            section, key = name.split(".")
            document[section][key] = value
        try:
            return Params.model_validate(document)
        except ValidationError as error:
            raise ParameterError(f"{point}: {wanted(error.errors()[0])}") from None


def _takes_part(axis: Axis, point: Point) -> bool:
    return all(point.get(name) in allowed for name, allowed in axis.needs.items())


def _contains(axis: Axis, value: Value) -> bool:
    if axis.values is not None:
        if isinstance(value, float):
            return any(math.isclose(float(one), value, abs_tol=1e-12) for one in axis.values)
        return value in axis.values
    assert isinstance(axis.distribution, FloatDistribution)
    return axis.distribution.low <= float(value) <= axis.distribution.high


def _suggest(trial: Trial, axis: Axis) -> Value:
    match axis.distribution:
        case FloatDistribution() as d:
            chosen = trial.suggest_float(axis.name, d.low, d.high, log=d.log, step=d.step)
            return float(f"{chosen:.{DIGITS}g}")
        case IntDistribution() as d:
            return trial.suggest_int(axis.name, d.low, d.high, log=d.log, step=d.step)
        case CategoricalDistribution() as d:
            word: Any = trial.suggest_categorical(axis.name, d.choices)
            return word  # type: ignore[no-any-return]
    raise AssertionError(axis)


def read_plan(base: Params, path: Path = SEARCH) -> tuple[Plan, Space]:
    """Read and check search.yaml.

    Raises:
        ParameterError: it is missing or no YAML, or asks for what cannot be; with field, value and
            cure.
    """
    try:
        document = read_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ParameterError(f"{path}: {error.strerror}: name another with SEARCH=file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path} is not valid YAML: {error}") from None
    return parse_plan(base, document, str(path))


def parse_plan(base: Params, document: Any, origin: str) -> tuple[Plan, Space]:
    """The same of a document that is read."""
    try:
        plan = Plan.model_validate(document)
        return plan, Space(_axes(plan, base), base)
    except ValidationError as error:
        sentences = [_sentence(dict(problem)) for problem in error.errors()]
        raise ParameterError(f"{origin}: " + "; ".join(dict.fromkeys(sentences))) from None
    except ParameterError as error:
        raise ParameterError(f"{origin}: {error}") from None


def _sentence(problem: dict[str, Any]) -> str:
    place = [str(part) for part in problem["loc"]]
    field = ".".join(place[:3]) or "the file"
    match problem["type"]:
        case "extra_forbidden":
            parts: dict[str, type[Section]] = {"space": Dimension, "budget": Budget}
            known = parts.get(place[0], Plan) if len(place) > 1 else Plan
            names = (one.alias or name for name, one in known.model_fields.items())
            return f"{field} is not known: remove it, or use one of {', '.join(names)}"
        case "missing":
            return f"{field} is missing: add it"
        case "too_short":
            return f"{field} is empty: name a parameter, as in train.learning_rate"
        case "value_error":
            return f"{field}: {wanted(problem)}"
        case _:
            return f"{field} is {problem['input']!r}, {wanted(problem)}"


def _axes(plan: Plan, base: Params) -> tuple[Axis, ...]:
    axes = {}
    for name, one in plan.space.items():
        _check_type(name, one, base)
        _check_conditions(name, one, plan.space)
        axes[name] = Axis(name, one.distribution(), one.values(), one.needs())
    ordered = _parents_first(axes)
    for axis in ordered:
        _needs_of_parents(axis, axes)
    _check_sampler(plan, axes)
    return ordered


def _check_type(name: str, one: Dimension, base: Params) -> None:
    """Let the model of params.yaml judge the ends of a range, and each choice."""
    if reason := NOT_SEARCHED.get(name):
        raise ParameterError(f"space.{name} cannot be searched, {reason}: remove it")
    section, _, key = name.partition(".")
    known = [
        f"{part}.{field}"
        for part in SECTIONS
        for field in getattr(base, part).__class__.model_fields
        if f"{part}.{field}" not in NOT_SEARCHED
    ]
    if name not in known:
        raise ParameterError(
            f"space.{name} is not a parameter that can be searched: use one of {', '.join(known)}"
        )
    model = getattr(base, section)
    for value in one.ends():
        try:
            type(model).model_validate(model.model_dump() | {key: value})
        except ValidationError as error:
            raise ParameterError(
                f"space.{name}: {value!r} is not allowed, {wanted(error.errors()[0])}: change it, "
                "or take another kind (float, int, choice)"
            ) from None


def _check_conditions(name: str, one: Dimension, space: Mapping[str, Dimension]) -> None:
    for other, allowed in one.needs().items():
        field = f"space.{name}.when.{other}"
        if other not in space:
            raise ParameterError(f"{field}: {other} is not in the space: add it, or remove this")
        values = space[other].values()
        if values is None:
            raise ParameterError(f"{field}: {other} is a range: a condition needs choice or int")
        if not allowed or any(value not in values for value in allowed):
            raise ParameterError(
                f"{field} is {allowed!r}: name values of {other}, which are "
                f"{', '.join(map(str, values[:20]))}"
            )


def _parents_first(axes: Mapping[str, Axis]) -> tuple[Axis, ...]:
    ordered: list[Axis] = []
    left = dict(axes)
    while left:
        ready = [axis for axis in left.values() if not axis.needs.keys() & left.keys()]
        if not ready:
            raise ParameterError(
                f"the conditions of {', '.join(sorted(left))} wait for each other: remove one"
            )
        ordered += ready
        for axis in ready:
            del left[axis.name]
    return tuple(ordered)


def _needs_of_parents(axis: Axis, axes: Mapping[str, Axis]) -> dict[str, set[Value]]:
    """All that must hold for an axis to take part, the conditions of its parents included."""
    needs = {name: set(allowed) for name, allowed in axis.needs.items()}
    for parent in axis.needs:
        for name, allowed in _needs_of_parents(axes[parent], axes).items():
            needs[name] = needs.get(name, allowed) & allowed
            if not needs[name]:
                raise ParameterError(
                    f"space.{axis.name}.when contradicts the condition of {parent}: both need "
                    f"{name}, with other values; {axis.name} would never take part"
                )
    return needs


def _check_sampler(plan: Plan, axes: Mapping[str, Axis]) -> None:
    if plan.sampler == "grid":
        for axis in axes.values():
            if axis.values is None:
                raise ParameterError(f"sampler grid: give space.{axis.name} a step or choices")
        size = math.prod(len(axis.values or ()) for axis in axes.values())
        if size > LARGEST_GRID:
            raise ParameterError(
                f"sampler grid: {size} points, {LARGEST_GRID} at most: take larger steps, or tpe"
            )
    if plan.sampler == "cma-es":
        for name, axis in axes.items():
            if axis.needs or isinstance(axis.distribution, CategoricalDistribution):
                raise ParameterError(
                    f"sampler cma-es moves along numbers, and space.{name} is a choice or has a "
                    "condition: use tpe"
                )
