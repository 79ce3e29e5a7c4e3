"""dvc.yaml tells the truth: every module that a stage uses is one of its dependencies."""

import ast
from pathlib import Path

import pytest
import yaml

from pipeline.params import Params
from tests.conftest import ROOT

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


def imported(path: Path) -> set[Path]:
    """Files of the pipeline and of the contracts that one file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        packages = ("pipeline", "contracts")
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith(packages):
            continue
        for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
            module = ROOT / "src" / Path(*str(name).split("."))
            for file in (module.with_suffix(".py"), module / "__init__.py"):
                if file.is_file() and _has_code(file):
                    found.add(file)
    return found


def _has_code(file: Path) -> bool:
    """More than the docstring of a package."""
    return len(ast.parse(file.read_text(encoding="utf-8")).body) > 1


def closure(path: Path) -> set[str]:
    """Files that a module uses, itself included, relative to the root."""
    seen: set[Path] = set()
    todo = {path}
    while todo:
        seen |= (here := todo)
        todo = set().union(*(imported(file) for file in here)) - seen
    return {file.relative_to(ROOT).as_posix() for file in seen}


@pytest.mark.parametrize("stage", STAGES)
def test_every_module_that_a_stage_uses_is_a_dependency_and_no_other(stage: str) -> None:
    declared = {ROOT / dep for dep in STAGES[stage]["deps"] if dep.startswith("src/")}
    files = {
        file for path in declared for file in (path.glob("**/*.py") if path.is_dir() else [path])
    }
    used = {
        file.relative_to(ROOT).as_posix() for file in files if file in declared or _has_code(file)
    }
    file = ROOT / "src" / "pipeline" / f"{stage}.py"
    assert used == closure(file if file.exists() else file.with_suffix("") / "__main__.py")


def test_a_stage_runs_the_file_of_its_name() -> None:
    commands = {stage: f"PYTHONPATH=src python -m pipeline.{stage}" for stage in STAGES}
    assert {stage: document["cmd"] for stage, document in STAGES.items()} == commands


def test_every_section_but_the_gates_is_used_by_a_stage() -> None:
    used = {section for stage in STAGES.values() for section in stage["params"]}
    assert used == set(Params.model_fields) - {"gate"}


def test_training_and_evaluation_change_only_with_what_they_use() -> None:
    assert "src/pipeline/ingest.py" not in STAGES["load"]["deps"]
    assert "src/pipeline/gate.py" not in STAGES["train"]["deps"]
    assert "src/pipeline/data/images.py" not in STAGES["train"]["deps"]
    assert "src/pipeline/training" not in STAGES["evaluate"]["deps"]  # it measures the ONNX file
