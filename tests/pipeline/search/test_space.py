"""search.yaml: what it can say, and a sentence for what it cannot."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ParameterError
from pipeline.params import read_params
from pipeline.search.space import parse_plan, read_plan
from tests.conftest import ROOT

RATE = {"float": [0.001, 0.1], "log": True}
BASE = read_params(ROOT / "params.yaml")


def refusal(**changes: Any) -> str:
    """What is said of a plan."""
    plan = {"space": {"train.learning_rate": RATE}, "budget": {"trials": 3}} | changes
    with pytest.raises(ParameterError) as refused:
        parse_plan(BASE, plan, "search.yaml")
    return str(refused.value)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({}, "space is empty: name a parameter"),
        ({"train.rate": RATE}, "space.train.rate is not a parameter that can be searched: use one"),
        ({"gate.min_recall": RATE}, "space.gate.min_recall is not a parameter that can be"),
        ({"train.seed": {"int": [1, 9]}}, "space.train.seed cannot be searched, the best of"),
        ({"model.width": {"float": [4, 12]}}, "model.width: 4.0 is not allowed, wanted a whole"),
        ({"model.width": {"int": [2, 12]}}, "model.width: 2 is not allowed, wanted at least 4"),
        (
            {"train.progressive": {"choice": [1, 0]}},
            "progressive: 1 is not allowed, wanted true or",
        ),
        (
            {"train.learning_rate": {"float": [0, 1], "log": True}},
            "log needs low > 0, and low is 0",
        ),
        ({"train.learning_rate": {"float": [1, 0.1]}}, "the range is [1.0, 0.1]: give [low, high]"),
        (
            {"train.learning_rate": {"float": ["a", 1]}},
            "learning_rate.float is 'a', wanted a number",
        ),
        ({"train.learning_rate": {"log": True}}, "give one of float: [low, high], int:"),
        ({"train.learning_rate": RATE | {"step": 0.01}}, "log and step exclude each other"),
        (
            {"train.zoom": {"float": [0, 0.5], "step": 0.2}},
            "step 0.2 does not lead from 0.0 to 0.5",
        ),
        ({"model.width": {"choice": [8]}}, "choice is [8]: give two or more different values"),
        (
            {"model.width": {"choice": [8, 9], "lgo": True}},
            "lgo is not known: remove it, or use one",
        ),
    ],
)
def test_a_space_that_cannot_be_names_field_value_and_cure(space: Any, said: str) -> None:
    assert said in refusal(space=space)


def conditional(**when: dict[str, Any]) -> dict[str, Any]:
    """A space of choices with conditions."""
    names = {"width": "model.width", "shift": "train.max_shift", "size": "train.batch_size"}
    values = {"width": [8, 16], "shift": [0, 4], "size": [32, 64]}
    return {
        names[key]: {"choice": values[key], "when": when.get(key, {})} for key in names
    }  # fmt: skip


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (
            conditional(width={"train.max_shift": 0}, shift={"model.width": 8}),
            "the conditions of model.width, train.max_shift wait for each other: remove one",
        ),
        (
            conditional(shift={"model.width": 8}, size={"train.max_shift": 4, "model.width": [16]}),
            "train.batch_size.when contradicts the condition of train.max_shift: both need "
            "model.width",
        ),
        (conditional(shift={"model.width": 9}), "name values of model.width, which are 8, 16"),
        (conditional(shift={"train.zoom": 9}), "train.zoom is not in the space: add it, or remove"),
    ],
)
def test_conditions_that_contradict_are_refused(space: Any, said: str) -> None:
    assert said in refusal(space=space)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"budget": {"trials": 0}}, "budget.trials is 0, wanted at least 1"),
        ({"budget": {"hours": 0}}, "budget.hours is 0, wanted more than 0"),
        ({"budget": {"target": 0.9}}, "budget: give at least one of trials, hours, gpu_minutes"),
        ({"budget": {"trails": 3}}, "budget.trails is not known: remove it, or use one of trials"),
        ({"sampler": "bayes"}, "sampler is 'bayes', wanted one of 'random', 'grid', 'tpe' or"),
        ({"sampler": "grid"}, "sampler grid: give space.train.learning_rate a step or choices"),
        ({"pruner": "never"}, "pruner is 'never', wanted one of 'none'"),
        ({"objective": "test"}, "objective is 'test', wanted one of 'quality' or 'loss'"),
        (
            {"sampler": "cma-es", "space": conditional()},
            "sampler cma-es moves along numbers, and space.model.width is a choice",
        ),
        (
            {"sampler": "grid", "space": {"train.batch_size": {"int": [2, 20_002]}}},
            "sampler grid: 20001 points, 10000 at most",
        ),
    ],
)
def test_a_plan_that_cannot_be_names_field_value_and_cure(changes: Any, said: str) -> None:
    assert said in refusal(**changes)


def test_a_file_that_is_missing_or_no_yaml_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"search\.yaml: No such file.*SEARCH=file"):
        read_plan(BASE, tmp_path / "search.yaml")
    (tmp_path / "search.yaml").write_text("space: [", encoding="utf-8")
    with pytest.raises(ParameterError, match="is not valid YAML"):
        read_plan(BASE, tmp_path / "search.yaml")


def test_the_shipped_file_holds_the_point_of_params_yaml() -> None:
    plan, space = read_plan(BASE, ROOT / "search.yaml")
    found = space.default()
    assert found is not None and found.keys() == plan.space.keys()
    assert space.params(found) == BASE


def test_a_grid_holds_each_point_once_and_conditions_apart() -> None:
    plan = {
        "space": conditional(shift={"model.width": 16}),
        "budget": {},
        "sampler": "grid",
    }
    _, space = parse_plan(BASE, plan, "search.yaml")
    points = [tuple(point.values()) for point in space.grid()]
    assert sorted(points) == [
        (8, 32), (8, 64), (16, 32, 0), (16, 32, 4), (16, 64, 0), (16, 64, 4),
    ]  # fmt: skip


def test_values_of_a_point_that_do_not_go_together_are_refused() -> None:
    _, space = parse_plan(BASE, {"space": conditional(), "budget": {"trials": 1}}, "search.yaml")
    with pytest.raises(ParameterError, match="wanted at least 4"):
        space.params({"model.width": 1})
