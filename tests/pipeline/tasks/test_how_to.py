"""The page on how to add a task: its example trains, is measured, judged and compared."""

import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest

from pipeline import evaluate, gate, tasks, train
from pipeline.bundle.manifest import read_bundle
from pipeline.params import read_params
from pipeline.tasks.task import Task
from tests.conftest import ROOT, write_params

PAGE = ROOT / "docs" / "how-to-add-a-task.md"


def example() -> tuple[str, str]:
    """Code of the page: the module and its row in the table."""
    module, row = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL)
    return module, row


def test_the_third_task_of_the_page_goes_through_the_stages(
    chips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, row = example()
    assert row == 'TASKS["ordinal"] = ordinal\n'
    ordinal = ModuleType("pipeline.tasks.ordinal")
    exec(compile(code, str(PAGE), "exec"), ordinal.__dict__)
    monkeypatch.setitem(tasks.TASKS, "ordinal", cast(Task, ordinal))
    write_params({"model": {"task": "ordinal"}})
    train.main([])
    evaluate.main([])
    _, manifest = read_bundle()
    assert manifest.task == "classification", "it is served like a classifier"
    assert cast(Any, tasks.of(manifest)) is ordinal, "and measured like what it is"
    metrics = json.loads(Path("reports/metrics.json").read_text("utf-8"))
    assert 0 <= metrics["mean_distance_error"] <= 2
    classes = json.loads(Path("reports/classes.json").read_text("utf-8"))
    first, *_ = gate.judge(metrics, classes, read_params(), None, "")
    assert first.name == "mean distance"


def test_the_example_says_everything_that_a_task_has_to_say() -> None:
    code, _ = example()
    ordinal = ModuleType("pipeline.tasks.ordinal")
    exec(compile(code, str(PAGE), "exec"), ordinal.__dict__)
    wanted = {name for name in (*Task.__annotations__, *vars(Task)) if not name.startswith("_")}
    assert wanted and [name for name in wanted if not hasattr(ordinal, name)] == []
